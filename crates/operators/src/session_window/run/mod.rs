//! `SESSION`: rows of a key as long as they come without a gap.
//!
//! Owns: the sessions of this task's shards, and their rows. In state: a session, `0 | length (u32) | partition |
//! start`, whose value holds its close time and its last time; a row, `1 | length (u32) | partition | time | row`.
//! Invariants: sessions of one partition do not touch; a row is late if it touches a session that is closed, or makes
//! one of its own that would be. A closed session is remembered, without rows, until every row that could touch it
//! is late by itself: so the answer never depends on what has been forgotten. Where no watermark closes sessions, a TTL
//! forgets each that had no change for that long, with its rows; its close time is its deadline then.

mod merge;
mod view;

use crate::session_window::SessionSpec;
use arrow::array::{AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::changes::{ChangeCodec, Changes};
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, Keys, NEVER, Scan, Stretch, Values, Writes, closes_at, successor};
use highwater_functions::windows::session::{gap_in, windows};
use highwater_protocol::ids::ShardId;
use merge::{Group, Session, groups, split};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
pub use view::reader;

const SESSION: u8 = 0;
const ROW: u8 = 1;

/// A row that is late: its time, its columns encoded, its weight.
type LateRow = (i64, Vec<u8>, i64);

pub struct Sessions {
    spec: Arc<SessionSpec>,
    changes: ChangeCodec,
    unit: TimeUnit,
    /// In units of the time column.
    gap: i64,
    input: Vec<ChangeBatch>,
}

/// Rows of sessions, with their weights.
type Rows = BTreeMap<(i64, Vec<u8>), i64>;

/// Rows to give, decoded together.
#[derive(Default)]
struct Output {
    rows: Vec<Vec<u8>>,
    bounds: Vec<(i64, i64)>,
    weights: Vec<i64>,
}

impl Output {
    fn add(&mut self, row: &[u8], session: (i64, i64), weight: i64) {
        self.rows.push(row.to_vec());
        self.bounds.push(session);
        self.weights.push(weight);
    }
}

/// A partition in state.
struct Place {
    shard: ShardId,
    /// Length and partition.
    prefix: Vec<u8>,
}

impl Place {
    fn of(shard: ShardId, partition: &[u8]) -> Self {
        let mut prefix = (partition.len() as u32).to_be_bytes().to_vec();
        prefix.extend_from_slice(partition);
        Self { shard, prefix }
    }

    /// The partition's prefix in a key of state.
    fn in_key(key: &[u8]) -> Result<&[u8], EngineError> {
        let length = key.get(1..).and_then(|rest| rest.first_chunk::<4>()).map(|l| u32::from_be_bytes(*l) as usize);
        let prefix = length.and_then(|length| key.get(1..5 + length));
        prefix.ok_or_else(cut_off)
    }

    fn kind(&self, kind: u8) -> Vec<u8> {
        [&[kind], self.prefix.as_slice()].concat()
    }

    fn session(&self, start: i64) -> Vec<u8> {
        [&self.kind(SESSION), sortable(start).as_slice()].concat()
    }

    fn row(&self, time: i64, row: &[u8]) -> Vec<u8> {
        [&self.kind(ROW), sortable(time).as_slice(), row].concat()
    }
}

/// Bytes in the order of the numbers.
fn sortable(number: i64) -> [u8; 8] {
    ((number as u64) ^ (1 << 63)).to_be_bytes()
}

fn cut_off() -> EngineError {
    EngineError::CutOff("a session's key")
}

fn number(bytes: &[u8]) -> Result<i64, EngineError> {
    let bytes = bytes.first_chunk::<8>().ok_or_else(cut_off)?;
    Ok((u64::from_be_bytes(*bytes) ^ (1 << 63)) as i64)
}

impl Sessions {
    pub fn new(spec: Arc<SessionSpec>) -> Result<Self, EngineError> {
        let unit = match spec.input_schema.field(spec.time).data_type() {
            DataType::Timestamp(unit, _) => unit,
            other => return Err(Fault::Type { what: "a session's time", found: other.clone() }.into()),
        };
        Ok(Self {
            changes: ChangeCodec::new(&spec.input_schema, &spec.partition)?,
            unit: *unit,
            gap: gap_in(*unit, spec.gap_ms),
            input: Vec::new(),
            spec,
        })
    }

