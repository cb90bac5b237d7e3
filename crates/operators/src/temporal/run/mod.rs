//! Rows joined with the version of their time: `FOR SYSTEM_TIME AS OF`.
//!
//! Owns: the rows and versions of this task's shards. In state: a row, `0 | length (u32) | key | time | row`; a version,
//! `1 | length (u32) | key | time | order | row`; times as eight bytes in order. Their values are [`StoredRow`]; a version's
//! count is the length of its order, or less than zero where the version is that there is no row.
//! Invariants: a row is joined with the greatest version that is not after it, and is final once the watermark has
//! passed it, since no version before it can come any more. What a batch gives is the rows as they are less the rows as
//! they were, or, where only final rows are wanted, each row once. Of versions the watermark has passed only the last
//! one of each key stays, and not that one if it is a deletion.

mod emit;
mod versions;
mod view;

use crate::temporal::{TemporalSpec, TimedSide};
use arrow::array::{AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{and, is_not_null, not};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use emit::{Emitted, timeless};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::close_times;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::changes::{ChangeCodec, Changes};
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::late::{Late, Untimed};
use highwater_dataflow::runtime::pipeline::OUTPUT_ROWS;
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, Keys, NEVER, Scan, Stretch, Values, Writes, successor};
use highwater_dataflow::{CloseKey, CloseKind};
use highwater_functions::windows::tumble::per_second;
use highwater_protocol::ids::ShardId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use versions::{KeyChanges, VersionCodec, versions_at};
pub use view::reader;

const ROW: u8 = 0;
const VERSION: u8 = 1;

pub struct Temporal {
    spec: Arc<TemporalSpec>,
    /// The finer unit of both times.
    unit: TimeUnit,
    rows: ChangeCodec,
    versions: VersionCodec,
    input: [Vec<ChangeBatch>; 2],
    /// Rows without a time: they match nothing.
    timeless: Vec<ChangeBatch>,
}

/// A row that a batch changes, or whose version it may change.
struct Affected {
    time: i64,
    old: Option<StoredRow>,
    /// Change of its weight.
    delta: i64,
    close_ms: i64,
}

impl Affected {
    fn old_weight(&self) -> i64 {
        self.old.map_or(0, |old| old.weight)
    }
}

/// What a batch does to one key.
struct KeyWork<'a> {
    shard: ShardId,
    key: &'a [u8],
    run: Range<usize>,
    versions: Option<&'a KeyChanges>,
}

/// The rows that change, with their times.
struct RowChanges {
    changes: Changes,
    times: Int64Array,
    closes: Int64Array,
}

impl Temporal {
    pub fn new(spec: Arc<TemporalSpec>) -> Result<Self, EngineError> {
        let unit = unit_of(&spec.rows)?.max(unit_of(&spec.versions.timed)?);
        Ok(Self {
            unit,
            rows: ChangeCodec::new(&spec.rows.schema, &spec.rows.key)?,
            versions: VersionCodec::new(&spec.versions, unit)?,
            input: Default::default(),
            timeless: Vec::new(),
            spec,
        })
    }

    fn push_row(&mut self, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        let spec = self.spec.clone();
        let over_at = closes(&spec.rows, &rows.batch)?;
        let rows = late.drop_late(0, rows, &over_at, Untimed::Kept)?;
        let timed = is_not_null(rows.batch.column(spec.rows.time))?;
        if timed.false_count() > 0 && spec.keeps_unmatched {
            let timeless = rows.filter(&not(&timed)?)?;
            match spec.on_close && spec.input_retracts {
                // No watermark ever makes it final.
                true => drop_timeless(0, timeless, late)?,
                false => self.timeless.push(timeless),
            }
        }
        // A row that has no version is only there if it is shown without.
        let known = if spec.keeps_unmatched { timed } else { and(&timed, &there(&rows.batch, &spec.rows.key)?)? };
        self.input[0].push(rows.filter(&known)?);
        Ok(())
    }

