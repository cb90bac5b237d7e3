//! The changelog of a sink with a PRIMARY KEY: at most one change per key and batch.
//!
//! Owns: consolidation, and, unless the plan proves keys unique, the live rows per key. A key's value then: its close
//! time (when it is evicted, if at all), and per distinct live row a count (`u32`), a length (`u32`) and the encoded
//! row. If the input never retracts rows, only the greatest is kept, with the number of all.
//! Invariants: a delete is emitted only if no row of the key remains. While a key has several live rows, the sink shows the
//! greatest by its encoding, which does not depend on how batches were cut, and the key is reported as a conflict; or the
//! query stops ([`OnKeyConflict`]). A conflict ends when at most one row is left. If a watermark evicts the key, the
//! conflict never ends, since the sink continues to show one of the rows. The exception is a TTL: an operator upstream may
//! have expired the state from which it would have retracted the older row, so the newer row stays. A key with a window's
//! time is evicted when the watermark passes the window's end, since no change arrives after that batch.

use crate::keyed_sink::KeyedSinkSpec;
use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::datatypes::SchemaRef;
use arrow::util::display::array_value_to_string;
use highwater_dataflow::CloseKey;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::close_times;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::exchange::pick;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::{Codec, normalize};
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::{Keys, Values, Writes};
use highwater_protocol::ids::ShardId;
use highwater_protocol::options::OnKeyConflict;
use std::collections::{BTreeMap, HashMap};

pub struct KeyedSink {
    /// Whether the plan proves keys unique; otherwise the live rows per key are state.
    unique: bool,
    key: Vec<usize>,
    schema: SchemaRef,
    /// The key column by which keys are evicted from state; `None` if they are not.
    close: Option<CloseKey>,
    sink: String,
    retracts: bool,
    on_conflict: OnKeyConflict,
    keys: Codec,
    rows: Codec,
    input: Vec<ChangeBatch>,
}

/// Net weights of the distinct rows of one key, by encoded row, each with the index of one such row in the input.
type NetRows<'a> = BTreeMap<&'a [u8], (i64, usize)>;

/// The changes of one key in the batch.
struct KeyChange<'a> {
    key: &'a [u8],
    net: NetRows<'a>,
    /// Index of some row of the key in the input.
    sample: usize,
    /// When the key is evicted, in milliseconds.
    closes_ms: i64,
}

impl KeyedSink {
    pub fn new(spec: &KeyedSinkSpec, sink: &str) -> Result<Self, EngineError> {
        let data_type = |column: &usize| spec.schema.field(*column).data_type();
        Ok(Self {
            unique: spec.unique,
            key: spec.key.clone(),
            schema: spec.schema.clone(),
            close: spec.close,
            sink: sink.to_string(),
            retracts: spec.retracts,
            on_conflict: spec.on_conflict,
            keys: Codec::new(spec.key.iter().map(data_type))?,
            rows: Codec::of(&spec.schema)?,
            input: Vec::new(),
        })
    }

    /// Evicts keys of the state whose window has closed and that no row of this batch has touched.
    fn free_untouched(&self, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        if self.unique {
            return Ok(());
        }
        let mut writes = Writes::default();
        state.closing()?.iter().for_each(|(shard, key)| writes.delete(shard, &[key]));
        state.put(&mut writes)
    }

