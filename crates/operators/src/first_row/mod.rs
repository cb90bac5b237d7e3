//! The first row of each key to arrive: append-only deduplication.
//!
//! Owns: the operator's plan. Does not own: running it (`run`), first rows in another order (`over`).

mod run;
mod view;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{
    OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_ranked, identify_schema, only,
};
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{Upstream, words};
use highwater_protocol::ids::OperatorId;
use run::FirstRow;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Deduplication of append-only input that keeps the first row of each key.
#[derive(Clone, Debug)]
pub struct FirstRowSpec {
    pub input_schema: SchemaRef,
    pub key: Vec<usize>,
    /// Decides which row of a batch is the first.
    pub order: Vec<(usize, SortOptions)>,
    /// Number of the input's columns, from the first, that are emitted.
    pub width: usize,
    /// Those columns, then columns of ranks, which are all 1.
    pub output_schema: SchemaRef,
}

impl FirstRowSpec {
    /// Returns key and order as text.
    pub fn text(&self) -> String {
        let of_each = match self.key.is_empty() {
            true => "of all".to_string(),
            false => format!("of each {}", words::names(&self.input_schema, &self.key)),
        };
        match self.order.is_empty() {
            true => of_each,
            false => format!("{of_each}, in a batch by {}", words::order(&self.input_schema, &self.order)),
        }
    }
}

/// Emits the first row of each key.
#[derive(Clone, Debug)]
pub struct FirstRowOperator {
    pub op: OperatorId,
    pub spec: Arc<FirstRowSpec>,
}

impl OperatorSpec for FirstRowOperator {
    fn describe(&self) -> String {
        format!("first row {}: {}", self.op, self.spec.text())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{:?} {:?} {}", self.spec.key, self.spec.order, self.spec.width)?;
        identify_schema(&self.spec.input_schema, out)?;
        identify_ranked(&self.spec.output_schema, |column| column >= self.spec.width, out)
    }

    fn state(&self) -> Option<StateSpec> {
        let keeps = "the keys that have come";
        Some(StateSpec { operator: self.op, kind: "first row", version: 1, layout: Layout::Hashed, keeps })
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
        expect_types("a first row", only(inputs)?, &self.spec.input_schema)?;
        Ok(self.spec.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        Ok(Running::stateful(self.op, None, context, FirstRow::new(self.spec.clone())?))
    }
}
