//! Applying a batch's rows to the sessions of their partitions.
//!
//! Owns: reading partitions together, in portions, and writing changes. Does not own: which sessions result (`merge`).
//! Invariant: rows of state are read only if their session may have changed.

use super::merge::{Change, Changed, Group, Rows, Session, groups, split};
use super::output::Output;
use super::place::{Place, rows, sessions, stay};
use super::{LateRow, Sessions};
use arrow::array::{AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::Changes;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::pipeline::OUTPUT_ROWS;
use highwater_dataflow::runtime::portions::Portions;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{KeyRange, Keys, NEVER, Values, Writes};
use std::collections::BTreeSet;
use std::ops::Range;

/// A partition that a batch changes, with its range of the changes.
type Touched = (Place, Range<usize>);

/// The changes of a batch, with their times.
struct Batch<'a> {
    changes: &'a Changes,
    times: &'a Int64Array,
}

impl Batch<'_> {
    fn time(&self, change: usize) -> i64 {
        self.times.value(self.changes.index(change) as usize)
    }
}

impl Sessions {
    /// Applies the changes of a batch, some partitions at a time.
    pub fn update(
        &self,
        changes: &Changes,
        state: &mut KeyedState<'_>,
        touched: &mut BTreeSet<Place>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let times = cast(changes.batch.column(self.spec.time), &DataType::Int64)?;
        let batch = Batch { changes, times: times.as_primitive::<Int64Type>() };
        let mut output = Output::default();
        let mut runs = changes.runs().peekable();
        while runs.peek().is_some() {
            let (mut partitions, mut rows): (Vec<Touched>, usize) = Default::default();
            while let Some(run) = runs.next_if(|_| rows < OUTPUT_ROWS) {
                rows += run.len();
                let key = changes.key(run.start);
                partitions.push((Place::of(state.shard_of(key), key), run));
            }
            let weights = weights(&batch, &partitions, state)?;
            let mut portions = Portions::of(partitions.len());
            while let Some(asked) = portions.next() {
                let found = sessions(partitions[asked.clone()].iter().map(|(place, _)| place), state)?;
                portions.done(found.len());
                let mut work = Vec::new();
                for (at, found) in asked.zip(found) {
                    let place = &partitions[at].0;
                    let of_place = self.groups(&batch, &partitions[at], &found, &weights[at], state)?;
                    work.extend(of_place.into_iter().map(|group| (place, group)));
                }
                self.apply(work, state, &mut output, out)?;
            }
            touched.extend(partitions.into_iter().map(|(place, _)| place));
        }
        out.extend(self.emit(output)?);
        Ok(())
    }

    /// Returns the sessions of a partition that change. Drops late rows.
    fn groups(
        &self,
        batch: &Batch<'_>,
        (_, run): &Touched,
        sessions: &[Session],
        before: &[Option<i64>],
        state: &mut KeyedState<'_>,
    ) -> Result<Vec<Group>, EngineError> {
        let (accepted, mut late) = self.accept(batch, run, sessions, before, state)?;
        let mut changed = groups(sessions, accepted, self.gap);
        let is_late = |group: &mut Group| group.old.is_empty() && state.late.is_late(self.end_ms(group.last));
        for group in changed.extract_if(.., is_late) {
            late.extend(group.changes.into_iter().map(|((time, row), change)| (time, row, change.weight)));
        }
        self.drop_late(late, state.late)?;
        Ok(changed)
    }

    /// Splits the changes of a partition into accepted and late ones. A change is late if it touches a closed session,
    /// or if it retracts a row that is not in state. With a TTL, such a retract is only counted, since the row may have
    /// expired.
    fn accept(
        &self,
        batch: &Batch<'_>,
        run: &Range<usize>,
        sessions: &[Session],
        before: &[Option<i64>],
        state: &mut KeyedState<'_>,
    ) -> Result<(Changed, Vec<LateRow>), EngineError> {
        let (mut accepted, mut late) = (Changed::new(), Vec::new());
        for (change, before) in run.clone().zip(before) {
            let (time, row) = (batch.time(change), batch.changes.row(change));
            let weight = batch.changes.weight(change);
            let closed = sessions.iter().any(|session| session.closed && session.touches(time, self.gap));
            let unknown = weight < 0 && before.is_none();
            if !closed && unknown && state.expires() {
                state.weight("session", weight)?;
            } else if closed || unknown {
                late.push((time, row.to_vec(), weight));
            } else {
                accepted.insert((time, row.to_vec()), Change { before: before.unwrap_or_default(), weight });
            }
        }
        Ok((accepted, late))
    }

