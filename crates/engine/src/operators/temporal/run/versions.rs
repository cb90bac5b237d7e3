//! The versions of a key in order of their times.
//!
//! Owns: changing them, finding the one of a time, evicting those that no row can need any more.
//! Invariant: of a deletion no row is kept, but its time is.

use super::{FOR_GOOD, VERSION, closes, codec_of, cut_off, encode_time, prefix_of, times};
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::operators::temporal::VersionSide;
use crate::runtime::keys::{Codec, normalize};
use crate::runtime::stored_row::{StoredRow, never_inserted};
use crate::state::{Direction, Stretch, TaskState, successor};
use arrow::array::{ArrayRef, AsArray};
use arrow::compute::SortOptions;
use arrow::datatypes::TimeUnit;
use highwater_protocol::ids::{OperatorId, ShardId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// The count of a version that is a deletion.
const DELETION: i64 = -1;

/// What a batch does to the versions of a key, by time, order and row.
pub type KeyChanges = BTreeMap<Vec<u8>, Change>;

/// One change.
pub enum Change {
    /// The only version of its time now; `None`: a deletion.
    Set { row: Option<Vec<u8>>, close_ms: i64 },
    /// So often more, or less.
    Add { weight: i64, order_length: i64, close_ms: i64 },
}

/// Encodes versions.
pub struct VersionCodec {
    keys: Codec,
    rows: Codec,
    /// The first in the order is the greatest here, as the last time is.
    order: Codec,
    unit: TimeUnit,
}

impl VersionCodec {
    pub fn new(side: &VersionSide, unit: TimeUnit) -> Result<Self, EngineError> {
        let data_type = |column: usize| side.timed.schema.field(column).data_type().clone();
        let reversed =
            |options: &SortOptions| SortOptions { descending: !options.descending, nulls_first: !options.nulls_first };
        let width = side.timed.schema.fields().iter().take(side.timed.width);
        Ok(Self {
            keys: codec_of(&side.timed)?,
            rows: Codec::new(width.map(|field| field.data_type()))?,
            order: Codec::sorted(side.order.iter().map(|(column, options)| (data_type(*column), reversed(options))))?,
            unit,
        })
    }

    pub fn rows(&self) -> &Codec {
        &self.rows
    }

    /// What these records change, by key. All have a time and a key.
    pub fn changes(
        &self,
        side: &VersionSide,
        input: &[ChangeBatch],
    ) -> Result<BTreeMap<Vec<u8>, KeyChanges>, EngineError> {
        let mut changes: BTreeMap<Vec<u8>, KeyChanges> = BTreeMap::new();
        for records in input {
            self.add(side, records, &mut changes)?;
        }
        Ok(changes)
    }

    fn add(
        &self,
        side: &VersionSide,
        records: &ChangeBatch,
        changes: &mut BTreeMap<Vec<u8>, KeyChanges>,
    ) -> Result<(), EngineError> {
        let (columns, count) = (records.batch.columns(), records.num_rows());
        let of =
            |places: &mut dyn Iterator<Item = usize>| places.map(|c| columns[c].clone()).collect::<Vec<ArrayRef>>();
        let keys = of(&mut side.timed.key.iter().copied()).into_iter().map(normalize).collect::<Vec<_>>();
        let keys = self.keys.encode(&keys, count)?;
        let orders = self.order.encode(&of(&mut side.order.iter().map(|(column, _)| *column)), count)?;
        let rows = self.rows.encode(&columns[..side.timed.width], count)?;
        let times = times(&side.timed, &records.batch, self.unit)?;
        let closes = closes(&side.timed, &records.batch)?;
        let deleted = side.deleted.map(|column| columns[column].as_boolean());
        for record in 0..count {
            let of_key = changes.entry(keys.row(record).to_vec()).or_default();
            let (time, close_ms) = (encode_time(times.value(record)), closes.value(record));
            if let Some(deleted) = deleted {
                let row = (!deleted.value(record)).then(|| rows.row(record).to_vec());
                of_key.insert(time.to_vec(), Change::Set { row, close_ms });
                continue;
            }
            let order = orders.row(record);
            let suffix = [&time, order, rows.row(record)].concat();
            let none = || Change::Add { weight: 0, order_length: order.len() as i64, close_ms };
            if let Change::Add { weight, .. } = of_key.entry(suffix).or_insert_with(none) {
                *weight += records.weight(record);
            }
        }
        Ok(())
    }
}

/// Makes the changes.
pub fn apply(
    operator: OperatorId,
    state: &mut TaskState,
    shard: ShardId,
    key: &[u8],
    changes: &KeyChanges,
) -> Result<(), EngineError> {
    let prefix = prefix_of(VERSION, key);
    for (suffix, change) in changes {
        let of_time = [prefix.as_slice(), suffix].concat();
        match change {
            Change::Set { row, close_ms } => {
                let full = [of_time.as_slice(), row.as_deref().unwrap_or_default()].concat();
                let mut others: Vec<Vec<u8>> = Vec::new();
                state.walk(operator, shard, &of_time, Direction::Forward, &mut |key, _| {
                    if key != full.as_slice() {
                        others.push(key.to_vec());
                    }
                    ControlFlow::Continue(())
                });
                others.iter().for_each(|other| state.put(operator, shard, other, None));
                let count = if row.is_some() { 0 } else { DELETION };
                let kept = StoredRow { close_ms: *close_ms, weight: 1, count };
                let mut old = Vec::new();
                let is_there = state.read(operator, shard, &full, &mut old);
                if !is_there || StoredRow::decode(&old)? != kept {
                    state.put(operator, shard, &full, Some(kept.encode()));
                }
            }
            Change::Add { weight: 0, .. } => {}
            Change::Add { weight, order_length, close_ms } => {
                let mut old = Vec::new();
                let is_there = state.read(operator, shard, &of_time, &mut old);
                let weight = weight + if is_there { StoredRow::decode(&old)?.weight } else { 0 };
                if weight < 0 {
                    return Err(never_inserted("temporal join"));
                }
                let kept = StoredRow { close_ms: *close_ms, weight, count: *order_length };
                state.put(operator, shard, &of_time, (weight > 0).then(|| kept.encode()));
            }
        }
    }
    Ok(())
}

/// The row that is valid at a time.
pub fn version_at(
    operator: OperatorId,
    state: &TaskState,
    shard: ShardId,
    key: &[u8],
    time: i64,
) -> Result<Option<Vec<u8>>, EngineError> {
    let prefix = prefix_of(VERSION, key);
    let end = match time.checked_add(1) {
        Some(next) => Some([prefix.as_slice(), &encode_time(next)].concat()),
        None => successor(&prefix),
    };
    let stretch = Stretch { start: &prefix, end: end.as_deref() };
    let mut found = Ok(None);
    state.walk_stretch(operator, shard, stretch, Direction::Backward, &mut |key, value| {
        found = row_of(&key[prefix.len()..], value);
        ControlFlow::Break(())
    });
    found
}

/// The row of a version; `None`: it is a deletion.
fn row_of(suffix: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
    let count = StoredRow::decode(value)?.count;
    if count < 0 {
        return Ok(None);
    }
    let row = usize::try_from(count).ok().and_then(|order| suffix.get(8 + order..)).ok_or_else(cut_off)?;
    Ok(Some(row.to_vec()))
}

/// Frees the versions of a key that are before the last final one, and that one if it is a deletion.
pub fn prune(
    operator: OperatorId,
    state: &mut TaskState,
    shard: ShardId,
    key: &[u8],
    is_over: impl Fn(i64) -> bool,
) -> Result<(), EngineError> {
    let prefix = prefix_of(VERSION, key);
    let mut finals: Vec<(Vec<u8>, StoredRow)> = Vec::new();
    let mut failed = None;
    state.walk(operator, shard, &prefix, Direction::Forward, &mut |key, value| match StoredRow::decode(value) {
        Ok(kept) if kept.close_ms == FOR_GOOD || is_over(kept.close_ms) => {
            finals.push((key.to_vec(), kept));
            ControlFlow::Continue(())
        }
        Ok(_) => ControlFlow::Break(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let Some((last, kept)) = finals.pop() else { return Ok(()) };
    finals.iter().for_each(|(key, _)| state.put(operator, shard, key, None));
    if kept.count == DELETION {
        state.put(operator, shard, &last, None);
    } else if kept.close_ms != FOR_GOOD {
        // It does not close again: only a newer one ends it.
        state.put(operator, shard, &last, Some(StoredRow { close_ms: FOR_GOOD, ..kept }.encode()));
    }
    Ok(())
}
