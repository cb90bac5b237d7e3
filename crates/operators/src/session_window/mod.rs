//! Session windows: rows of a key without a gap between them.
//!
//! Owns: their plan. Does not own: running it (`run`).

mod run;

use arrow::datatypes::SchemaRef;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{
    OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_schema, only,
};
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{Upstream, words};
use highwater_protocol::ids::OperatorId;
use run::Sessions;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Session windows per partition.
#[derive(Clone, Debug)]
pub struct SessionSpec {
    pub input_schema: SchemaRef,
    pub partition: Vec<usize>,
    /// The column of times, a timestamp.
    pub time: usize,
    pub gap_ms: i64,
    /// Number of the input's columns, from the first, that are emitted.
    pub width: usize,
    /// Those columns, then one column with the session's start and end.
    pub output_schema: SchemaRef,
    /// Whether the watermark closes sessions.
    pub closes: bool,
    /// Whether rows are emitted once, when their session closes.
    pub on_close: bool,
    pub watermark: Vec<Upstream>,
}

impl SessionSpec {
    /// Returns keys, gap and the time of emission as text.
    pub fn text(&self) -> String {
        let keys = match self.partition.is_empty() {
            true => String::new(),
            false => format!("of each {}, ", words::names(&self.input_schema, &self.partition)),
        };
        let time = self.input_schema.field(self.time).name();
        let when = if self.on_close { "when the session closes" } else { "every change" };
        format!("{keys}by {time} with a gap of {} ms, gives rows {when}", self.gap_ms)
    }
}

/// Adds to each row its session.
#[derive(Clone, Debug)]
pub struct SessionOperator {
    pub op: OperatorId,
    pub spec: Arc<SessionSpec>,
}

impl OperatorSpec for SessionOperator {
    fn describe(&self) -> String {
        format!("session {}: {}", self.op, self.spec.text())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        let spec = &self.spec;
        writeln!(out, "{:?} {} {} {}", spec.partition, spec.time, spec.gap_ms, spec.width)?;
        writeln!(out, "{} {} {:?}", spec.closes, spec.on_close, spec.watermark)?;
        identify_schema(&self.spec.input_schema, out)?;
        identify_schema(&self.spec.output_schema, out)
    }

    fn state(&self) -> Option<StateSpec> {
        Some(StateSpec {
            operator: self.op,
            kind: "session",
            version: 1,
            layout: Layout::Ordered,
            keeps: "sessions and their rows",
        })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        run::reader(self).map(Some)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        self.spec.closes.then_some((self.op, self.spec.watermark.as_slice()))
    }

    fn drops_late(&self) -> bool {
        self.spec.closes
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        expect_types("a session", only(inputs)?, &self.spec.input_schema)?;
        Ok(self.spec.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        let watermark = self.watermark().map(|(_, upstream)| upstream);
        Ok(Running::stateful(self.op, watermark, context, Sessions::new(self.spec.clone())?))
    }
}
