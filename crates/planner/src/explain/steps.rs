//! Descriptions of the steps of a stage: its operators, and the exchanges and sinks of its pipelines.
//!
//! Owns: one description per step, in the order in which the runtime counts them. Does not own: the counters.

use super::{intervals_in_words, output_text};
use crate::query::CompiledQuery;
use highwater_dataflow::Stage;
use highwater_protocol::ids::OperatorId;
use std::sync::Arc;

/// A step of a pipeline: an operator, or the pipeline's exchange or sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepText {
    /// As `explain` shows it.
    pub description: Arc<str>,
    /// The operator, if it keeps state.
    pub operator: Option<OperatorId>,
}

impl CompiledQuery {
    /// Returns the steps of a stage, by pipeline; the last of each pipeline is its exchange or sink.
    pub fn steps(&self, stage: &Stage) -> Vec<Vec<StepText>> {
        let pipelines = stage.pipelines.iter();
        pipelines
            .map(|pipeline| {
                let operator = |op: &highwater_dataflow::Op| StepText {
                    description: intervals_in_words(&op.describe()).into(),
                    operator: op.state().map(|state| state.operator),
                };
                let output = StepText { description: output_text(self, pipeline.output).into(), operator: None };
                pipeline.ops.iter().map(operator).chain([output]).collect()
            })
            .collect()
    }
}
