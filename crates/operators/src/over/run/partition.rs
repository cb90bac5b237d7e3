//! One partition's rows in order, and how many of them a limit wants.

use crate::over::{Rank, RankLimit};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, Scan, Stretch, Writes};
use highwater_protocol::ids::ShardId;
use std::ops::ControlFlow;

/// A distinct row of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// In state.
    pub key: Vec<u8>,
    pub order: Vec<u8>,
    pub row: Vec<u8>,
    pub weight: i64,
    pub close_ms: i64,
}

/// What all rows of a partition begin with in state.
pub fn prefix_of(key: &[u8]) -> Vec<u8> {
    let mut bytes = (key.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(key);
    bytes
}

/// The partition's prefix in a key of state.
pub fn prefix_in(bytes: &[u8]) -> Result<&[u8], EngineError> {
    let cut_off = || EngineError::CutOff("a partition's key");
    let length = bytes.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize).ok_or_else(cut_off)?;
    bytes.get(..4 + length).ok_or_else(cut_off)
}

/// The highest bit of a length: no partition is that long.
const DEADLINE: u8 = 1 << 7;

/// Where the partition of this prefix keeps when it expires.
pub fn deadline_key(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    if let Some(first) = key.first_mut() {
        *first |= DEADLINE;
    }
    key
}

/// The prefix of the partition whose deadline this key keeps.
pub fn of_deadline(key: &[u8]) -> Result<Vec<u8>, EngineError> {
    let mut prefix = key.to_vec();
    match prefix.first_mut() {
        Some(first) if *first & DEADLINE != 0 => *first &= !DEADLINE,
        _ => return Err(EngineError::CutOff("a partition's deadline")),
    }
    Ok(prefix)
}

/// When the first row of the partition closes; `None`: it has no row.
pub fn first_close(state: &KeyedState<'_>, shard: ShardId, prefix: &[u8]) -> Result<Option<i64>, EngineError> {
    let mut first = None;
    state.scan_prefix(shard, prefix, |_, value| {
        first = Some(StoredRow::decode(value)?.close_ms);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(first)
}

/// The partition has no row.
pub fn is_empty(state: &KeyedState<'_>, shard: ShardId, prefix: &[u8]) -> Result<bool, EngineError> {
    Ok(first_close(state, shard, prefix)?.is_none())
}

/// Counts ranks along a partition.
struct Counter {
    limit: Option<RankLimit>,
    rows: u64,
    orders: u64,
    last: Option<Vec<u8>>,
}

impl Counter {
    fn new(limit: Option<RankLimit>) -> Self {
        Self { limit, rows: 0, orders: 0, last: None }
    }

    /// Whether the next row, with this order, is within the limit; it counts then.
    fn take(&mut self, order: &[u8], weight: i64) -> bool {
        let Some(limit) = self.limit else { return true };
        let is_new = self.last.as_deref() != Some(order);
        let within = match limit.rank {
            Rank::RowNumber => self.rows < limit.most,
            Rank::Rank => !is_new || self.rows < limit.most,
            Rank::DenseRank => !is_new || self.orders < limit.most,
        };
        if within {
            self.rows += weight.max(0) as u64;
            self.orders += u64::from(is_new);
            if is_new {
                self.last = Some(order.to_vec());
            }
        }
        within
    }
}

/// The first rows of a partition, as many as the limit looks at.
pub fn scan(
    state: &KeyedState<'_>,
    shard: ShardId,
    prefix: &[u8],
    limit: Option<RankLimit>,
) -> Result<Vec<Entry>, EngineError> {
    let mut entries = Vec::new();
    let mut counter = Counter::new(limit);
    state.scan_prefix(shard, prefix, |key, value| {
        let entry = entry(key, value, prefix.len())?;
        if !counter.take(&entry.order, entry.weight) {
            return Ok(ControlFlow::Break(()));
        }
        entries.push(entry);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(entries)
}

pub fn entry(key: &[u8], value: &[u8], prefix: usize) -> Result<Entry, EngineError> {
    let kept = StoredRow::decode(value)?;
    let split = usize::try_from(kept.count).ok().map(|length| prefix + length).filter(|at| *at <= key.len());
    let split = split.ok_or_else(|| EngineError::CutOff("a kept row"))?;
    Ok(Entry {
        key: key.to_vec(),
        order: key[prefix..split].to_vec(),
        row: key[split..].to_vec(),
        weight: kept.weight,
        close_ms: kept.close_ms,
    })
}

/// Those of all rows that the limit looks at.
pub fn first(all: Vec<Entry>, limit: Option<RankLimit>) -> Vec<Entry> {
    let mut counter = Counter::new(limit);
    all.into_iter().take_while(|entry| counter.take(&entry.order, entry.weight)).collect()
}

/// Without copies of the last row beyond the limit, nor the rows an OFFSET leaves out.
pub fn limited(entries: Vec<Entry>, limit: Option<RankLimit>) -> Vec<Entry> {
    let Some(RankLimit { rank: Rank::RowNumber, most, skip }) = limit else { return entries };
    let mut seen = 0u64;
    let mut kept = Vec::with_capacity(entries.len());
    for mut entry in entries {
        let (start, end) = (seen, seen + entry.weight.max(0) as u64);
        seen = end;
        let within = end.min(most).saturating_sub(start.max(skip));
        if within > 0 {
            entry.weight = within as i64;
            kept.push(entry);
        }
    }
    kept
}

/// What the rows take that the limit looks at, each as often as it is there.
pub fn size_bytes(entries: &[Entry], limit: Option<RankLimit>) -> usize {
    let most = match limit {
        Some(RankLimit { rank: Rank::RowNumber, most, .. }) => most,
        _ => u64::MAX,
    };
    let times =
        |entry: &Entry| usize::try_from(u64::try_from(entry.weight).unwrap_or(0).min(most)).unwrap_or(usize::MAX);
    let of = |entry: &Entry| entry.key.len() + (entry.row.len() + size_of::<Vec<u8>>()).saturating_mul(times(entry));
    entries.iter().map(of).fold(0, usize::saturating_add)
}

/// Deletes the rows behind these.
pub fn prune(
    state: &KeyedState<'_>,
    shard: ShardId,
    prefix: &[u8],
    wanted: &[Entry],
    writes: &mut Writes,
) -> Result<(), EngineError> {
    let backward = Scan { shard, keys: Stretch::Prefix(prefix), direction: Direction::Backward };
    state.scan(&[backward], &mut |_, key, _| {
        if wanted.last().is_some_and(|last| key <= last.key.as_slice()) {
            return Ok(ControlFlow::Break(()));
        }
        writes.delete(shard, &[key]);
        Ok(ControlFlow::Continue(()))
    })
}
