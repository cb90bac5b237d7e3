//! What each operator is told: expressions, columns, and when its rows are final.
//!
//! Owns: the operators' specifications. Does not own: how they hang together (`dataflow`), building them (`plan`), running
//! them (`runtime`).

use super::{CloseKey, CloseKind, EmitMode};
use crate::error::EngineError;
use crate::lookup::Lookup;
pub use crate::runtime::LinearKind;
use crate::runtime::LookupTable;
use crate::state::closes_at;
use arrow::array::{Int64Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::WindowExpr;
use highwater_core::ids::SourceId;
use std::sync::{Arc, RwLock};

/// A GROUP BY: groups, functions, and the schemas of its two halves.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    /// Over the partial half's input.
    pub group: Vec<Arc<dyn PhysicalExpr>>,
    pub aggregates: Vec<Arc<AggregateFunctionExpr>>,
    /// FILTER clauses, one place per aggregate.
    pub filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// Group columns only.
    pub group_schema: SchemaRef,
    /// Group columns, then the state fields of every aggregate in order.
    pub partial_schema: SchemaRef,
    /// Group columns, then the aggregates' values.
    pub output_schema: SchemaRef,
    /// The group column by which windows close.
    pub close: Option<CloseKey>,
    /// Groups without such a time stay, as they never close; else their rows are in no window.
    pub keeps_untimed: bool,
    pub watermark: Vec<Upstream>,
}

/// Stands for the clock of batches where a source's watermark is asked for.
pub const CLOCK: SourceId = SourceId(u32::MAX);

/// A source whose watermark an operator goes by. What joins hold back is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upstream {
    pub source: SourceId,
    pub delay_ms: i64,
}

/// A GROUP BY in general form.
#[derive(Clone, Debug)]
pub struct GeneralSpec {
    /// Group columns, then arguments, orderings and FILTERs.
    pub input_schema: SchemaRef,
    pub group_width: usize,
    pub calls: Vec<CallSpec>,
    /// Group columns, then the functions' values.
    pub output_schema: SchemaRef,
    pub close: Option<CloseKey>,
    pub emit: EmitMode,
    /// The group of all rows, which is there without any: none of its columns, or all NULL and the grouping set's id.
    pub total: Option<Total>,
    pub watermark: Vec<Upstream>,
}

/// The group of all rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    pub key: Vec<ScalarValue>,
    /// It is there from the first batch on; else from its first row on.
    pub at_once: bool,
}

/// One function; columns are of the input schema.
#[derive(Clone, Debug)]
pub struct CallSpec {
    pub function: Arc<AggregateFunctionExpr>,
    pub arguments: Vec<usize>,
    pub order: Vec<(usize, SortOptions)>,
    /// A boolean column.
    pub filter: Option<usize>,
    pub distinct: bool,
    /// Computed from running values, of all rows or of distinct ones.
    pub linear: Option<LinearKind>,
    pub keeps: Keeps,
}

/// Which arguments a function keeps in state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    Nothing,
    /// All, to find the least when it goes.
    Least,
    /// All, to find the greatest.
    Greatest,
    /// All: the function is computed anew from them.
    All,
    /// All, each once, to know which are new.
    Distinct,
}

/// A join of two inputs.
#[derive(Clone, Debug)]
pub struct JoinSpec {
    pub sides: [JoinSide; 2],
    /// NULLs in keys are equal (set operations); else they match nothing.
    pub null_equal: bool,
    /// What pairs must pass besides equal keys; over `pair_schema`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of the left side, then of the right.
    pub pair_schema: SchemaRef,
    pub output: JoinOutput,
    pub output_schema: SchemaRef,
    /// What it gives may be taken back.
    pub retracts: bool,
    /// Unmatched rows are given only once nothing can match them any more.
    pub on_close: bool,
    pub watermark: Vec<Upstream>,
}

/// One input of a join.
#[derive(Clone, Debug)]
pub struct JoinSide {
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// The first so many columns are the input's; computed keys follow.
    pub width: usize,
    /// When a row can match nothing any more; `None` = never.
    pub expiry: Option<Expiry>,
}

/// What a join gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutput {
    /// Pairs that match; of the sides named also rows that match nothing, with NULLs.
    Pairs { unmatched: [bool; 2] },
    /// Left rows that match something.
    Semi,
    /// Left rows that match nothing.
    Anti,
    /// Left rows, and whether they match something.
    Mark,
}

impl JoinOutput {
    /// Rows of this side are given when they match nothing.
    pub fn shows_unmatched(self, side: usize) -> bool {
        match self {
            Self::Pairs { unmatched } => unmatched[side],
            Self::Anti | Self::Mark => side == 0,
            Self::Semi => false,
        }
    }
}

