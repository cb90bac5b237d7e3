//! The rows of one partition in order, and applying a limit to them.

use crate::over::{Rank, RankLimit};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::stored_row::StoredRow;
use std::rc::Rc;

/// A distinct row of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The state key: the partition's prefix, order columns, row.
    pub key: Rc<[u8]>,
    /// Offset of the order columns in `key`.
    order: usize,
    /// Offset of the row in `key`.
    row: usize,
    pub weight: i64,
    pub close_ms: i64,
}

impl Entry {
    /// Makes an entry of a state key, whose prefix has the length `prefix`.
    pub fn new(key: &[u8], prefix: usize, kept: StoredRow) -> Result<Self, EngineError> {
        let row = usize::try_from(kept.count).ok().map(|length| prefix + length).filter(|at| *at <= key.len());
        let row = row.ok_or_else(|| EngineError::CutOff("a kept row"))?;
        Ok(Self { key: key.into(), order: prefix, row, weight: kept.weight, close_ms: kept.close_ms })
    }

    pub fn order(&self) -> &[u8] {
        &self.key[self.order..self.row]
    }

    pub fn row(&self) -> &[u8] {
        &self.key[self.row..]
    }

    /// Returns the value in state.
    pub fn stored(&self) -> StoredRow {
        StoredRow { close_ms: self.close_ms, weight: self.weight, count: (self.row - self.order) as i64 }
    }
}

/// Returns the prefix of the state keys of a partition's rows.
pub fn prefix_of(key: &[u8]) -> Vec<u8> {
    let mut bytes = (key.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(key);
    bytes
}

/// Returns the partition's prefix of a state key.
pub fn prefix_in(bytes: &[u8]) -> Result<&[u8], EngineError> {
    let cut_off = || EngineError::CutOff("a partition's key");
    let length = bytes.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize).ok_or_else(cut_off)?;
    bytes.get(..4 + length).ok_or_else(cut_off)
}

/// The highest bit of a length, which marks a deadline: no partition is that long.
const DEADLINE: u8 = 1 << 7;

/// Returns the state key of the deadline of the partition with this prefix.
pub fn deadline_key(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    if let Some(first) = key.first_mut() {
        *first |= DEADLINE;
    }
    key
}

/// Returns the prefix of the partition whose deadline has this state key.
pub fn of_deadline(key: &[u8]) -> Result<Vec<u8>, EngineError> {
    let mut prefix = key.to_vec();
    match prefix.first_mut() {
        Some(first) if *first & DEADLINE != 0 => *first &= !DEADLINE,
        _ => return Err(EngineError::CutOff("a partition's deadline")),
    }
    Ok(prefix)
}

/// The rows of a partition within a limit, taken in order.
#[derive(Debug)]
pub struct First {
    limit: Option<RankLimit>,
    pub entries: Vec<Entry>,
    rows: u64,
    orders: u64,
    /// Whether all further rows are behind the limit.
    pub is_full: bool,
}

impl First {
    pub fn new(limit: Option<RankLimit>) -> Self {
        Self { limit, entries: Vec::new(), rows: 0, orders: 0, is_full: false }
    }

    /// Takes the next row, unless it is behind the limit.
    pub fn take(&mut self, entry: &Entry) {
        if let Some(limit) = self.limit {
            let is_new = self.entries.last().is_none_or(|last| last.order() != entry.order());
            self.is_full |= match limit.rank {
                Rank::RowNumber => self.rows >= limit.most,
                Rank::Rank => is_new && self.rows >= limit.most,
                Rank::DenseRank => is_new && self.orders >= limit.most,
            };
            self.rows += entry.weight.max(0) as u64;
            self.orders += u64::from(is_new);
        }
        if !self.is_full {
            self.entries.push(entry.clone());
        }
    }
}

/// Returns the rows within the limit.
pub fn first(all: &[Entry], limit: Option<RankLimit>) -> Vec<Entry> {
    let mut first = First::new(limit);
    all.iter().for_each(|entry| first.take(entry));
    first.entries
}

/// Reduces the weights of rows to the copies within the limit and not skipped by an OFFSET.
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

/// Returns the size in bytes of these rows within the limit, each as often as its weight.
pub fn size_bytes(entries: &[Entry], limit: Option<RankLimit>) -> usize {
    let most = match limit {
        Some(RankLimit { rank: Rank::RowNumber, most, .. }) => most,
        _ => u64::MAX,
    };
    let times =
        |entry: &Entry| usize::try_from(u64::try_from(entry.weight).unwrap_or(0).min(most)).unwrap_or(usize::MAX);
    let of = |entry: &Entry| entry.key.len() + (entry.row().len() + size_of::<Vec<u8>>()).saturating_mul(times(entry));
    entries.iter().map(of).fold(0, usize::saturating_add)
}
