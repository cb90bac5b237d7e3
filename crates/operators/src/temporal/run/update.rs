//! Applying a batch's rows and versions to state, and finding the rows whose version changes.
//!
//! Owns: reading keys together, in portions, and writing changes. Does not own: changing versions (`versions`), the
//! output (`emit`). Invariant: the versions of rows are looked up before anything of their key is written, and again
//! afterwards.

use super::emit::Emitted;
use super::keys::{ROW, decode_time, encode_time, prefix_of};
use super::versions::{self, KeyChanges, versions_at};
use super::{RowChanges, Temporal};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::pipeline::OUTPUT_ROWS;
use highwater_dataflow::runtime::portions::Portions;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, KeyRange, Keys, Scan, Values, Writes, successor};
use highwater_protocol::ids::ShardId;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

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

/// The changes of a batch to one key.
struct KeyWork<'a> {
    shard: ShardId,
    key: &'a [u8],
    /// Prefix of the state keys of its rows.
    prefix: Vec<u8>,
    run: Range<usize>,
    versions: Option<&'a KeyChanges>,
    /// Rows that change, and emitted rows whose version may change, by time and row.
    affected: BTreeMap<Vec<u8>, Affected>,
}

impl KeyWork<'_> {
    /// Returns the number of changes.
    fn changes(&self) -> usize {
        self.run.len() + self.versions.map_or(0, KeyChanges::len)
    }

    /// Returns the range of rows whose version may change: from the first changed version on. `None` if no version
    /// changes.
    fn concerned(&self) -> Option<KeyRange> {
        let (first, _) = self.versions?.first_key_value()?;
        let start = [self.prefix.as_slice(), first.get(..8).unwrap_or_default()].concat();
        Some(KeyRange { shard: self.shard, start, end: successor(&self.prefix) })
    }

    /// Returns key and time of the affected rows in order, each with a value computed from it.
    fn at<T>(&self, of: impl Fn(&Affected) -> T) -> impl Iterator<Item = (ShardId, &[u8], i64, T)> {
        self.affected.values().map(move |row| (self.shard, self.key, row.time, of(row)))
    }
}

impl Temporal {
    /// Applies the changes of a batch, some keys at a time, and emits the differences.
    pub(super) fn update(
        &self,
        rows: Option<&RowChanges>,
        versions: &BTreeMap<Vec<u8>, KeyChanges>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let mut all: BTreeMap<&[u8], (Range<usize>, Option<&KeyChanges>)> =
            versions.iter().map(|(key, changes)| (key.as_slice(), (0..0, Some(changes)))).collect();
        if let Some(rows) = rows {
            for run in rows.changes.runs() {
                let key = rows.changes.key(run.start);
                all.entry(key).or_default().0 = run;
            }
        }
        let mut all = all.into_iter().peekable();
        let mut emitted = Vec::new();
        while all.peek().is_some() {
            let (mut work, mut changes) = (Vec::new(), 0);
            while let Some((key, (run, versions))) = all.next_if(|_| changes < OUTPUT_ROWS) {
                let (shard, prefix) = (state.shard_of(key), prefix_of(ROW, key));
                let one = KeyWork { shard, key, prefix, run, versions, affected: BTreeMap::new() };
                changes += one.changes();
                work.push(one);
            }
            if let Some(rows) = rows {
                look_up(rows, &mut work, state)?;
            }
            let mut portions = Portions::of(work.len());
            while let Some(asked) = portions.next() {
                let keys = self.add_emitted(&mut work[asked.clone()], state)?;
                portions.done(keys);
                self.settle(&work[asked.start..asked.start + keys], &mut emitted, state, out)?;
                // Frees the memory of keys that are done.
                work[asked.start..asked.start + keys].iter_mut().for_each(|one| one.affected.clear());
            }
        }
        self.emit(emitted, out)
    }