    /// Decides the output change of each key, in the order of `changes`.
    fn decide(
        &self,
        changes: &[KeyChange<'_>],
        state: &mut KeyedState<'_>,
        all: &ChangeBatch,
    ) -> Result<Vec<Change>, EngineError> {
        if self.unique {
            return changes.iter().map(|change| self.unique(&change.net, all, change.sample)).collect();
        }
        let (mut keys, mut values, mut writes) = (Keys::default(), Values::default(), Writes::default());
        changes.iter().for_each(|change| keys.push(state.shard_of(change.key), &[change.key]));
        state.get(&keys, &mut values)?;
        let mut decided = Vec::with_capacity(changes.len());
        for (place, change) in changes.iter().enumerate() {
            decided.push(match change.net.is_empty() {
                true => Change::None,
                false => self.kept(change, (keys.get(place).0, values.get(place)), all, state, &mut writes)?,
            });
        }
        state.put(&mut writes)?;
        Ok(decided)
    }

    /// Decides the change of a key that is unique upstream, from the rows of the batch alone.
    fn unique(&self, net: &NetRows<'_>, all: &ChangeBatch, sample: usize) -> Result<Change, EngineError> {
        let live: i64 = net.values().map(|(weight, _)| (*weight).max(0)).sum();
        let up = net.values().find(|(weight, _)| *weight > 0);
        match (live, up) {
            (0, _) if net.is_empty() => Ok(Change::None),
            (0, _) | (_, None) => Ok(Change::Delete(sample)),
            (1, Some((_, row))) => Ok(Change::Upsert(*row)),
            _ => Err(self.duplicate(all.batch.columns(), sample)),
        }
    }

    /// Applies the net changes to the live rows of the key, and decides its output change.
    fn kept(
        &self,
        change: &KeyChange<'_>,
        (shard, value): (ShardId, Option<&[u8]>),
        all: &ChangeBatch,
        state: &mut KeyedState<'_>,
        writes: &mut Writes,
    ) -> Result<Change, EngineError> {
        let KeyChange { key, net, sample, closes_ms } = change;
        let before = decode(value.unwrap_or_default())?;
        let mut after: BTreeMap<&[u8], i64> = before.iter().map(|(row, count)| (*row, i64::from(*count))).collect();
        for (row, (weight, _)) in net {
            *after.entry(row).or_default() += weight;
        }
        for count in after.values_mut().filter(|count| **count < 0) {
            *count = state.weight(&format!("sink {}", self.sink), *count)?;
        }
        after.retain(|_, count| *count > 0);
        if state.expires() && after.values().sum::<i64>() > 1 {
            let new: BTreeMap<&[u8], i64> =
                net.iter().filter(|(_, (weight, _))| *weight > 0).map(|(row, (weight, _))| (*row, *weight)).collect();
            if !new.is_empty() {
                let stale = after.values().sum::<i64>() - new.values().sum::<i64>();
                state.count_expired(stale.unsigned_abs());
                after = new;
            }
        }
        let live: i64 = after.values().sum();
        if live > 1 && self.on_conflict == OnKeyConflict::Fail {
            return Err(self.duplicate(all.batch.columns(), *sample));
        }
        if live > 1 && !self.retracts {
            after.pop_last().into_iter().for_each(|(greatest, _)| after = BTreeMap::from([(greatest, live)]));
        }
        let key_text = || self.key_text(all.batch.columns(), *sample);
        match (is_shared(&before), live > 1) {
            (false, true) => state.key_conflicts.begin(key_text),
            (true, false) => state.key_conflicts.end(key_text),
            (false, false) | (true, true) => {}
        }
        let kept = !after.is_empty() && !state.closes(*closes_ms);
        let encoded = kept.then(|| encode(&after, *closes_ms));
        writes.set(shard, &[*key], encoded.as_deref());
        let now = after.keys().next_back().copied();
        let was = before.last().map(|(row, _)| *row);
        Ok(match now {
            _ if now == was => Change::None,
            None if value.is_some() => Change::Delete(*sample),
            None => Change::None,
            Some(row) => match net.get(row) {
                Some((_, place)) => Change::Upsert(*place),
                None => Change::UpsertOld(row.to_vec()),
            },
        })
    }

    fn emit(
        &self,
        all: &ChangeBatch,
        rows: Vec<u32>,
        weight: i64,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        for rows in rows.chunks(OUTPUT_ROWS) {
            let weights = Some(Int64Array::from(vec![weight; rows.len()]));
            let ChangeBatch { batch, .. } = pick(all, rows.to_vec())?;
            out.push(ChangeBatch { batch, weights });
        }
        Ok(())
    }

    fn refuse_nulls(&self, columns: &[ArrayRef]) -> Result<(), EngineError> {
        let null = columns.iter().zip(&self.key).find(|(column, _)| column.null_count() > 0);
        match null {
            None => Ok(()),
            Some((_, column)) => {
                Err(EngineError::NullKey { sink: self.sink.clone(), column: self.schema.field(*column).name().clone() })
            }
        }
    }

    fn duplicate(&self, columns: &[ArrayRef], row: usize) -> EngineError {
        EngineError::DuplicateKey { sink: self.sink.clone(), key: self.key_text(columns, row) }
    }

    /// The key of a row for people: `email = a@x`. `columns` are those of the sink.
    fn key_text(&self, columns: &[ArrayRef], row: usize) -> String {
        let part = |column: &usize| {
            let text = array_value_to_string(&columns[*column], row).unwrap_or_default();
            format!("{} = {text}", self.schema.field(*column).name())
        };
        let key: Vec<String> = self.key.iter().map(part).collect();
        key.join(", ")
    }

    /// Ends the conflicts of keys that expire.
    fn end_conflicts(&self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        let mut values = Values::default();
        state.get(due, &mut values)?;
        for place in 0..due.len() {
            let rows = decode(values.get(place).unwrap_or_default())?;
            if is_shared(&rows) {
                let columns = self.rows.decode(rows.iter().take(1).map(|(row, _)| *row))?;
                state.key_conflicts.end(|| self.key_text(&columns, 0));
            }
        }
        Ok(())
    }
}

impl Stateful for KeyedSink {
    fn keeps(&self) -> Keeps {
        if self.unique { Keeps::Nothing } else { Keeps::State }
    }

