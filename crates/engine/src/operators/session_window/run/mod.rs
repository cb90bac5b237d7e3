//! `SESSION`: rows of a key as long as they come without a gap.
//!
//! Owns: the sessions of this task's shards, and their rows. In state: a session, `0 | length (u32) | partition |
//! start`, whose value holds its close time and its last time; a row, `1 | length (u32) | partition | time | row`.
//! Invariants: sessions of one partition do not touch; a row is late if it touches a session that is closed, or makes
//! one of its own that would be. A closed session is remembered, without rows, until every row that could touch it
//! is late by itself: so the answer never depends on what has been forgotten. Where no watermark closes sessions, a TTL
//! forgets each that had no change for that long, with its rows; its close time is its deadline then.

mod merge;

use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::operators::session_window::SessionSpec;
use crate::runtime::BatchContext;
use crate::runtime::changes::{ChangeCodec, Changes};
use crate::runtime::keys::shard_of;
use crate::runtime::late::{Late, LateRows};
use crate::runtime::pipeline::{OUTPUT_ROWS, batch};
use crate::runtime::stateful::Stateful;
use crate::runtime::stored_row::StoredRow;
use crate::runtime::ttl::Ttl;
use crate::state::{Direction, NEVER, TaskState, closes_at};
use arrow::array::{AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit};
use highwater_functions::windows::session::{gap_in, windows};
use highwater_protocol::ids::{OperatorId, ShardId};
use merge::{Group, Session, groups, split};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

const SESSION: u8 = 0;
const ROW: u8 = 1;