    /// Reads the emitted rows whose version may change, for a portion of these keys, from the first. Returns the number
    /// of keys read.
    fn add_emitted(&self, work: &mut [KeyWork<'_>], state: &KeyedState<'_>) -> Result<usize, EngineError> {
        if self.spec.on_close {
            return Ok(work.len());
        }
        let concerned = work.iter().enumerate().filter_map(|(at, one)| Some((at, one.concerned()?)));
        let concerned: Vec<(usize, KeyRange)> = concerned.collect();
        let scans: Vec<Scan<'_>> = concerned.iter().map(|(_, range)| range.scan(Direction::Forward)).collect();
        let complete = state.scan_portion(&scans, &mut |place, key, value| {
            let KeyWork { prefix, affected, .. } = &mut work[concerned[place].0];
            let suffix = &key[prefix.len()..];
            let (kept, time) = (StoredRow::decode(value)?, decode_time(suffix)?);
            let known = Affected { time, old: Some(kept), delta: 0, close_ms: kept.close_ms };
            affected.entry(suffix.to_vec()).or_insert(known);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(concerned.get(complete).map_or(work.len(), |(at, _)| *at))
    }

    /// Writes the changes of these keys, and collects the differences in `emitted`, which are emitted once there are
    /// enough.
    fn settle(
        &self,
        work: &[KeyWork<'_>],
        emitted: &mut Vec<Emitted>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let was_emitted = |row: &Affected| !self.spec.on_close && row.old_weight() > 0;
        let wanted = work.iter().flat_map(|one| one.at(was_emitted));
        let before = versions_at(state, wanted.map(|(shard, key, time, is)| is.then_some((shard, key, time))))?;
        let mut writes = Writes::default();
        let changed = work.iter().filter_map(|one| Some((one.shard, one.key, one.versions?)));
        versions::apply(changed, state, &mut writes)?;
        let weights = self.write_rows(work, state, &mut writes)?;
        state.put(&mut writes)?;
        let rows = work.iter().flat_map(|one| one.at(|_| ())).zip(&weights);
        let wanted = rows.map(|((shard, key, time, ()), weight)| (*weight > 0).then_some((shard, key, time)));
        let after = versions_at(state, wanted)?;
        let mut versions = weights.into_iter().zip(before.into_iter().zip(after));
        for one in work {
            for ((suffix, row), (new_weight, (old, new))) in one.affected.iter().zip(&mut versions) {
                let old_weight = if self.spec.on_close { 0 } else { row.old_weight() };
                if old != new || old_weight != new_weight {
                    emitted.push(Emitted { row: suffix[8..].to_vec(), old, new, old_weight, new_weight });
                }
            }
            if emitted.len() >= OUTPUT_ROWS {
                self.emit(std::mem::take(emitted), out)?;
            }
        }
        Ok(())
    }

    /// Adds the writes of rows. Returns the weight of each row in the output after the batch.
    fn write_rows(
        &self,
        work: &[KeyWork<'_>],
        state: &mut KeyedState<'_>,
        writes: &mut Writes,
    ) -> Result<Vec<i64>, EngineError> {
        let mut weights = Vec::new();
        for KeyWork { shard, prefix, affected, .. } in work {
            for (suffix, row) in affected {
                let weight = state.weight("temporal join", row.old_weight() + row.delta)?;
                let is_over = state.closes(row.close_ms);
                let is_gone = weight == 0 || is_over;
                if is_gone && row.old.is_some() || !is_gone && row.delta != 0 {
                    let kept = StoredRow { close_ms: row.close_ms, weight, count: 0 }.encode();
                    writes.set(*shard, &[prefix, suffix], (!is_gone).then_some(&kept));
                }
                weights.push(if self.spec.on_close && !is_over { 0 } else { weight });
            }
        }
        Ok(weights)
    }
}

/// Looks up the old state of the rows that change.
fn look_up(
    RowChanges { changes, times, closes }: &RowChanges,
    work: &mut [KeyWork<'_>],
    state: &KeyedState<'_>,
) -> Result<(), EngineError> {
    let (mut keys, mut values) = (Keys::default(), Values::default());
    for KeyWork { shard, prefix, run, .. } in work.iter() {
        for change in run.clone() {
            let time = encode_time(times.value(changes.index(change) as usize));
            keys.push(*shard, &[prefix, &time, changes.row(change)]);
        }
    }
    state.get(&keys, &mut values)?;
    let mut places = 0..keys.len();
    for KeyWork { prefix, run, affected, .. } in work {
        for (change, place) in run.clone().zip(&mut places) {
            let row = changes.index(change) as usize;
            let old = StoredRow::read(values.get(place))?;
            let (time, delta, close_ms) = (times.value(row), changes.weight(change), closes.value(row));
            affected.insert(keys.get(place).1[prefix.len()..].to_vec(), Affected { time, old, delta, close_ms });
        }
    }
    Ok(())
}
