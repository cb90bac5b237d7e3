//! Running `SESSION` windows.
//!
//! Owns: the sessions of this task's shards, and their rows. In state (`place`): sessions, whose values hold their
//! close time and the time of their last row, and rows.
//! Invariants: sessions of one partition do not touch; a row is late if it touches a closed session, or would begin a
//! session that is closed already. A closed session stays in state without rows until any row that could touch it is
//! late anyway, so the result never depends on what was evicted. If no watermark closes sessions, a TTL expires each
//! session that had no change for that long, with its rows; its close time is then its deadline.

mod close;
mod merge;
mod output;
mod place;
mod update;
mod view;

use crate::session_window::SessionSpec;
use arrow::array::Int64Array;
use arrow::datatypes::{DataType, TimeUnit};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::changes::ChangeCodec;
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::pipeline::batch;
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::{Keys, closes_at};
use highwater_functions::windows::session::gap_in;
use std::collections::BTreeSet;
use std::sync::Arc;
pub use view::reader;

/// A late row: its time, its encoded columns, its weight.
type LateRow = (i64, Vec<u8>, i64);

pub struct Sessions {
    spec: Arc<SessionSpec>,
    changes: ChangeCodec,
    unit: TimeUnit,
    /// The gap in units of the time column.
    gap: i64,
    input: Vec<ChangeBatch>,
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

    /// Returns the first instant after a session whose last row has the time `last`, in milliseconds.
    pub fn end_ms(&self, last: i64) -> i64 {
        let end = last.saturating_add(self.gap);
        closes_at(match self.unit {
            TimeUnit::Second => end.saturating_mul(1_000),
            TimeUnit::Millisecond => end,
            TimeUnit::Microsecond => end / 1_000,
            TimeUnit::Nanosecond => end / 1_000_000,
        })
    }

    /// Counts late rows, and passes them on if the query has a `late_topic`.
    pub fn drop_late(&self, rows: Vec<LateRow>, late: &mut Late) -> Result<(), EngineError> {
        let count = rows.iter().map(|(_, _, weight)| weight.unsigned_abs()).sum();
        late.note(count, || {
            let columns = self.changes.rows.decode(rows.iter().map(|(_, row, _)| row.as_slice()))?;
            let batch = batch(&self.spec.input_schema, columns, rows.len())?;
            let weights: Int64Array = rows.iter().map(|(_, _, weight)| Some(*weight)).collect();
            let over_at: Int64Array = rows.iter().map(|(time, _, _)| Some(self.end_ms(*time))).collect();
            Ok((ChangeBatch { batch, weights: Some(weights) }, over_at))
        })
    }
}

impl Stateful for Sessions {
    fn keeps(&self) -> Keeps {
        Keeps::State
    }

    fn counts(&self) -> Counts {
        Counts::Taker
    }

    fn check(&self, _: usize, _: &ChangeBatch, _: &Late) -> Result<(), EngineError> {
        Ok(())
    }

    fn push(&mut self, _: usize, rows: ChangeBatch, _: &mut Late) -> Result<(), EngineError> {
        // Lateness depends on the sessions, so it is decided in `finish`.
        self.input.push(rows);
        Ok(())
    }

    fn expire(&mut self, due: &Keys, state: &mut KeyedState<'_>) -> Result<(), EngineError> {
        close::expire(due, state)
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
