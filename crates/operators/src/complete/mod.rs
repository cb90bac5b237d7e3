//! Emits the whole result in every batch (`output_mode = 'complete'`).
//!
//! Owns: the operator's plan. Does not own: running it (`run`).

mod run;
mod view;

use arrow::datatypes::SchemaRef;
use highwater_dataflow::Upstream;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{
    OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_schema, only,
};
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_protocol::ids::OperatorId;
use run::CompleteResult;
use std::fmt::{self, Write};

/// Emits the whole result in every batch.
#[derive(Clone, Debug)]
pub struct CompleteSpec {
    pub op: OperatorId,
    pub schema: SchemaRef,
}

impl OperatorSpec for CompleteSpec {
    fn describe(&self) -> String {
        format!("complete result {}: all rows at every batch", self.op)
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        identify_schema(&self.schema, out)
    }

    fn state(&self) -> Option<StateSpec> {
        Some(StateSpec {
            operator: self.op,
            kind: "complete result",
            version: 1,
            layout: Layout::Ordered,
            keeps: "all rows of the result",
        })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        view::reader(self).map(Some)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        None
    }

    fn drops_late(&self) -> bool {
        false
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        let input = only(inputs)?;
        expect_types("a complete result", input, &self.schema)?;
        Ok(input.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        Ok(Running::stateful(self.op, None, context, CompleteResult::new(&self.schema)?))
    }
}