impl JoinSpec {
    /// Of which sides it must know how many rows match each of theirs.
    pub fn counts(&self) -> [bool; 2] {
        let left = self.output.shows_unmatched(0) || self.output == JoinOutput::Semi;
        [left, self.output.shows_unmatched(1)]
    }
}

/// When a row is over: the close time of a column, and so much later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    pub column: usize,
    pub kind: CloseKind,
    pub later_ms: i64,
}

impl Expiry {
    /// When each row is over, milliseconds; null: never.
    pub fn times(&self, rows: &RecordBatch) -> Result<Int64Array, EngineError> {
        let close = CloseKey { group_index: self.column, kind: self.kind };
        let times = crate::runtime::close_times(close, rows.columns())?;
        Ok(times.unary(|time| closes_at(time.saturating_add(self.later_ms))))
    }
}

/// Functions over partitions in order, or the first rows of each.
#[derive(Clone, Debug)]
pub struct OverSpec {
    pub input_schema: SchemaRef,
    pub partition: Vec<usize>,
    pub order: Vec<(usize, SortOptions)>,
    /// Over whole partitions, sorted by `order`; each adds a column.
    pub functions: Vec<Arc<dyn WindowExpr>>,
    /// Columns of the input that are passed on: the first so many.
    pub width: usize,
    pub output_schema: SchemaRef,
    /// Only so many ranks of each partition are looked at.
    pub limit: Option<RankLimit>,
    /// The input takes rows back.
    pub input_retracts: bool,
    pub expiry: Option<Expiry>,
    /// Partitions are given once, when their time is over.
    pub on_close: bool,
    pub watermark: Vec<Upstream>,
}

/// Sessions of partitions.
#[derive(Clone, Debug)]
pub struct SessionSpec {
    pub input_schema: SchemaRef,
    pub partition: Vec<usize>,
    /// The column of times, a timestamp.
    pub time: usize,
    pub gap_ms: i64,
    /// Columns of the input that are passed on: the first so many.
    pub width: usize,
    /// Those, then the session's times as one column.
    pub output_schema: SchemaRef,
    /// The watermark closes sessions.
    pub closes: bool,
    /// Rows are given once, when their session closes.
    pub on_close: bool,
    pub watermark: Vec<Upstream>,
}

/// Records by key, of which the last one counts.
#[derive(Clone, Debug)]
pub struct UpsertSpec {
    /// Columns kept, key columns that are not among them, and whether the record deletes its key.
    pub input_schema: SchemaRef,
    pub key: Vec<usize>,
    /// The first so many columns are kept.
    pub width: usize,
    pub output_schema: SchemaRef,
}

/// A join of rows with the versions of their time.
#[derive(Clone, Debug)]
pub struct TemporalSpec {
    pub rows: TimedSide,
    pub versions: VersionSide,
    /// Rows without a version are given, with NULLs (LEFT JOIN).
    pub keeps_unmatched: bool,
    /// The first input takes rows back.
    pub input_retracts: bool,
    /// What a row and its version must pass; over `pair_schema`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of the rows, then of the versions.
    pub pair_schema: SchemaRef,
    pub output_schema: SchemaRef,
    /// Rows wait until no version of their time can come any more; else they are given at once, and corrected.
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
    /// The first so many columns are the input's.
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

/// A join with the rows of a file.
#[derive(Debug)]
pub struct LookupSpec {
    pub lookup: Arc<Lookup>,
    /// Over the stream's rows.
    pub stream_key: Vec<Arc<dyn PhysicalExpr>>,
    /// Over the file's rows, of the same types.
    pub lookup_key: Vec<Arc<dyn PhysicalExpr>>,
    pub null_equal: bool,
    /// What pairs must pass besides equal keys; over `pair_schema`.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// The stream's columns come first.
    pub stream_first: bool,
    pub pair_schema: SchemaRef,
    pub output: JoinOutput,
    pub output_schema: SchemaRef,
    /// What has been read, by key.
    pub table: RwLock<Option<Arc<LookupTable>>>,
}

/// Lists told apart, several side by side; structs told apart.
#[derive(Clone, Debug)]
pub struct UnnestSpec {
    /// Columns of the output, in order: a column of the input and what becomes of it.
    pub columns: Vec<(usize, Unnested)>,
    /// A row whose lists are NULL stays, with NULL; and so does one whose lists are empty.
    pub keeps_null: bool,
    pub keeps_empty: bool,
    pub schema: SchemaRef,
}

/// What becomes of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unnested {
    /// Repeated for every element.
    Same,
    /// Its elements.
    Element,
    /// This field of the struct.
    Field(usize),
}

/// The first rows of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankLimit {
    pub rank: Rank,
    /// Ranks below or equal to this are kept.
    pub most: u64,
    /// Of those, so many are left out first (OFFSET); of `ROW_NUMBER` alone.
    pub skip: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    RowNumber,
    Rank,
    DenseRank,
}
