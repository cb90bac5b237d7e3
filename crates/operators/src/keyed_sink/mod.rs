//! The changelog of a sink with a PRIMARY KEY: at most one change per key and batch.
//!
//! Owns: the operator's plan. Does not own: running it (`run`).

mod run;
mod view;

use arrow::datatypes::SchemaRef;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{
    OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_schema, only,
};
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{CloseKey, Upstream, words};
use highwater_protocol::ids::OperatorId;
use highwater_protocol::options::OnKeyConflict;
use run::KeyedSink;
use std::fmt::{self, Write};

/// Emits at most one change per key and batch. Unless the plan proves keys `unique`, the live rows of each key are
/// state; while a key has several, the sink shows the greatest, or the query stops.
#[derive(Clone, Debug)]
pub struct KeyedSinkSpec {
    pub op: OperatorId,
    pub key: Vec<usize>,
    pub unique: bool,
    /// The key column by which keys are evicted from state; `None` if they are not.
    pub close: Option<CloseKey>,
    pub watermark: Vec<Upstream>,
    pub schema: SchemaRef,
    /// Whether rows of the input may be retracted.
    pub retracts: bool,
    pub on_conflict: OnKeyConflict,
}

impl OperatorSpec for KeyedSinkSpec {
    fn describe(&self) -> String {
        let how = match (self.unique, self.on_conflict) {
            (true, _) => "keys are unique",
            (false, OnKeyConflict::Warn) => "keeps the rows of each key, shows the greatest",
            (false, OnKeyConflict::Fail) => "keeps the row of each key, stops at a second one",
        };
        format!("keyed sink {}: by {}, {how}", self.op, words::names(&self.schema, &self.key))
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{:?} {} {:?} {:?}", self.key, self.unique, self.close, self.watermark)?;
        // Plans of the default have the text of builds that knew nothing else.
        if !self.unique && self.on_conflict != OnKeyConflict::default() {
            writeln!(out, "{:?}", self.on_conflict)?;
        }
        identify_schema(&self.schema, out)
    }

    fn state(&self) -> Option<StateSpec> {
        let state = StateSpec {
            operator: self.op,
            kind: "keyed sink",
            version: 1,
            layout: Layout::Hashed,
            keeps: "the live rows of each key",
        };
        (!self.unique).then_some(state)
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        (!self.unique).then(|| view::reader(self)).transpose()
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        self.close.map(|_| (self.op, self.watermark.as_slice()))
    }

    fn drops_late(&self) -> bool {
        false
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        let input = only(inputs)?;
        expect_types("a keyed sink", input, &self.schema)?;
        Ok(input.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        let watermark = self.close.map(|_| self.watermark.as_slice());
        Ok(Running::stateful(self.op, watermark, context, KeyedSink::new(self, context.sink)?))
    }
}