    fn counts(&self) -> Counts {
        Counts::Taker
    }

    fn check(&self, _: usize, _: &ChangeBatch, _: &Late) -> Result<(), EngineError> {
        Ok(())
    }

    fn push(&mut self, _: usize, rows: ChangeBatch, _: &mut Late) -> Result<(), EngineError> {
        self.input.push(rows);
        Ok(())
    }

    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        self.end_conflicts(due, state)?;
        state.forget(due)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let Some(all) = ChangeBatch::concat(&self.schema, &input)? else {
            return self.free_untouched(state);
        };
        let count = all.num_rows();
        let columns: Vec<ArrayRef> = self.key.iter().map(|c| normalize(all.batch.column(*c).clone())).collect();
        self.refuse_nulls(&columns)?;
        let closes = self.close.map(|close| close_times(close, &columns)).transpose()?;
        let closes_ms = |row: usize| closes.as_ref().map_or(state.deadline(), |times| times.value(row));
        let keys = self.keys.encode(&columns, count)?;
        let rows = self.rows.encode(all.batch.columns(), count)?;
        let mut order: Vec<&[u8]> = Vec::new();
        let mut net: HashMap<&[u8], NetRows<'_>> = HashMap::new();
        for row in 0..count {
            let of_key = net.entry(keys.row(row)).or_insert_with(|| {
                order.push(keys.row(row));
                NetRows::new()
            });
            of_key.entry(rows.row(row)).or_insert((0, row)).0 += all.weight(row);
        }
        let mut changes = Vec::with_capacity(order.len());
        for key in order {
            let Some(mut net) = net.remove(key) else { continue };
            let sample = net.values().next().map_or(0, |(_, row)| *row);
            net.retain(|_, (weight, _)| *weight != 0);
            changes.push(KeyChange { key, net, sample, closes_ms: closes_ms(sample) });
        }
        let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
        let mut old_rows: Vec<Vec<u8>> = Vec::new();
        for change in self.decide(&changes, state, &all)? {
            match change {
                Change::None => {}
                Change::Upsert(row) => upserts.push(row as u32),
                Change::UpsertOld(bytes) => old_rows.push(bytes),
                Change::Delete(row) => deletes.push(row as u32),
            }
        }
        self.free_untouched(state)?;
        self.emit(&all, upserts, 1, out)?;
        self.emit(&all, deletes, -1, out)?;
        if !old_rows.is_empty() {
            let columns = self.rows.decode(old_rows.iter().map(Vec::as_slice))?;
            out.push(ChangeBatch::inserts(batch(&self.schema, columns, old_rows.len())?));
        }
        Ok(())
    }
}

/// The output change of one key; numbers are rows of the input.
enum Change {
    None,
    Upsert(usize),
    /// The remaining row is from an earlier batch; holds the encoded row.
    UpsertOld(Vec<u8>),
    Delete(usize),
}

/// Whether more than one row is live.
fn is_shared(rows: &[(&[u8], u32)]) -> bool {
    rows.iter().map(|(_, count)| u64::from(*count)).sum::<u64>() > 1
}

fn encode(rows: &BTreeMap<&[u8], i64>, close_ms: i64) -> Vec<u8> {
    let mut bytes = close_ms.to_le_bytes().to_vec();
    for (row, count) in rows {
        bytes.extend_from_slice(&u32::try_from(*count).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&(row.len() as u32).to_le_bytes());
        bytes.extend_from_slice(row);
    }
    bytes
}

pub fn decode(value: &[u8]) -> Result<Vec<(&[u8], u32)>, EngineError> {
    let damaged = || EngineError::CutOff("a kept row");
    let mut rows = Vec::new();
    let mut rest = value.get(size_of::<i64>()..).unwrap_or_default();
    while !rest.is_empty() {
        let (count, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (length, after) = after.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_le_bytes(*length) as usize;
        let row = after.get(..length).ok_or_else(damaged)?;
        rows.push((row, u32::from_le_bytes(*count)));
        rest = &after[length..];
    }
    Ok(rows)
}