    fn push_version(&mut self, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        let spec = self.spec.clone();
        let side = &spec.versions.timed;
        let over_at = closes(side, &rows.batch)?;
        let rows = late.drop_late(1, rows, &over_at, Untimed::Kept)?;
        let timed = is_not_null(rows.batch.column(side.time))?;
        if timed.false_count() > 0 {
            drop_timeless(1, rows.filter(&not(&timed)?)?, late)?;
        }
        self.input[1].push(rows.filter(&and(&timed, &there(&rows.batch, &side.key)?)?)?);
        Ok(())
    }

    fn row_changes(&self, input: &[ChangeBatch]) -> Result<Option<RowChanges>, EngineError> {
        let Some(changes) = self.rows.consolidate(input)? else { return Ok(None) };
        let times = times(&self.spec.rows, &changes.batch, self.unit)?;
        let closes = closes(&self.spec.rows, &changes.batch)?;
        Ok(Some(RowChanges { changes, times, closes }))
    }

    /// Applies what the batch changes, key by key; gives what that makes of rows.
    fn update(
        &self,
        rows: Option<&RowChanges>,
        versions: &BTreeMap<Vec<u8>, KeyChanges>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let mut work: BTreeMap<&[u8], (Range<usize>, Option<&KeyChanges>)> =
            versions.iter().map(|(key, changes)| (key.as_slice(), (0..0, Some(changes)))).collect();
        if let Some(rows) = rows {
            for run in rows.changes.runs() {
                let key = rows.changes.key(run.start);
                work.entry(key).or_default().0 = run;
            }
        }
        let mut emitted = Vec::new();
        for (key, (run, versions)) in work {
            let shard = state.shard_of(key);
            self.update_key(KeyWork { shard, key, run, versions }, rows, state, &mut emitted)?;
            if emitted.len() >= OUTPUT_ROWS {
                self.emit(std::mem::take(&mut emitted), out)?;
            }
        }
        self.emit(emitted, out)
    }

    fn update_key(
        &self,
        work: KeyWork<'_>,
        rows: Option<&RowChanges>,
        state: &mut KeyedState<'_>,
        emitted: &mut Vec<Emitted>,
    ) -> Result<(), EngineError> {
        let KeyWork { shard, key, .. } = work;
        let affected = self.affected(&work, rows, state)?;
        let was_emitted = |row: &Affected| !self.spec.on_close && row.old_weight() > 0;
        let times = affected.values().map(|row| was_emitted(row).then_some((shard, key, row.time)));
        let before = versions_at(state, times)?;
        if let Some(changes) = work.versions {
            versions::apply(state, shard, key, changes)?;
        }
        let prefix = prefix_of(ROW, key);
        let (mut writes, mut weights) = (Writes::default(), Vec::with_capacity(affected.len()));
        for (suffix, row) in &affected {
            let weight = state.weight("temporal join", row.old_weight() + row.delta)?;
            let is_over = state.closes(row.close_ms);
            let is_gone = weight == 0 || is_over;
            if is_gone && row.old.is_some() || !is_gone && row.delta != 0 {
                let kept = StoredRow { close_ms: row.close_ms, weight, count: 0 }.encode();
                writes.set(shard, &[&prefix, suffix], (!is_gone).then_some(&kept));
            }
            weights.push(if self.spec.on_close && !is_over { 0 } else { weight });
        }
        state.put(&mut writes)?;
        let times = affected.values().zip(&weights);
        let after = versions_at(state, times.map(|(row, weight)| (*weight > 0).then_some((shard, key, row.time))))?;
        for (((suffix, row), new_weight), (old, new)) in
            affected.into_iter().zip(weights).zip(before.into_iter().zip(after))
        {
            let old_weight = if self.spec.on_close { 0 } else { row.old_weight() };
            if old != new || old_weight != new_weight {
                emitted.push(Emitted { row: suffix[8..].to_vec(), old, new, old_weight, new_weight });
            }
        }
        Ok(())
    }