    /// First instant after a session, milliseconds.
    fn end_ms(&self, last: i64) -> i64 {
        let end = last.saturating_add(self.gap);
        closes_at(match self.unit {
            TimeUnit::Second => end.saturating_mul(1_000),
            TimeUnit::Millisecond => end,
            TimeUnit::Microsecond => end / 1_000,
            TimeUnit::Nanosecond => end / 1_000_000,
        })
    }

    fn sessions(&self, place: &Place, state: &KeyedState<'_>) -> Result<Vec<Session>, EngineError> {
        let prefix = place.kind(SESSION);
        let mut found = Vec::new();
        state.scan_prefix(place.shard, &prefix, |key, value| {
            let (start, kept) = (number(&key[prefix.len()..])?, StoredRow::decode(value)?);
            found.push(Session { start, last: kept.weight, closed: kept.count == 1 });
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// Rows from one time to another.
    fn rows(&self, place: &Place, (first, last): (i64, i64), state: &KeyedState<'_>) -> Result<Rows, EngineError> {
        let prefix = place.kind(ROW);
        let start = place.row(first, &[]);
        let end = match last.checked_add(1) {
            Some(next) => Some(place.row(next, &[])),
            None => successor(&prefix),
        };
        let keys = Stretch::Range { start: &start, end: end.as_deref() };
        let mut rows = Rows::new();
        state.scan(&[Scan { shard: place.shard, keys, direction: Direction::Forward }], &mut |_, key, value| {
            let (time, row) = key[prefix.len()..].split_at_checked(8).ok_or_else(cut_off)?;
            rows.insert((number(time)?, row.to_vec()), StoredRow::decode(value)?.weight);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    fn update(
        &self,
        changes: &Changes,
        state: &mut KeyedState<'_>,
        touched: &mut BTreeSet<(ShardId, Vec<u8>)>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let times = cast(changes.batch.column(self.spec.time), &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>();
        let mut output = Output::default();
        for run in changes.runs() {
            let key = changes.key(run.start);
            let place = Place::of(state.shard_of(key), key);
            let sessions = self.sessions(&place, state)?;
            let (accepted, mut late) = self.accept(&place, &sessions, (changes, run, times), state)?;
            for group in groups(&sessions, accepted, self.gap) {
                if group.old.is_empty() && state.late.is_late(self.end_ms(group.last)) {
                    late.extend(group.changes.into_iter().map(|((time, row), weight)| (time, row, weight)));
                } else {
                    self.apply(&place, group, state, &mut output)?;
                }
            }
            self.drop_late(late, state.late)?;
            touched.insert((place.shard, place.prefix));
            if output.rows.len() > OUTPUT_ROWS {
                out.extend(self.emit(std::mem::take(&mut output))?);
            }
        }
        out.extend(self.emit(output)?);
        Ok(())
    }

    /// Changes of one partition that are in no closed session, and those that are late: deletions of what is not there,
    /// too, unless a TTL has forgotten it.
    fn accept(
        &self,
        place: &Place,
        sessions: &[Session],
        (changes, run, times): (&Changes, Range<usize>, &Int64Array),
        state: &mut KeyedState<'_>,
    ) -> Result<(Rows, Vec<LateRow>), EngineError> {
        let time = |change: usize| times.value(changes.index(change) as usize);
        let (mut keys, mut values) = (Keys::default(), Values::default());
        let deleted: Vec<usize> = run.clone().filter(|change| changes.weight(*change) < 0).collect();
        deleted.iter().for_each(|at| keys.push(place.shard, &[&place.row(time(*at), changes.row(*at))]));
        state.get(&keys, &mut values)?;
        let unknown: BTreeSet<usize> =
            deleted.iter().enumerate().filter(|(at, _)| values.get(*at).is_none()).map(|(_, change)| *change).collect();
        let (mut accepted, mut late) = (Rows::new(), Vec::new());
        for change in run {
            let (time, row, weight) = (time(change), changes.row(change), changes.weight(change));
            let closed = sessions.iter().any(|session| session.closed && session.touches(time, self.gap));
            let unknown = unknown.contains(&change);
            if !closed && unknown && state.expires() {
                state.weight("session", weight)?;
            } else if closed || unknown {
                late.push((time, row.to_vec(), weight));
            } else {
                accepted.insert((time, row.to_vec()), weight);
            }
        }
        Ok((accepted, late))
    }

    /// Counts rows that are in no open session, and keeps them where someone wants them.
    fn drop_late(&self, rows: Vec<LateRow>, late: &mut Late) -> Result<(), EngineError> {
        let count = rows.iter().map(|(_, _, weight)| weight.unsigned_abs()).sum();
        late.note(count, || {
            let columns = self.changes.rows.decode(rows.iter().map(|(_, row, _)| row.as_slice()))?;
            let batch = batch(&self.spec.input_schema, columns, rows.len())?;
            let weights: Int64Array = rows.iter().map(|(_, _, weight)| Some(*weight)).collect();
            let over_at: Int64Array = rows.iter().map(|(time, _, _)| Some(self.end_ms(*time))).collect();
            Ok((ChangeBatch { batch, weights: Some(weights) }, over_at))
        })
    }

    /// Merges, grows or splits sessions that a batch touches.
    fn apply(
        &self,
        place: &Place,
        group: Group,
        state: &mut KeyedState<'_>,
        output: &mut Output,
    ) -> Result<(), EngineError> {
        let shrinks = group.changes.values().any(|weight| *weight < 0);
        let is_same = matches!(group.old.as_slice(), [one] if (one.start, one.last) == (group.start, group.last));
        let moves = !self.spec.on_close && !is_same;
        // Rows are looked at only where their session may have changed.
        let before = match shrinks || moves {
            true => self.rows(place, (group.start, group.last), state)?,
            false => Rows::new(),
        };
        let after = self.write(place, &group.changes, before.clone(), state)?;
        let new = match shrinks {
            true => split(after.keys().map(|(time, _)| *time), self.gap),
            false => vec![(group.start, group.last)],
        };
        let mut writes = Writes::default();
        group.old.iter().for_each(|old| writes.delete(place.shard, &[&place.session(old.start)]));
        for (start, last) in &new {
            let close_ms = if state.expires() { state.deadline() } else { self.end_ms(*last) };
            let kept = StoredRow { close_ms, weight: *last, count: 0 }.encode();
            writes.put(place.shard, &[&place.session(*start)], &[&kept]);
        }
        state.put(&mut writes)?;
        if self.spec.on_close {
            return Ok(());
        }
        let within = |sessions: &[(i64, i64)], time: i64| {
            sessions.iter().copied().find(|(start, last)| (*start..=*last).contains(&time))
        };
        let old: Vec<(i64, i64)> = group.old.iter().map(|session| (session.start, session.last)).collect();
        if old == new {
            for ((time, row), weight) in &group.changes {
                output.add(row, within(&new, *time).unwrap_or_default(), *weight);
            }
            return Ok(());
        }
        for (rows, sessions, sign) in [(&before, &old, -1), (&after, &new, 1)] {
            for ((time, row), weight) in rows {
                output.add(row, within(sessions, *time).unwrap_or_default(), sign * weight);
            }
        }
        Ok(())
    }

    /// Writes the rows that change; returns `rows` with them.
    fn write(
        &self,
        place: &Place,
        changes: &Rows,
        mut rows: Rows,
        state: &mut KeyedState<'_>,
    ) -> Result<Rows, EngineError> {
        let (mut keys, mut values, mut writes) = (Keys::default(), Values::default(), Writes::default());
        changes.keys().for_each(|(time, row)| keys.push(place.shard, &[&place.row(*time, row)]));
        state.get(&keys, &mut values)?;
        for (at, (key, weight)) in changes.iter().enumerate() {
            let weight = state.weight("session", weight + StoredRow::weight_of(values.get(at))?)?;
            let kept = StoredRow { close_ms: NEVER, weight, count: 0 }.encode();
            writes.set(place.shard, &[keys.get(at).1], (weight > 0).then_some(&kept));
            match weight {
                0 => rows.remove(key),
                _ => rows.insert(key.clone(), weight),
            };
        }
        state.put(&mut writes)?;
        Ok(rows)
    }

    fn emit(&self, output: Output) -> Result<Option<ChangeBatch>, EngineError> {
        let count = output.rows.len();
        if count == 0 {
            return Ok(None);
        }
        let mut columns = self.changes.rows.decode(output.rows.iter().map(Vec::as_slice))?;
        let time = self.spec.input_schema.field(self.spec.time).data_type();
        columns.truncate(self.spec.width);
        columns.push(windows(&output.bounds, time, self.gap)?);
        let batch = batch(&self.spec.output_schema, columns, count)?;
        // Final rows are only ever added: they carry no weights.
        let weights = (!self.spec.on_close).then(|| Int64Array::from(output.weights));
        Ok(Some(ChangeBatch { batch, weights }))
    }

    /// Sessions whose time is over: emitted now, if final rows are wanted, and forgotten.
    fn close(
        &self,
        mut touched: BTreeSet<(ShardId, Vec<u8>)>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        if state.close_before_ms().is_none() {
            return Ok(());
        }
        for (shard, key) in state.closing()?.iter() {
            // Only sessions have a close time.
            touched.insert((shard, Place::in_key(key)?.to_vec()));
        }
        let (mut output, mut writes) = (Output::default(), Writes::default());
        for (shard, prefix) in touched {
            let place = Place { shard, prefix };
            for session in self.sessions(&place, state)?.into_iter().filter(|one| state.closes(self.end_ms(one.last))) {
                let forgotten = self.end_ms(session.last.saturating_add(self.gap));
                let key = place.session(session.start);
                if !session.closed {
                    for ((time, row), weight) in self.rows(&place, (session.start, session.last), state)? {
                        writes.delete(shard, &[&place.row(time, &row)]);
                        if self.spec.on_close {
                            (0..weight).for_each(|_| output.add(&row, (session.start, session.last), 1));
                        }
                    }
                    let kept = StoredRow { close_ms: forgotten, weight: session.last, count: 1 }.encode();
                    writes.put(shard, &[&key], &[&kept]);
                }
                if state.closes(forgotten) {
                    writes.delete(shard, &[&key]);
                }
            }
            state.put(&mut writes)?;
            if output.rows.len() > OUTPUT_ROWS {
                out.extend(self.emit(std::mem::take(&mut output))?);
            }
        }
        out.extend(self.emit(output)?);
        Ok(())
    }
}

impl Stateful for Sessions {
    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn counts(&self) -> Counts {
        Counts::Taker
    }

    fn push(&mut self, _: usize, rows: ChangeBatch, _: &mut Late) -> Result<(), EngineError> {
        // Which rows are late, the sessions say.
        self.input.push(rows);
        Ok(())
    }

    /// Sessions without a change for the TTL go with their rows.
    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        let mut rows = Keys::default();
        for (shard, key) in due.iter() {
            let place = Place { shard, prefix: Place::in_key(key)?.to_vec() };
            let start = number(&key[1 + place.prefix.len()..])?;
            let session = self.sessions(&place, state)?.into_iter().find(|session| session.start == start);
            if let Some(session) = session {
                for (time, row) in self.rows(&place, (session.start, session.last), state)?.into_keys() {
                    rows.push(shard, &[&place.row(time, &row)]);
                }
            }
        }
        state.forget(&rows)?;
        state.forget(due)
    }

    fn finish(&mut self, state: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let input = std::mem::take(&mut self.input);
        let mut touched = BTreeSet::new();
        if let Some(changes) = self.changes.consolidate(&input)? {
            self.update(&changes, state, &mut touched, out)?;
        }
        self.close(touched, state, out)
    }
}
