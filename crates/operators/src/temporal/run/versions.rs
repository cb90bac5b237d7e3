//! The versions of a key in order of their times.
//!
//! Owns: changing them, finding the one of a time, evicting those that no row can need any more.
//! Invariant: of a deletion no row is kept, but its time is.

use super::{FOR_GOOD, VERSION, closes, codec_of, cut_off, encode_time, prefix_of, times};
use crate::temporal::VersionSide;
use arrow::array::{ArrayRef, AsArray};
use arrow::compute::SortOptions;
use arrow::datatypes::TimeUnit;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::{Codec, normalize};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, Keys, Scan, Stretch, Values, Writes, successor};
use highwater_protocol::ids::ShardId;
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

/// Makes the changes, each of which is of a key of its own.
pub fn apply(state: &mut KeyedState<'_>, shard: ShardId, key: &[u8], changes: &KeyChanges) -> Result<(), EngineError> {
    let prefix = prefix_of(VERSION, key);
    let mut writes = Writes::default();
    let (mut added, mut set): (Vec<Added<'_>>, Vec<Set<'_>>) = Default::default();
    for (suffix, change) in changes {
        match change {
            Change::Set { row, close_ms } => {
                let of_time = [prefix.as_slice(), suffix].concat();
                set.push(Set { of_time, row: row.as_deref(), close_ms: *close_ms });
            }
            Change::Add { weight: 0, .. } => {}
            Change::Add { weight, order_length, close_ms } => {
                added.push(Added { suffix, weight: *weight, order_length: *order_length, close_ms: *close_ms });
            }
        }
    }
    replace(state, shard, &set, &mut writes)?;
    add_weights(state, shard, &prefix, &added, &mut writes)?;
    state.put(&mut writes)
}

/// The only version of its time from now on.
struct Set<'a> {
    of_time: Vec<u8>,
    /// `None`: a deletion.
    row: Option<&'a [u8]>,
    close_ms: i64,
}

/// A version that comes, or goes.
struct Added<'a> {
    suffix: &'a [u8],
    weight: i64,
    order_length: i64,
    close_ms: i64,
}

fn replace(state: &KeyedState<'_>, shard: ShardId, set: &[Set<'_>], writes: &mut Writes) -> Result<(), EngineError> {
    let scans: Vec<Scan<'_>> = set.iter().map(|set| Scan::prefix(shard, &set.of_time)).collect();
    let mut old: Vec<Option<StoredRow>> = vec![None; set.len()];
    state.scan(&scans, &mut |place, key, value| {
        let set = &set[place];
        match key[set.of_time.len()..] == *set.row.unwrap_or_default() {
            true => old[place] = Some(StoredRow::decode(value)?),
            false => writes.delete(shard, &[key]),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for (set, old) in set.iter().zip(old) {
        let count = if set.row.is_some() { 0 } else { DELETION };
        let kept = StoredRow { close_ms: set.close_ms, weight: 1, count };
        if old != Some(kept) {
            writes.put(shard, &[&set.of_time, set.row.unwrap_or_default()], &[&kept.encode()]);
        }
    }
    Ok(())
}

fn add_weights(
    state: &mut KeyedState<'_>,
    shard: ShardId,
    prefix: &[u8],
    added: &[Added<'_>],
    writes: &mut Writes,
) -> Result<(), EngineError> {
    let (mut keys, mut values) = (Keys::default(), Values::default());
    added.iter().for_each(|added| keys.push(shard, &[prefix, added.suffix]));
    state.get(&keys, &mut values)?;
    for (place, added) in added.iter().enumerate() {
        let weight = state.weight("temporal join", added.weight + StoredRow::weight_of(values.get(place))?)?;
        let kept = StoredRow { close_ms: added.close_ms, weight, count: added.order_length }.encode();
        writes.set(shard, &[keys.get(place).1], (weight > 0).then_some(&kept));
    }
    Ok(())
}

/// A key and a time.
pub type At<'a> = (ShardId, &'a [u8], i64);

/// The rows of keys that are valid at these times, in their order; `None` where nothing is asked for.
pub fn versions_at<'a>(
    state: &KeyedState<'_>,
    wanted: impl Iterator<Item = Option<At<'a>>>,
) -> Result<Vec<Option<Vec<u8>>>, EngineError> {
    let mut found = Vec::new();
    let mut asked: Vec<Asked> = Vec::new();
    for at in wanted {
        if let Some((shard, key, time)) = at {
            let prefix = prefix_of(VERSION, key);
            let end = match time.checked_add(1) {
                Some(next) => Some([prefix.as_slice(), &encode_time(next)].concat()),
                None => successor(&prefix),
            };
            asked.push(Asked { place: found.len(), shard, prefix, end });
        }
        found.push(None);
    }
    let scans: Vec<Scan<'_>> = asked.iter().map(Asked::scan).collect();
    state.scan(&scans, &mut |scan, key, value| {
        let Asked { place, prefix, .. } = &asked[scan];
        found[*place] = row_of(&key[prefix.len()..], value)?;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// The versions of a key up to a time.
struct Asked {
    /// Where the row is wanted.
    place: usize,
    shard: ShardId,
    prefix: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl Asked {
    fn scan(&self) -> Scan<'_> {
        let keys = Stretch::Range { start: &self.prefix, end: self.end.as_deref() };
        Scan { shard: self.shard, keys, direction: Direction::Backward }
    }
}

/// The row of a version; `None`: it is a deletion.
pub fn row_of(suffix: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
    let count = StoredRow::decode(value)?.count;
    if count < 0 {
        return Ok(None);
    }
    let row = usize::try_from(count).ok().and_then(|order| suffix.get(8 + order..)).ok_or_else(cut_off)?;
    Ok(Some(row.to_vec()))
}

/// Frees the versions of a key that are before the last final one, and that one if it is a deletion.
pub fn prune(state: &mut KeyedState<'_>, shard: ShardId, key: &[u8]) -> Result<(), EngineError> {
    let prefix = prefix_of(VERSION, key);
    let mut finals: Vec<(Vec<u8>, StoredRow)> = Vec::new();
    state.scan_prefix(shard, &prefix, |key, value| {
        let kept = StoredRow::decode(value)?;
        if kept.close_ms != FOR_GOOD && !state.closes(kept.close_ms) {
            return Ok(ControlFlow::Break(()));
        }
        finals.push((key.to_vec(), kept));
        Ok(ControlFlow::Continue(()))
    })?;
    let Some((last, kept)) = finals.pop() else { return Ok(()) };
    let mut writes = Writes::default();
    finals.iter().for_each(|(key, _)| writes.delete(shard, &[key]));
    if kept.count == DELETION {
        writes.delete(shard, &[&last]);
    } else if kept.close_ms != FOR_GOOD {
        // It does not close again: only a newer one ends it.
        writes.put(shard, &[&last], &[&StoredRow { close_ms: FOR_GOOD, ..kept }.encode()]);
    }
    state.put(&mut writes)
}