    /// Rows that change, and those that were emitted with a version that may not be theirs any more; by time and row.
    fn affected(
        &self,
        work: &KeyWork<'_>,
        rows: Option<&RowChanges>,
        state: &KeyedState<'_>,
    ) -> Result<BTreeMap<Vec<u8>, Affected>, EngineError> {
        let prefix = prefix_of(ROW, work.key);
        let mut affected = BTreeMap::new();
        if let Some(RowChanges { changes, times, closes }) = rows {
            let (mut keys, mut values) = (Keys::default(), Values::default());
            for change in work.run.clone() {
                let time = encode_time(times.value(changes.index(change) as usize));
                keys.push(work.shard, &[&prefix, &time, changes.row(change)]);
            }
            state.get(&keys, &mut values)?;
            for (at, change) in work.run.clone().enumerate() {
                let row = changes.index(change) as usize;
                let old = StoredRow::read(values.get(at))?;
                let (time, delta, close_ms) = (times.value(row), changes.weight(change), closes.value(row));
                affected.insert(keys.get(at).1[prefix.len()..].to_vec(), Affected { time, old, delta, close_ms });
            }
        }
        let first = work.versions.and_then(|changes| changes.first_key_value()).filter(|_| !self.spec.on_close);
        let Some((first, _)) = first else { return Ok(affected) };
        let start = [prefix.as_slice(), first.get(..8).unwrap_or_default()].concat();
        let end = successor(&prefix);
        let keys = Stretch::Range { start: &start, end: end.as_deref() };
        state.scan(&[Scan { shard: work.shard, keys, direction: Direction::Forward }], &mut |_, key, value| {
            let suffix = &key[prefix.len()..];
            let (kept, time) = (StoredRow::decode(value)?, decode_time(suffix)?);
            let known = Affected { time, old: Some(kept), delta: 0, close_ms: kept.close_ms };
            affected.entry(suffix.to_vec()).or_insert(known);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(affected)
    }

    /// Rows and versions that the watermark has passed, apart from those this batch has touched.
    fn close(
        &self,
        touched: impl Iterator<Item = Vec<u8>>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        if state.close_before_ms().is_none() {
            return Ok(());
        }
        let mut over: BTreeSet<(ShardId, Vec<u8>)> = touched.map(|key| (state.shard_of(&key), key)).collect();
        let (mut rows, mut writes) = (Keys::default(), Writes::default());
        for (shard, bytes) in state.closing()?.iter() {
            let (kind, key, _) = split_key(bytes)?;
            if kind == VERSION {
                over.insert((shard, key.to_vec()));
                continue;
            }
            rows.push(shard, &[bytes]);
            writes.delete(shard, &[bytes]);
        }
        if self.spec.on_close {
            self.emit_closed(&rows, state, out)?;
        }
        state.put(&mut writes)?;
        for (shard, key) in over {
            versions::prune(state, shard, &key)?;
        }
        Ok(())
    }

    /// Gives rows that are final now, each with its version.
    fn emit_closed(&self, rows: &Keys, state: &KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let (mut part, mut values) = (Keys::default(), Values::default());
        for start in (0..rows.len()).step_by(OUTPUT_ROWS) {
            part.clear();
            for (shard, key) in (start..rows.len().min(start + OUTPUT_ROWS)).map(|place| rows.get(place)) {
                part.push(shard, &[key]);
            }
            state.get(&part, &mut values)?;
            let keys = part.iter().map(|(shard, bytes)| split_key(bytes).map(|(_, key, suffix)| (shard, key, suffix)));
            let keys: Vec<(ShardId, &[u8], &[u8])> = keys.collect::<Result<_, _>>()?;
            let times: Vec<i64> = keys.iter().map(|(_, _, suffix)| decode_time(suffix)).collect::<Result<_, _>>()?;
            let wanted = keys.iter().zip(times).map(|((shard, key, _), time)| Some((*shard, *key, time)));
            let versions = versions_at(state, wanted)?;
            let mut emitted = Vec::with_capacity(part.len());
            for (place, ((_, _, suffix), new)) in keys.into_iter().zip(versions).enumerate() {
                let new_weight = StoredRow::weight_of(values.get(place))?;
                emitted.push(Emitted { row: suffix[8..].to_vec(), old: None, new, old_weight: 0, new_weight });
            }
            self.emit(emitted, out)?;
        }
        Ok(())
    }

    fn emit(&self, emitted: Vec<Emitted>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        emit::emit(&self.spec, &self.rows.rows, self.versions.rows(), &emitted, out)
    }
}

impl Stateful for Temporal {
    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn counts(&self) -> Counts {
        Counts::Taker
    }

    fn push(&mut self, port: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        match port {
            0 => self.push_row(rows, late),
            _ => self.push_version(rows, late),
        }
    }

    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        state.forget(due)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let [rows, versions] = std::mem::take(&mut self.input);
        let rows = self.row_changes(&rows)?;
        let versions = self.versions.changes(&self.spec.versions, &versions)?;
        self.update(rows.as_ref(), &versions, state, out)?;
        self.close(versions.into_keys(), state, out)?;
        for rows in std::mem::take(&mut self.timeless) {
            out.push(timeless(&self.spec, rows)?);
        }
        if self.spec.on_close {
            out.iter_mut().try_for_each(crate::join::insert_only)?;
        }
        Ok(())
    }
}

/// Counts rows without a time as late.
fn drop_timeless(port: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
    let count = rows.num_rows();
    let (none, never) = (BooleanArray::from(vec![false; count]), Int64Array::new_null(count));
    late.drop_from(port, rows, &none, &never)?;
    Ok(())
}

/// Rows where all of these columns are there.
fn there(rows: &RecordBatch, columns: &[usize]) -> Result<BooleanArray, EngineError> {
    let mut all = BooleanArray::from(vec![true; rows.num_rows()]);
    for column in columns {
        all = and(&all, &is_not_null(rows.column(*column))?)?;
    }
    Ok(all)
}

fn unit_of(side: &TimedSide) -> Result<TimeUnit, EngineError> {
    match side.schema.field(side.time).data_type() {
        DataType::Timestamp(unit, _) => Ok(*unit),
        other => Err(Fault::Type { what: "a time of a temporal join", found: other.clone() }.into()),
    }
}

/// When each row is final, milliseconds.
fn closes(side: &TimedSide, rows: &RecordBatch) -> Result<Int64Array, EngineError> {
    close_times(CloseKey { group_index: side.time, kind: CloseKind::EventTime }, rows.columns())
}

/// The times of rows in this unit.
fn times(side: &TimedSide, rows: &RecordBatch, unit: TimeUnit) -> Result<Int64Array, EngineError> {
    let factor = per_second(unit) / per_second(unit_of(side)?);
    let times = arrow::compute::cast(rows.column(side.time), &DataType::Int64)?;
    Ok(times.as_primitive::<Int64Type>().unary(|time| time.saturating_mul(factor)))
}

/// Eight bytes in the order of times.
fn encode_time(time: i64) -> [u8; 8] {
    (time.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn decode_time(suffix: &[u8]) -> Result<i64, EngineError> {
    let bytes = suffix.first_chunk::<8>().ok_or_else(cut_off)?;
    Ok((u64::from_be_bytes(*bytes) ^ (1 << 63)).cast_signed())
}

fn cut_off() -> EngineError {
    EngineError::CutOff("a temporal join's key")
}

/// What all rows or versions of a key begin with in state.
fn prefix_of(kind: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + key.len());
    bytes.push(kind);
    bytes.extend_from_slice(&(key.len() as u32).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// Kind, key, and what follows.
fn split_key(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), EngineError> {
    let split = || {
        let (kind, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (key, suffix) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        (suffix.len() >= 8).then_some((*kind, key, suffix))
    };
    split().ok_or_else(cut_off)
}

/// A version that is final for good.
const FOR_GOOD: i64 = NEVER;

fn codec_of(side: &TimedSide) -> Result<Codec, EngineError> {
    Codec::new(side.key.iter().map(|column| side.schema.field(*column).data_type()))
}
