//! Functions over ordered partitions (`OVER`), and the first rows of partitions: Top-N, deduplication, LIMIT.
//!
//! Owns: the operator's plan. Does not own: running it (`run`).

mod frame_sums;
mod run;
mod sums;

pub use frame_sums::FrameSum;
pub use sums::{Sum, SumKind};

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::window::WindowExpr;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{
    OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_ranked, identify_schema, only,
};
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{Expiry, Upstream, words};
use highwater_protocol::ids::OperatorId;
use run::Over;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Functions over ordered partitions, or the first rows of each.
#[derive(Clone, Debug)]
pub struct OverSpec {
    pub input_schema: SchemaRef,
    pub partition: Vec<usize>,
    pub order: Vec<(usize, SortOptions)>,
    /// Functions over whole partitions, sorted by `order`; each adds a column.
    pub functions: Vec<Arc<dyn WindowExpr>>,
    /// Number of the input's columns, from the first, that are emitted.
    pub width: usize,
    pub output_schema: SchemaRef,
    /// Columns of the output that are ranks of BIGINT.
    pub ranks: Vec<usize>,
    /// The ranks of each partition that are emitted; `None` for all.
    pub limit: Option<RankLimit>,
    /// Whether the input retracts rows.
    pub input_retracts: bool,
    pub expiry: Option<Expiry>,
    /// Whether partitions are emitted once, when they close.
    pub on_close: bool,
    pub watermark: Vec<Upstream>,
}

/// The first rows of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankLimit {
    pub rank: Rank,
    /// Highest rank that is emitted.
    pub most: u64,
    /// Number of first rows that are left out (OFFSET); with `ROW_NUMBER` only.
    pub skip: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    RowNumber,
    Rank,
    DenseRank,
}

impl OverSpec {
    /// Returns the usual name of this use of OVER.
    pub fn name(&self) -> &'static str {
        match self.limit {
            Some(RankLimit { rank: Rank::RowNumber, most: 1, .. }) => "deduplicate",
            Some(_) => "top-n",
            None => "over",
        }
    }

    /// Returns partitions, order and functions as text.
    pub fn text(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        if let Some(limit) = self.limit {
            let rank = match limit.rank {
                Rank::RowNumber => "rows",
                Rank::Rank => "ranks",
                Rank::DenseRank => "dense ranks",
            };
            let skip = if limit.skip > 0 { format!(" without the first {}", limit.skip) } else { String::new() };
            parts.push(format!("first {} {rank}{skip}", limit.most));
        }
        let functions: Vec<&str> = self.functions.iter().map(|function| function.name()).collect();
        if !functions.is_empty() && self.limit.is_none() {
            parts.push(functions.join(", "));
        }
        if !self.partition.is_empty() {
            parts.push(format!("of each {}", words::names(&self.input_schema, &self.partition)));
        }
        if !self.order.is_empty() {
            parts.push(format!("by {}", words::order(&self.input_schema, &self.order)));
        }
        parts.join(" ")
    }
}

/// Computes functions over ordered partitions, and applies a limit on ranks.
#[derive(Clone, Debug)]
pub struct OverOperator {
    pub op: OperatorId,
    pub spec: Arc<OverSpec>,
}

impl OperatorSpec for OverOperator {
    fn describe(&self) -> String {
        format!("{} {}: {}", self.spec.name(), self.op, self.spec.text())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        let spec = &self.spec;
        writeln!(out, "{:?} {:?} {:?} {:?}", spec.limit, spec.expiry, spec.on_close, spec.watermark)?;
        writeln!(out, "{:?} {:?} {} {}", spec.partition, spec.order, spec.width, spec.input_retracts)?;
        for function in &spec.functions {
            let arguments: Vec<String> = function.expressions().iter().map(|expr| expr.to_string()).collect();
            writeln!(out, "{} {} {:?}", function.name(), arguments.join(", "), function.get_window_frame())?;
        }
        identify_schema(&spec.input_schema, out)?;
        identify_ranked(&spec.output_schema, |column| spec.ranks.contains(&column), out)
    }

    fn state(&self) -> Option<StateSpec> {
        let keeps = match self.spec.limit.is_some() && !self.spec.input_retracts {
            true => "the first rows of partitions",
            false => "the rows of partitions",
        };
        Some(StateSpec { operator: self.op, kind: "over", version: 1, layout: Layout::Ordered, keeps })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        run::reader(self).map(Some)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        self.spec.expiry.map(|_| (self.op, self.spec.watermark.as_slice()))
    }

    fn drops_late(&self) -> bool {
        self.spec.expiry.is_some()
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        expect_types("OVER", only(inputs)?, &self.spec.input_schema)?;
        Ok(self.spec.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        let watermark = self.watermark().map(|(_, upstream)| upstream);
        Ok(Running::stateful(self.op, watermark, context, Over::new(self.spec.clone())?))
    }
}
