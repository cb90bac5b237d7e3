//! Temporal joins: rows joined with the version valid at their time (`FOR SYSTEM_TIME AS OF`).
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

/// A temporal join.
#[derive(Clone, Debug)]
pub struct TemporalSpec {
    pub rows: TimedSide,
    pub versions: VersionSide,
    /// Whether rows without a version are emitted, with NULLs (LEFT JOIN).
    pub keeps_unmatched: bool,
    /// Whether the first input retracts rows.
    pub input_retracts: bool,
    /// Condition on a row and its version, over `pair_schema`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of the rows, then of the versions.
    pub pair_schema: SchemaRef,
    pub output_schema: SchemaRef,
    /// Whether rows wait until no more versions for their time can arrive. Otherwise they are emitted at once and
    /// corrected.
    pub on_close: bool,
    pub watermark: Vec<Upstream>,
}

/// Rows with a key and a time.
#[derive(Clone, Debug)]
pub struct TimedSide {
    /// The input's columns, then computed columns.
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// The column of times, a timestamp.
    pub time: usize,
    /// Number of the input's columns.
    pub width: usize,
}

/// The second input: versions by key and time.
#[derive(Clone, Debug)]
pub struct VersionSide {
    pub timed: TimedSide,
    /// Among versions of the same time, the first in this order counts.
    pub order: Vec<(usize, SortOptions)>,
    /// The column that says whether the record is a deletion, which ends the version before it; `None` if there is
    /// none. If there is one, the last record of a time counts.
    pub deleted: Option<usize>,
    /// Conditions that a version must pass, evaluated one after another, over the input's columns. A version that fails
    /// one still ends the version before it.
    pub conditions: Vec<Arc<dyn PhysicalExpr>>,
    /// The columns of a version in the output, over the input's columns.
    pub columns: Vec<Arc<dyn PhysicalExpr>>,
}

impl TemporalSpec {
    /// Returns keys, times, conditions and the time of emission as text.
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

/// Joins each row of the first input with the version in the second input that is valid at its time.
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