pub struct Sessions {
    operator: OperatorId,
    spec: Arc<SessionSpec>,
    shards: u16,
    late_before_ms: Option<i64>,
    close_before_ms: Option<i64>,
    ttl: Ttl,
    changes: ChangeCodec,
    unit: TimeUnit,
    /// In units of the time column.
    gap: i64,
    input: Vec<ChangeBatch>,
    late: Late,
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
        prefix.ok_or_else(|| EngineError::Internal("a session's key is cut off".into()))
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

fn number(bytes: &[u8]) -> Result<i64, EngineError> {
    let bytes = bytes.first_chunk::<8>().ok_or_else(|| EngineError::Internal("a session's key is cut off".into()))?;
    Ok((u64::from_be_bytes(*bytes) ^ (1 << 63)) as i64)
}

impl Sessions {
    pub fn new(operator: OperatorId, spec: Arc<SessionSpec>, context: &BatchContext) -> Result<Self, EngineError> {
        let DataType::Timestamp(unit, _) = spec.input_schema.field(spec.time).data_type() else {
            return Err(EngineError::Internal("a session's time is no timestamp".into()));
        };
        let closes = spec.closes;
        Ok(Self {
            operator,
            shards: context.shards,
            ttl: Ttl::of(operator, context),
            late_before_ms: BatchContext::least(&context.late_before, &spec.watermark).filter(|_| closes),
            close_before_ms: BatchContext::least(&context.close_before, &spec.watermark).filter(|_| closes),
            changes: ChangeCodec::new(&spec.input_schema, &spec.partition)?,
            unit: *unit,
            gap: gap_in(*unit, spec.gap_ms),
            input: Vec::new(),
            late: Late::default(),
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

    fn is_late(&self, last: i64) -> bool {
        self.late_before_ms.is_some_and(|before| self.end_ms(last) <= before)
    }

    fn sessions(&self, place: &Place, state: &TaskState) -> Result<Vec<Session>, EngineError> {
        let prefix = place.kind(SESSION);
        let mut found = Vec::new();
        let mut failed = None;
        state.walk(self.operator, place.shard, &prefix, Direction::Forward, &mut |key, value| match number(
            &key[prefix.len()..],
        )
        .and_then(|start| Ok((start, StoredRow::decode(value)?)))
        {
            Ok((start, kept)) => {
                found.push(Session { start, last: kept.weight, closed: kept.count == 1 });
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        });
        failed.map_or(Ok(found), Err)
    }

    /// Rows from one time to another.
    fn rows(&self, place: &Place, (first, last): (i64, i64), state: &TaskState) -> Result<Rows, EngineError> {
        let prefix = place.kind(ROW);
        let mut rows = Rows::new();
        let mut failed = None;
        state.walk(self.operator, place.shard, &prefix, Direction::Forward, &mut |key, value| match number(
            &key[prefix.len()..],
        )
        .and_then(|time| Ok((time, StoredRow::decode(value)?)))
        {
            Ok((time, _)) if time > last => ControlFlow::Break(()),
            Ok((time, kept)) => {
                if time >= first {
                    rows.insert((time, key[prefix.len() + 8..].to_vec()), kept.weight);
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        });
        failed.map_or(Ok(rows), Err)
    }

    fn update(
        &mut self,
        changes: &Changes,
        state: &mut TaskState,
        touched: &mut BTreeSet<(ShardId, Vec<u8>)>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let times = cast(changes.batch.column(self.spec.time), &DataType::Int64)?;
        let times = times.as_primitive::<Int64Type>();
        let mut output = Output::default();
        let mut at = 0;
        while at < changes.len() {
            let end = changes.key_end(at);
            let shard = shard_of(changes.key(at), self.shards);
            if !state.owns(shard) {
                return Err(EngineError::MissingShard(shard));
            }
            let place = Place::of(shard, changes.key(at));
            let sessions = self.sessions(&place, state)?;
            let (mut accepted, mut late) = (Rows::new(), Vec::new());
            for change in at..end {
                let time = times.value(changes.index(change) as usize);
                let (row, weight) = (changes.row(change), changes.weight(change));
                let closed = sessions.iter().any(|session| session.closed && session.touches(time, self.gap));
                let unknown = || !state.read(self.operator, shard, &place.row(time, row), &mut Vec::new());
                if !closed && self.ttl.is_on() && weight < 0 && unknown() {
                    self.ttl.missing("session", weight)?;
                } else if closed || weight < 0 && unknown() {
                    late.push((time, row.to_vec(), weight));
                } else {
                    accepted.insert((time, row.to_vec()), weight);
                }
            }
            for group in groups(&sessions, accepted, self.gap) {
                if group.old.is_empty() && self.is_late(group.last) {
                    late.extend(group.changes.into_iter().map(|((time, row), weight)| (time, row, weight)));
                } else {
                    self.apply(&place, group, state, &mut output)?;
                }
            }
            self.drop_late(late)?;
            touched.insert((shard, place.prefix));
            at = end;
            if output.rows.len() > OUTPUT_ROWS {
                out.extend(self.emit(std::mem::take(&mut output))?);
            }
        }
        out.extend(self.emit(output)?);
        Ok(())
    }

    /// Counts rows that are in no open session, and keeps them where someone wants them.
    fn drop_late(&mut self, rows: Vec<(i64, Vec<u8>, i64)>) -> Result<(), EngineError> {
        let count = rows.iter().map(|(_, _, weight)| weight.unsigned_abs()).sum();
        let over_at: Int64Array = rows.iter().map(|(time, _, _)| Some(self.end_ms(*time))).collect();
        let Self { late, changes, spec, operator, late_before_ms, .. } = self;
        late.note(count, || {
            let columns = changes.rows.decode(rows.iter().map(|(_, row, _)| row.as_slice()))?;
            let batch = batch(&spec.input_schema, columns, rows.len())?;
            let weights: Int64Array = rows.iter().map(|(_, _, weight)| Some(*weight)).collect();
            let rows = ChangeBatch { batch, weights: Some(weights) };
            Ok(LateRows { operator: *operator, watermark_ms: *late_before_ms, rows, over_at })
        })
    }

    /// Merges, grows or splits sessions that a batch touches.
    fn apply(
        &self,
        place: &Place,
        group: Group,
        state: &mut TaskState,
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
        let mut after = before.clone();
        for ((time, row), weight) in &group.changes {
            let key = place.row(*time, row);
            let mut value = Vec::new();
            let there = state.read(self.operator, place.shard, &key, &mut value);
            let mut weight = weight + if there { StoredRow::decode(&value)?.weight } else { 0 };
            if weight < 0 {
                self.ttl.missing("session", weight)?;
                weight = 0;
            }
            let kept = StoredRow { close_ms: NEVER, weight, count: 0 };
            state.put(self.operator, place.shard, &key, (weight > 0).then(|| kept.encode()));
            match weight {
                0 => after.remove(&(*time, row.clone())),
                _ => after.insert((*time, row.clone()), weight),
            };
        }
        let new = match shrinks {
            true => split(after.keys().map(|(time, _)| *time), self.gap),
            false => vec![(group.start, group.last)],
        };
        for old in &group.old {
            state.put(self.operator, place.shard, &place.session(old.start), None);
        }
        for (start, last) in &new {
            let close_ms = if self.ttl.is_on() { self.ttl.deadline() } else { self.end_ms(*last) };
            let kept = StoredRow { close_ms, weight: *last, count: 0 };
            state.put(self.operator, place.shard, &place.session(*start), Some(kept.encode()));
        }
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

    /// Sessions without a change for the TTL.
    fn expire(&self, state: &mut TaskState) -> Result<(), EngineError> {
        for (shard, key) in self.ttl.due(state) {
            let place = Place { shard, prefix: Place::in_key(&key)?.to_vec() };
            let start = number(&key[1 + place.prefix.len()..])?;
            let session = self.sessions(&place, state)?.into_iter().find(|session| session.start == start);
            if let Some(session) = session {
                for (time, row) in self.rows(&place, (session.start, session.last), state)?.into_keys() {
                    self.ttl.forget(state, shard, &place.row(time, &row));
                }
            }
            self.ttl.forget(state, shard, &key);
        }
        Ok(())
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
        state: &mut TaskState,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let Some(close_before) = self.close_before_ms else { return Ok(()) };
        for (shard, key) in state.due(self.operator, close_before) {
            // Only sessions have a close time.
            touched.insert((shard, Place::in_key(&key)?.to_vec()));
        }
        let mut output = Output::default();
        for (shard, prefix) in touched {
            let place = Place { shard, prefix };
            for session in self.sessions(&place, state)? {
                let end = self.end_ms(session.last);
                let forgotten = self.end_ms(session.last.saturating_add(self.gap));
                let key = place.session(session.start);
                if !session.closed && end <= close_before {
                    for ((time, row), weight) in self.rows(&place, (session.start, session.last), state)? {
                        state.put(self.operator, shard, &place.row(time, &row), None);
                        if self.spec.on_close {
                            (0..weight).for_each(|_| output.add(&row, (session.start, session.last), 1));
                        }
                    }
                    let kept = StoredRow { close_ms: forgotten, weight: session.last, count: 1 };
                    state.put(self.operator, shard, &key, Some(kept.encode()));
                }
                if end <= close_before && forgotten <= close_before {
                    state.put(self.operator, shard, &key, None);
                }
            }
            if output.rows.len() > OUTPUT_ROWS {
                out.extend(self.emit(std::mem::take(&mut output))?);
            }
        }
        out.extend(self.emit(output)?);
        Ok(())
    }
}

impl Stateful for Sessions {
    fn operator(&self) -> Option<OperatorId> {
        Some(self.operator)
    }

    fn push(&mut self, _: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        self.input.push(rows);
        Ok(())
    }

    fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        self.expire(state)?;
        let input = std::mem::take(&mut self.input);
        let mut touched = BTreeSet::new();
        if let Some(changes) = self.changes.consolidate(&input)? {
            self.update(&changes, state, &mut touched, out)?;
        }
        self.close(touched, state, out)
    }

    fn late(&mut self) -> Option<&mut Late> {
        Some(&mut self.late)
    }

    fn late_rows(&self) -> u64 {
        self.late.count()
    }

    fn ttl(&self) -> Option<&Ttl> {
        Some(&self.ttl)
    }
}