    /// Returns whether the rows of these sessions must be read, because they may belong to other sessions now.
    fn moves(&self, group: &Group) -> bool {
        let is_same = matches!(group.old.as_slice(), [one] if (one.start, one.last) == (group.start, group.last));
        shrinks(group) || !self.spec.on_close && !is_same
    }

    /// Merges, extends or splits sessions.
    fn apply(
        &self,
        work: Vec<(&Place, Group)>,
        state: &mut KeyedState<'_>,
        output: &mut Output,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let moving = work.iter().filter(|(_, group)| self.moves(group));
        let stays: Vec<KeyRange> = moving.map(|(place, group)| stay(place, (group.start, group.last))).collect();
        let mut portions = Portions::of(stays.len());
        let mut found = Vec::new().into_iter();
        let mut writes = Writes::default();
        for (place, group) in work {
            let mut before = Rows::new();
            if self.moves(&group) {
                if let (true, Some(asked)) = (found.len() == 0, portions.next()) {
                    state.put(&mut writes)?;
                    let rows = rows(&stays[asked], state)?;
                    portions.done(rows.len());
                    found = rows.into_iter();
                }
                before = found.next().unwrap_or_default();
            }
            self.apply_group(place, &group, &before, state, &mut writes, output)?;
            self.emit_if_full(output, out)?;
        }
        state.put(&mut writes)
    }

    /// Writes one group, and emits the difference. `before` holds its rows, or is empty if they are not needed.
    fn apply_group(
        &self,
        place: &Place,
        group: &Group,
        before: &Rows,
        state: &mut KeyedState<'_>,
        writes: &mut Writes,
        output: &mut Output,
    ) -> Result<(), EngineError> {
        let after = change_rows(place, &group.changes, before.clone(), state, writes)?;
        let new = match shrinks(group) {
            true => split(after.keys().map(|(time, _)| *time), self.gap),
            false => vec![(group.start, group.last)],
        };
        group.old.iter().for_each(|old| writes.delete(place.shard, &[&place.session(old.start)]));
        for (start, last) in &new {
            let close_ms = if state.expires() { state.deadline() } else { self.end_ms(*last) };
            let kept = StoredRow { close_ms, weight: *last, count: 0 }.encode();
            writes.put(place.shard, &[&place.session(*start)], &[&kept]);
        }
        if self.spec.on_close {
            return Ok(());
        }
        let within = |sessions: &[(i64, i64)], time: i64| {
            sessions.iter().copied().find(|(start, last)| (*start..=*last).contains(&time))
        };
        let old: Vec<(i64, i64)> = group.old.iter().map(|session| (session.start, session.last)).collect();
        if old == new {
            for ((time, row), change) in &group.changes {
                output.add(row, within(&new, *time).unwrap_or_default(), change.weight);
            }
            return Ok(());
        }
        for (rows, sessions, sign) in [(before, &old, -1), (&after, &new, 1)] {
            for ((time, row), weight) in rows {
                output.add(row, within(sessions, *time).unwrap_or_default(), sign * weight);
            }
        }
        Ok(())
    }
}

fn shrinks(group: &Group) -> bool {
    group.changes.values().any(|change| change.weight < 0)
}

/// Returns the weight of each changed row before the batch, by partition; `None` if it was not in state.
fn weights(
    batch: &Batch<'_>,
    partitions: &[Touched],
    state: &KeyedState<'_>,
) -> Result<Vec<Vec<Option<i64>>>, EngineError> {
    let (mut keys, mut values) = (Keys::default(), Values::default());
    for (place, run) in partitions {
        let key = |change| place.row(batch.time(change), batch.changes.row(change));
        run.clone().for_each(|change| keys.push(place.shard, &[&key(change)]));
    }
    state.get(&keys, &mut values)?;
    let mut places = 0..keys.len();
    let weight = |place| Ok(StoredRow::read(values.get(place))?.map(|kept| kept.weight));
    partitions.iter().map(|(_, run)| places.by_ref().take(run.len()).map(weight).collect()).collect()
}

/// Writes the changed rows, and returns `rows` with the changes applied.
fn change_rows(
    place: &Place,
    changes: &Changed,
    mut rows: Rows,
    state: &mut KeyedState<'_>,
    writes: &mut Writes,
) -> Result<Rows, EngineError> {
    for (key, change) in changes {
        let weight = state.weight("session", change.weight + change.before)?;
        let kept = StoredRow { close_ms: NEVER, weight, count: 0 }.encode();
        writes.set(place.shard, &[&place.row(key.0, &key.1)], (weight > 0).then_some(&kept));
        match weight {
            0 => rows.remove(key),
            _ => rows.insert(key.clone(), weight),
        };
    }
    Ok(rows)
}
