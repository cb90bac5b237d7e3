//! The versions of keys, in the order of their times.
//!
//! Owns: changing versions, finding the version valid at a time, evicting versions that no later row can need.
//! Invariant: a deletion is stored with its time, but without a row.

use super::keys::{FOR_GOOD, VERSION, closes, codec_of, cut_off, encode_time, prefix_of, times};
use crate::temporal::VersionSide;
use arrow::array::{ArrayRef, AsArray};
use arrow::compute::SortOptions;
use arrow::datatypes::TimeUnit;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::{Codec, normalize};
use highwater_dataflow::runtime::portions::Portions;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, KeyRange, Keys, Scan, Values, Writes, successor};
use highwater_protocol::ids::ShardId;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;

/// Stored count of a deletion.
const DELETION: i64 = -1;

/// The changes of a batch to the versions of a key, by time, order and row.
pub type KeyChanges = BTreeMap<Vec<u8>, Change>;

/// A change of one version.
pub enum Change {
    /// Sets the only version of its time; `row` is `None` for a deletion.
    Set { row: Option<Vec<u8>>, close_ms: i64 },
    /// Changes the weight of a version.
    Add { weight: i64, order_length: i64, close_ms: i64 },
}

/// Encodes versions.
pub struct VersionCodec {
    keys: Codec,
    rows: Codec,
    /// Codec of the order columns, reversed, so that the version that counts is the last one of its time.
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

    /// Returns the changes of these records by key. All records must have a time and a key.
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

/// Adds the writes for the changes of these keys, which must be distinct.
pub fn apply<'a>(
    changed: impl Iterator<Item = (ShardId, &'a [u8], &'a KeyChanges)>,
    state: &mut KeyedState<'_>,
    writes: &mut Writes,
) -> Result<(), EngineError> {
    let (mut added, mut set): (Vec<Added>, Vec<Set<'_>>) = Default::default();
    let mut keys = Keys::default();
    for (shard, key, changes) in changed {
        let prefix = prefix_of(VERSION, key);
        for (suffix, change) in changes {
            match change {
                Change::Set { row, close_ms } => {
                    let of_time = [prefix.as_slice(), suffix].concat();
                    set.push(Set { shard, of_time, row: row.as_deref(), close_ms: *close_ms });
                }
                Change::Add { weight: 0, .. } => {}
                Change::Add { weight, order_length, close_ms } => {
                    keys.push(shard, &[&prefix, suffix]);
                    added.push(Added { weight: *weight, order_length: *order_length, close_ms: *close_ms });
                }
            }
        }
    }
    replace(&set, state, writes)?;
    add_weights(&keys, &added, state, writes)
}

/// A version that replaces all versions of its time.
struct Set<'a> {
    shard: ShardId,
    of_time: Vec<u8>,
    /// `None` for a deletion.
    row: Option<&'a [u8]>,
    close_ms: i64,
}

/// A version whose weight changes.
struct Added {
    weight: i64,
    order_length: i64,
    close_ms: i64,
}

