//! State keys of sessions and their rows, and reading them.
//!
//! Owns: the keys of state. A session is `0 | length (u32) | partition | start`, a row `1 | length (u32) | partition |
//! time | row`; times are in units of the time column. Invariant: a partition's keys of one kind are sorted by time.

use super::merge::{Rows, Session};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, KeyRange, Scan, successor};
use highwater_protocol::ids::ShardId;
use std::ops::ControlFlow;

pub const SESSION: u8 = 0;
pub const ROW: u8 = 1;

/// A partition in state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub shard: ShardId,
    /// Length of the partition (`u32`), then the partition.
    pub prefix: Vec<u8>,
}

impl Place {
    pub fn of(shard: ShardId, partition: &[u8]) -> Self {
        let mut prefix = (partition.len() as u32).to_be_bytes().to_vec();
        prefix.extend_from_slice(partition);
        Self { shard, prefix }
    }

    /// Returns the partition of a state key.
    pub fn in_key(shard: ShardId, key: &[u8]) -> Result<Self, EngineError> {
        Ok(Self { shard, prefix: prefix_in(key)?.to_vec() })
    }

    /// Returns the prefix of the state keys of its sessions.
    pub fn sessions(&self) -> Vec<u8> {
        self.kind(SESSION)
    }

    fn kind(&self, kind: u8) -> Vec<u8> {
        [&[kind], self.prefix.as_slice()].concat()
    }

    pub fn session(&self, start: i64) -> Vec<u8> {
        [&self.kind(SESSION), sortable(start).as_slice()].concat()
    }

    pub fn row(&self, time: i64, row: &[u8]) -> Vec<u8> {
        [&self.kind(ROW), sortable(time).as_slice(), row].concat()
    }
}

/// Returns length and partition in a state key.
pub fn prefix_in(key: &[u8]) -> Result<&[u8], EngineError> {
    let length = key.get(1..).and_then(|rest| rest.first_chunk::<4>()).map(|l| u32::from_be_bytes(*l) as usize);
    length.and_then(|length| key.get(1..5 + length)).ok_or_else(cut_off)
}

/// Encodes a number as bytes whose order is that of the numbers.
fn sortable(number: i64) -> [u8; 8] {
    ((number as u64) ^ (1 << 63)).to_be_bytes()
}

pub fn cut_off() -> EngineError {
    EngineError::CutOff("a session's key")
}

pub fn number(bytes: &[u8]) -> Result<i64, EngineError> {
    let bytes = bytes.first_chunk::<8>().ok_or_else(cut_off)?;
    Ok((u64::from_be_bytes(*bytes) ^ (1 << 63)) as i64)
}

/// Returns the sessions of a portion of these partitions, from the first.
pub fn sessions<'a>(
    places: impl Iterator<Item = &'a Place>,
    state: &KeyedState<'_>,
) -> Result<Vec<Vec<Session>>, EngineError> {
    let prefixes: Vec<(ShardId, Vec<u8>)> = places.map(|place| (place.shard, place.sessions())).collect();
    let scans: Vec<Scan<'_>> = prefixes.iter().map(|(shard, prefix)| Scan::prefix(*shard, prefix)).collect();
    let mut found: Vec<Vec<Session>> = vec![Vec::new(); prefixes.len()];
    let complete = state.scan_portion(&scans, &mut |place, key, value| {
        let (start, kept) = (number(&key[prefixes[place].1.len()..])?, StoredRow::decode(value)?);
        found[place].push(Session { start, last: kept.weight, closed: kept.count == 1 });
        Ok(ControlFlow::Continue(()))
    })?;
    found.truncate(complete);
    Ok(found)
}

/// Returns the range of state keys of a partition's rows from one time to another, both included.
pub fn stay(place: &Place, (first, last): (i64, i64)) -> KeyRange {
    let end = match last.checked_add(1) {
        Some(next) => Some(place.row(next, &[])),
        None => successor(&place.kind(ROW)),
    };
    KeyRange { shard: place.shard, start: place.row(first, &[]), end }
}

/// Returns the rows of a portion of these ranges, from the first.
pub fn rows(stays: &[KeyRange], state: &KeyedState<'_>) -> Result<Vec<Rows>, EngineError> {
    let scans: Vec<Scan<'_>> = stays.iter().map(|stay| stay.scan(Direction::Forward)).collect();
    let mut found: Vec<Rows> = vec![Rows::new(); stays.len()];
    let complete = state.scan_portion(&scans, &mut |place, key, value| {
        let prefix = stays[place].start.len() - size_of::<i64>();
        let (time, row) = key[prefix..].split_at_checked(8).ok_or_else(cut_off)?;
        found[place].insert((number(time)?, row.to_vec()), StoredRow::decode(value)?.weight);
        Ok(ControlFlow::Continue(()))
    })?;
    found.truncate(complete);
    Ok(found)
}
