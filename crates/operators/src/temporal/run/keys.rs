//! State keys of rows and versions, and their times.
//!
//! Owns: the keys of state: `kind | length (u32) | key | time`, then a row, or a version's order and row. Times are
//! eight bytes whose order is that of the times, in the finer unit of both sides. Invariant: the rows of a key are
//! sorted by time, and so are its versions.

use crate::temporal::TimedSide;
use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use highwater_dataflow::close_times;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::state::NEVER;
use highwater_dataflow::{CloseKey, CloseKind};
use highwater_functions::windows::tumble::per_second;

pub const ROW: u8 = 0;
pub const VERSION: u8 = 1;

/// Close time of the last version that the watermark has passed: only a newer version ends it.
pub const FOR_GOOD: i64 = NEVER;

pub fn unit_of(side: &TimedSide) -> Result<TimeUnit, EngineError> {
    match side.schema.field(side.time).data_type() {
        DataType::Timestamp(unit, _) => Ok(*unit),
        other => Err(Fault::Type { what: "a time of a temporal join", found: other.clone() }.into()),
    }
}

/// Returns when each row is final, in milliseconds.
pub fn closes(side: &TimedSide, rows: &RecordBatch) -> Result<Int64Array, EngineError> {
    close_times(CloseKey { group_index: side.time, kind: CloseKind::EventTime }, rows.columns())
}

/// Returns the times of rows in this unit.
pub fn times(side: &TimedSide, rows: &RecordBatch, unit: TimeUnit) -> Result<Int64Array, EngineError> {
    let factor = per_second(unit) / per_second(unit_of(side)?);
    let times = arrow::compute::cast(rows.column(side.time), &DataType::Int64)?;
    Ok(times.as_primitive::<Int64Type>().unary(|time| time.saturating_mul(factor)))
}

/// Encodes a time as eight bytes whose order is that of the times.
pub fn encode_time(time: i64) -> [u8; 8] {
    (time.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

pub fn decode_time(suffix: &[u8]) -> Result<i64, EngineError> {
    let bytes = suffix.first_chunk::<8>().ok_or_else(cut_off)?;
    Ok((u64::from_be_bytes(*bytes) ^ (1 << 63)).cast_signed())
}

pub fn cut_off() -> EngineError {
    EngineError::CutOff("a temporal join's key")
}

/// Returns the prefix of the state keys of all rows or versions of a key.
pub fn prefix_of(kind: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + key.len());
    bytes.push(kind);
    bytes.extend_from_slice(&(key.len() as u32).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// Splits a state key into kind, key and the rest.
pub fn split_key(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), EngineError> {
    let split = || {
        let (kind, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (key, suffix) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        (suffix.len() >= 8).then_some((*kind, key, suffix))
    };
    split().ok_or_else(cut_off)
}

pub fn codec_of(side: &TimedSide) -> Result<Codec, EngineError> {
    Codec::new(side.key.iter().map(|column| side.schema.field(*column).data_type()))
}