fn replace(set: &[Set<'_>], state: &KeyedState<'_>, writes: &mut Writes) -> Result<(), EngineError> {
    let scans: Vec<Scan<'_>> = set.iter().map(|set| Scan::prefix(set.shard, &set.of_time)).collect();
    let mut old: Vec<Option<StoredRow>> = vec![None; set.len()];
    state.scan(&scans, &mut |place, key, value| {
        let set = &set[place];
        match key[set.of_time.len()..] == *set.row.unwrap_or_default() {
            true => old[place] = Some(StoredRow::decode(value)?),
            false => writes.delete(set.shard, &[key]),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for (set, old) in set.iter().zip(old) {
        let count = if set.row.is_some() { 0 } else { DELETION };
        let kept = StoredRow { close_ms: set.close_ms, weight: 1, count };
        if old != Some(kept) {
            writes.put(set.shard, &[&set.of_time, set.row.unwrap_or_default()], &[&kept.encode()]);
        }
    }
    Ok(())
}

/// Adds the writes of versions whose weights change; `keys` are their state keys.
fn add_weights(
    keys: &Keys,
    added: &[Added],
    state: &mut KeyedState<'_>,
    writes: &mut Writes,
) -> Result<(), EngineError> {
    let mut values = Values::default();
    state.get(keys, &mut values)?;
    for (place, (added, (shard, key))) in added.iter().zip(keys.iter()).enumerate() {
        let weight = state.weight("temporal join", added.weight + StoredRow::weight_of(values.get(place))?)?;
        let kept = StoredRow { close_ms: added.close_ms, weight, count: added.order_length }.encode();
        writes.set(shard, &[key], (weight > 0).then_some(&kept));
    }
    Ok(())
}

/// The row that is valid at some time; `None` if there is none.
pub type Version = Option<Rc<[u8]>>;

/// Shard, key and time of a lookup.
pub type At<'a> = (ShardId, &'a [u8], i64);

/// Returns the rows of keys that are valid at these times, in order; `None` for a lookup that is `None`.
pub fn versions_at<'a>(
    state: &KeyedState<'_>,
    wanted: impl Iterator<Item = Option<At<'a>>>,
) -> Result<Vec<Version>, EngineError> {
    let mut found: Vec<Version> = Vec::new();
    // Index of each lookup in the result, and the range of versions of its key up to its time.
    let mut asked: Vec<(usize, KeyRange)> = Vec::new();
    for at in wanted {
        if let Some((shard, key, time)) = at {
            let start = prefix_of(VERSION, key);
            let end = match time.checked_add(1) {
                Some(next) => Some([start.as_slice(), &encode_time(next)].concat()),
                None => successor(&start),
            };
            asked.push((found.len(), KeyRange { shard, start, end }));
        }
        found.push(None);
    }
    let scans: Vec<Scan<'_>> = asked.iter().map(|(_, range)| range.scan(Direction::Backward)).collect();
    // Neighbouring lookups mostly find the same version, which then shares its memory.
    let mut last: Version = None;
    state.scan(&scans, &mut |scan, key, value| {
        let (place, KeyRange { start, .. }) = &asked[scan];
        let row = row_of(&key[start.len()..], value)?;
        if row != last.as_deref() {
            last = row.map(Rc::from);
        }
        found[*place] = last.clone();
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// Returns the row of a version; `None` if it is a deletion.
pub fn row_of<'a>(suffix: &'a [u8], value: &[u8]) -> Result<Option<&'a [u8]>, EngineError> {
    let count = StoredRow::decode(value)?.count;
    if count < 0 {
        return Ok(None);
    }
    let row = usize::try_from(count).ok().and_then(|order| suffix.get(8 + order..)).ok_or_else(cut_off)?;
    Ok(Some(row))
}

/// Evicts the versions of these keys before the last final one, and that one, too, if it is a deletion.
pub fn prune(keys: &[(ShardId, Vec<u8>)], state: &mut KeyedState<'_>) -> Result<(), EngineError> {
    let mut writes = Writes::default();
    let mut portions = Portions::of(keys.len());
    while let Some(asked) = portions.next() {
        let asked = &keys[asked];
        let prefixes: Vec<Vec<u8>> = asked.iter().map(|(_, key)| prefix_of(VERSION, key)).collect();
        let scans: Vec<Scan<'_>> =
            asked.iter().zip(&prefixes).map(|((shard, _), prefix)| Scan::prefix(*shard, prefix)).collect();
        let mut last: Vec<Option<(Vec<u8>, StoredRow)>> = vec![None; asked.len()];
        let complete = state.scan_portion(&scans, &mut |place, key, value| {
            let kept = StoredRow::decode(value)?;
            if kept.close_ms != FOR_GOOD && !state.closes(kept.close_ms) {
                return Ok(ControlFlow::Break(()));
            }
            if let Some((before, _)) = last[place].replace((key.to_vec(), kept)) {
                writes.delete(asked[place].0, &[&before]);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for ((shard, _), last) in asked.iter().zip(last) {
            match last {
                Some((key, kept)) if kept.count == DELETION => writes.delete(*shard, &[&key]),
                // It need not close again, since only a newer version ends it.
                Some((key, kept)) if kept.close_ms != FOR_GOOD => {
                    writes.put(*shard, &[&key], &[&StoredRow { close_ms: FOR_GOOD, ..kept }.encode()]);
                }
                _ => {}
            }
        }
        state.put(&mut writes)?;
        portions.done(complete);
    }
    Ok(())
}
