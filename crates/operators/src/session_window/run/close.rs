//! Evicting sessions: those that close, and those without a change for the TTL.
//!
//! Owns: emitting the rows of closing sessions, if only final rows are emitted, and evicting them. Invariant: a closed
//! session stays in state without rows until any row that could touch it would be late anyway.

use super::Sessions;
use super::merge::{Rows, Session};
use super::output::Output;
use super::place::{Place, number, rows, sessions, stay};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::portions::Portions;
use highwater_dataflow::runtime::stored_row::StoredRow;
use highwater_dataflow::state::{Direction, Keys, Scan, Values, Writes};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

impl Sessions {
    /// Closes sessions that the watermark has passed, both of partitions that the batch has touched and of others.
    pub fn close(
        &self,
        mut touched: BTreeSet<Place>,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        if state.close_before_ms().is_none() {
            return Ok(());
        }
        for (shard, key) in state.closing()?.iter() {
            // Only sessions have a close time.
            touched.insert(Place::in_key(shard, key)?);
        }
        let touched: Vec<Place> = touched.into_iter().collect();
        let mut output = Output::default();
        let mut portions = Portions::of(touched.len());
        while let Some(asked) = portions.next() {
            let found = sessions(touched[asked.clone()].iter(), state)?;
            portions.done(found.len());
            let of_places = touched[asked].iter().zip(found);
            let all = of_places.flat_map(|(place, found)| found.into_iter().map(move |session| (place, session)));
            let over: Vec<(&Place, Session)> =
                all.filter(|(_, session)| state.closes(self.end_ms(session.last))).collect();
            self.close_sessions(over, &mut output, state, out)?;
        }
        out.extend(self.emit(output)?);
        Ok(())
    }

    fn close_sessions(
        &self,
        over: Vec<(&Place, Session)>,
        output: &mut Output,
        state: &mut KeyedState<'_>,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let (open, closed): (Vec<_>, Vec<_>) = over.into_iter().partition(|(_, session)| !session.closed);
        let mut writes = Writes::default();
        for (place, session) in closed {
            if state.closes(self.forgotten_ms(&session)) {
                writes.delete(place.shard, &[&place.session(session.start)]);
            }
        }
        let mut portions = Portions::of(open.len());
        while let Some(asked) = portions.next() {
            let stays = open[asked.clone()].iter().map(|(place, session)| stay(place, (session.start, session.last)));
            let found = rows(&stays.collect::<Vec<_>>(), state)?;
            portions.done(found.len());
            for ((place, session), rows) in open[asked].iter().zip(found) {
                self.close_session(place, session, rows, output, state, &mut writes);
                self.emit_if_full(output, out)?;
            }
            state.put(&mut writes)?;
        }
        state.put(&mut writes)
    }

    fn close_session(
        &self,
        place: &Place,
        session: &Session,
        rows: Rows,
        output: &mut Output,
        state: &KeyedState<'_>,
        writes: &mut Writes,
    ) {
        for ((time, row), weight) in rows {
            writes.delete(place.shard, &[&place.row(time, &row)]);
            if self.spec.on_close {
                (0..weight).for_each(|_| output.add(&row, (session.start, session.last), 1));
            }
        }
        let (key, close_ms) = (place.session(session.start), self.forgotten_ms(session));
        match state.closes(close_ms) {
            true => writes.delete(place.shard, &[&key]),
            false => {
                let kept = StoredRow { close_ms, weight: session.last, count: 1 }.encode();
                writes.put(place.shard, &[&key], &[&kept]);
            }
        }
    }

    /// Returns the time, in milliseconds, from which on any row that could touch a closed session is late anyway.
    fn forgotten_ms(&self, session: &Session) -> i64 {
        self.end_ms(session.last.saturating_add(self.gap))
    }
}

/// Expires sessions without a change for the TTL, with their rows.
pub fn expire(due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
    let (mut values, mut stays, mut forgotten) = (Values::default(), Vec::new(), Keys::default());
    state.get(due, &mut values)?;
    for (at, (shard, key)) in due.iter().enumerate() {
        let place = Place::in_key(shard, key)?;
        let start = number(&key[place.sessions().len()..])?;
        if let Some(session) = StoredRow::read(values.get(at))? {
            stays.push(stay(&place, (start, session.weight)));
        }
    }
    let scans: Vec<Scan<'_>> = stays.iter().map(|stay| stay.scan(Direction::Forward)).collect();
    state.scan(&scans, &mut |at, key, _| {
        forgotten.push(scans[at].shard, &[key]);
        Ok(ControlFlow::Continue(()))
    })?;
    state.forget(&forgotten)?;
    state.forget(due)
}
