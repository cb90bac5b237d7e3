//! Parameters of several operators: watermarks, expiry of rows, output of joins.
//!
//! Owns: their types. Does not own: the operators (`operators`).

use super::{CloseKey, CloseKind};
use crate::error::{EngineError, Fault};
use crate::state::closes_at;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use highwater_protocol::ids::SourceId;

/// The batch clock, in the place of a source with a watermark.
pub const CLOCK: SourceId = SourceId(u32::MAX);

/// A source whose watermark an operator follows, `delay_ms` milliseconds behind it, since joins emit rows late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upstream {
    pub source: SourceId,
    pub delay_ms: i64,
}

/// The output of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutput {
    /// Pairs that match; also, of each side with `true`, rows that match nothing, with NULLs for the other side.
    Pairs { unmatched: [bool; 2] },
    /// Left rows that match something.
    Semi,
    /// Left rows that match nothing.
    Anti,
    /// Left rows with a column that is true if they match something.
    Mark,
}

impl JoinOutput {
    /// True if rows of this side are emitted when they match nothing.
    pub fn shows_unmatched(self, side: usize) -> bool {
        match self {
            Self::Pairs { unmatched } => unmatched[side],
            Self::Anti | Self::Mark => side == 0,
            Self::Semi => false,
        }
    }
}

/// When a row expires: at the close time of a column plus `later_ms` milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    pub column: usize,
    pub kind: CloseKind,
    pub later_ms: i64,
}

impl Expiry {
    /// Returns when each row expires, in milliseconds; NULL = never.
    pub fn times(&self, rows: &RecordBatch) -> Result<Int64Array, EngineError> {
        let close = CloseKey { group_index: self.column, kind: self.kind };
        let times = close_times(close, rows.columns())?;
        Ok(times.unary(|time| closes_at(time.saturating_add(self.later_ms))))
    }
}

/// Returns when each group closes, in milliseconds; NULL if its key has no time.
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
