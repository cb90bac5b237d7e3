//! What several operators are told: watermarks, when rows are over, what a join gives.
//!
//! Owns: those shapes. Does not own: the operators (`operators`).

use super::{CloseKey, CloseKind};
use crate::error::{EngineError, Fault};
use crate::state::closes_at;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use highwater_protocol::ids::SourceId;

/// Stands for the clock of batches where a source's watermark is asked for.
pub const CLOCK: SourceId = SourceId(u32::MAX);

/// A source whose watermark an operator goes by. What joins hold back is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upstream {
    pub source: SourceId,
    pub delay_ms: i64,
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
        let times = close_times(close, rows.columns())?;
        Ok(times.unary(|time| closes_at(time.saturating_add(self.later_ms))))
    }
}

/// When each group closes, milliseconds; null where its key has no time.
pub fn close_times(close: CloseKey, keys: &[ArrayRef]) -> Result<Int64Array, EngineError> {
    let column = keys.get(close.group_index).ok_or(Fault::Lacks { what: "a group", lacks: "column that closes it" })?;
    let timestamps = match column.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => column.clone(),
        DataType::Timestamp(_, zone) => cast(column, &DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))?,
        other => return Err(Fault::Type { what: "what closes a group", found: other.clone() }.into()),
    };
    let millis = cast(&timestamps, &DataType::Int64)?;
    Ok(millis.as_primitive::<Int64Type>().unary::<_, Int64Type>(|value| close.kind.closes_at_ms(value)))
}
