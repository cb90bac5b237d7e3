//! Joins of rows with the versions of their time (`FOR SYSTEM_TIME AS OF`).
//!
//! Owns: their plan. Does not own: running it (`run`).

mod run;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::operator::{OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_schema};
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{Upstream, words};
use highwater_protocol::ids::OperatorId;
use run::Temporal;
use std::fmt::{self, Write};
use std::sync::Arc;

/// A join of rows with the versions of their time.
#[derive(Clone, Debug)]
pub struct TemporalSpec {
    pub rows: TimedSide,
    pub versions: VersionSide,
    /// Rows without a version are emitted, with NULLs (LEFT JOIN).
    pub keeps_unmatched: bool,
    /// The first input takes rows back.
    pub input_retracts: bool,
    /// What a row and its version must pass; over `pair_schema`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of the rows, then of the versions.
    pub pair_schema: SchemaRef,
    pub output_schema: SchemaRef,
    /// Rows wait until no version of their time can come any more; else they are emitted at once, and corrected.
    pub on_close: bool,
    pub watermark: Vec<Upstream>,
}

/// Rows with a key and a time.
#[derive(Clone, Debug)]
pub struct TimedSide {
    /// The input's columns, then computed ones.
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// The column of times, a timestamp.
    pub time: usize,
    /// Number of the input's columns; computed ones follow them.
    pub width: usize,
}

/// The versions of keys.
#[derive(Clone, Debug)]
pub struct VersionSide {
    pub timed: TimedSide,
    /// Of versions of one time the first in this order counts.
    pub order: Vec<(usize, SortOptions)>,
    /// The column that says whether the record ends what is valid; of a time its last record counts then.
    pub deleted: Option<usize>,
    /// What a version must pass to be there, one after the other; over the first columns.
    pub conditions: Vec<Arc<dyn PhysicalExpr>>,
    /// What the join has of a version; over the first columns.
    pub columns: Vec<Arc<dyn PhysicalExpr>>,
}

impl TemporalSpec {
    /// Keys, times and conditions, and when rows go on.
    pub fn text(&self) -> String {
        let (rows, versions) = (&self.rows, &self.versions);
        let pairs = rows.key.iter().zip(&versions.timed.key);
        let on = pairs
            .map(|(l, r)| format!("{} = {}", rows.schema.field(*l).name(), versions.timed.schema.field(*r).name()));
        let on: Vec<String> = on.chain(self.filter.as_ref().map(|filter| filter.to_string())).collect();
        let of = |side: &TimedSide| side.schema.field(side.time).name().clone();
        let ties = match versions.order.is_empty() {
            true => String::new(),
            false => format!(", ties by {}", words::order(&versions.timed.schema, &versions.order)),
        };
        let conditions: Vec<String> = versions.conditions.iter().map(|condition| condition.to_string()).collect();
        let there = if conditions.is_empty() { String::new() } else { format!(" if {}", conditions.join(" and ")) };
        let kind = if self.keeps_unmatched { "left" } else { "inner" };
        let when = if self.on_close { "when the watermark has passed them" } else { "at once, with corrections" };
        format!(
            "{kind} on {}, the version of {} by {}{ties}{there}, gives rows {when}",
            on.join(" AND "),
            of(rows),
            of(&versions.timed)
        )
    }
}

/// Each row of its first input with the version of its time in the second.
#[derive(Clone, Debug)]
pub struct TemporalOperator {
    pub op: OperatorId,
    pub spec: Arc<TemporalSpec>,
}

impl OperatorSpec for TemporalOperator {
    fn describe(&self) -> String {
        format!("temporal join {}: {}", self.op, self.spec.text())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        let spec = &self.spec;
        writeln!(out, "{} {} {}", spec.input_retracts, spec.keeps_unmatched, spec.on_close)?;
        writeln!(out, "{:?} {:?}", spec.watermark, spec.versions.order)?;
        for condition in spec.versions.conditions.iter().chain(&spec.filter) {
            writeln!(out, "{condition}")?;
        }
        for side in [&spec.rows, &spec.versions.timed] {
            writeln!(out, "{:?} {} {}", side.key, side.time, side.width)?;
            identify_schema(&side.schema, out)?;
        }
        writeln!(out, "{:?}", spec.versions.deleted)?;
        for column in &spec.versions.columns {
            writeln!(out, "{column}")?;
        }
        identify_schema(&spec.output_schema, out)
    }

    fn state(&self) -> Option<StateSpec> {
        let keeps = "rows and versions the watermark has not passed, and the last version of each key";
        Some(StateSpec { operator: self.op, kind: "temporal join", version: 1, layout: Layout::Ordered, keeps })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        run::reader(self).map(Some)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        Some((self.op, &self.spec.watermark))
    }

    fn drops_late(&self) -> bool {
        true
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        let [rows, versions] = inputs else {
            return Err(Fault::Inputs { what: "a temporal join", expected: 2, found: inputs.len() }.into());
        };
        expect_types("the rows of a temporal join", rows, &self.spec.rows.schema)?;
        expect_types("the versions of a temporal join", versions, &self.spec.versions.timed.schema)?;
        Ok(self.spec.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        let watermark = self.watermark().map(|(_, upstream)| upstream);
        Ok(Running::stateful(self.op, watermark, context, Temporal::new(self.spec.clone())?))
    }
}
