//! Joins of two inputs.
//!
//! Owns: a join's plan. Does not own: running it (`run`), lookup joins (`lookup`), temporal joins (`temporal`).

mod run;

pub(crate) use run::insert_only;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::operator::{OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_schema};
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{Expiry, JoinOutput, Upstream};
use highwater_protocol::ids::OperatorId;
use run::Join;
use std::fmt::{self, Write};
use std::sync::Arc;

/// A join of two inputs.
#[derive(Clone, Debug)]
pub struct JoinSpec {
    pub sides: [JoinSide; 2],
    /// Whether NULLs in keys are equal (set operations); otherwise they match nothing.
    pub null_equal: bool,
    /// Condition on pairs besides equal keys, over `pair_schema`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of the left side, then of the right.
    pub pair_schema: SchemaRef,
    pub output: JoinOutput,
    pub output_schema: SchemaRef,
    /// Whether the output may retract rows.
    pub retracts: bool,
    /// Whether unmatched rows are emitted only when no later row can match them.
    pub on_close: bool,
    pub watermark: Vec<Upstream>,
}

/// One input of a join.
#[derive(Clone, Debug)]
pub struct JoinSide {
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// Number of the input's columns; computed key columns follow.
    pub width: usize,
    /// From when on no later row can match a row; `None` if rows never expire.
    pub expiry: Option<Expiry>,
}

impl JoinSpec {
    /// Returns for each side whether the number of matches of each of its rows is needed.
    pub fn counts(&self) -> [bool; 2] {
        let left = self.output.shows_unmatched(0) || self.output == JoinOutput::Semi;
        [left, self.output.shows_unmatched(1)]
    }

    /// Returns the SQL name of the join.
    pub fn name(&self) -> &'static str {
        match self.output {
            JoinOutput::Pairs { unmatched: [false, false] } if self.sides[0].key.is_empty() => "cross join",
            JoinOutput::Pairs { unmatched: [false, false] } => "inner join",
            JoinOutput::Pairs { unmatched: [true, false] } => "left join",
            JoinOutput::Pairs { unmatched: [false, true] } => "right join",
            JoinOutput::Pairs { unmatched: [true, true] } => "full join",
            JoinOutput::Semi => "semi join",
            JoinOutput::Anti => "anti join",
            JoinOutput::Mark => "mark join",
        }
    }

    /// Returns the join's condition and the time of emission as text.
    pub fn text(&self) -> String {
        let [left, right] = &self.sides;
        let equal = if self.null_equal { " IS NOT DISTINCT FROM " } else { " = " };
        let pairs = left.key.iter().zip(&right.key);
        let mut on: Vec<String> = pairs
            .map(|(l, r)| format!("{}{equal}{}", left.schema.field(*l).name(), right.schema.field(*r).name()))
            .collect();
        on.extend(self.filter.as_ref().map(|filter| filter.to_string()));
        let on = if on.is_empty() { "all pairs".to_string() } else { format!("on {}", on.join(" AND ")) };
        let when = if self.on_close { ", unmatched rows when their time is over" } else { "" };
        format!("{on}{when}")
    }
}

/// Joins its two inputs.
#[derive(Clone, Debug)]
pub struct JoinOperator {
    pub op: OperatorId,
    pub spec: Arc<JoinSpec>,
}

impl OperatorSpec for JoinOperator {
    fn describe(&self) -> String {
        format!("{} {}: {}", self.spec.name(), self.op, self.spec.text())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        let spec = &self.spec;
        writeln!(out, "{:?} {} {} {:?}", spec.output, spec.null_equal, spec.on_close, spec.watermark)?;
        if let Some(filter) = &spec.filter {
            writeln!(out, "{filter}")?;
        }
        for side in &spec.sides {
            writeln!(out, "{:?} {} {:?}", side.key, side.width, side.expiry)?;
            identify_schema(&side.schema, out)?;
        }
        identify_schema(&spec.output_schema, out)
    }

    fn state(&self) -> Option<StateSpec> {
        let keeps = match self.spec.counts().contains(&true) {
            true => "the rows of both sides, with how many match",
            false => "the rows of both sides",
        };
        Some(StateSpec { operator: self.op, kind: "join", version: 1, layout: Layout::Ordered, keeps })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        run::reader(self).map(Some)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        let expires = self.spec.sides.iter().any(|side| side.expiry.is_some());
        expires.then_some((self.op, self.spec.watermark.as_slice()))
    }

    fn drops_late(&self) -> bool {
        self.spec.sides.iter().any(|side| side.expiry.is_some())
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        let [left, right] = inputs else {
            return Err(Fault::Inputs { what: "a join", expected: 2, found: inputs.len() }.into());
        };
        expect_types("the left side of a join", left, &self.spec.sides[0].schema)?;
        expect_types("the right side of a join", right, &self.spec.sides[1].schema)?;
        Ok(self.spec.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        let watermark = self.watermark().map(|(_, upstream)| upstream);
        Ok(Running::stateful(self.op, watermark, context, Join::new(self.spec.clone())?))
    }
}
