//! Running a temporal join.
//!
//! Owns: the rows and versions of this task's shards. In state: a row, `0 | length (u32) | key | time | row`; a
//! version, `1 | length (u32) | key | time | order | row`; times as eight bytes in order. Their values are `StoredRow`;
//! a version's count is the length of its order, or negative for a deletion.
//! Invariants: a row is joined with the latest version that is not after it, and is final once the watermark has passed
//! it, since no version before it can arrive then. A batch emits the difference between the new and the old rows, or,
//! if only final rows are emitted, each row once. Of the versions of a key that the watermark has passed, only the last
//! one stays in state, unless it is a deletion.

mod close;
mod emit;
mod keys;
mod update;
mod versions;
mod view;

use crate::temporal::TemporalSpec;
use arrow::array::{BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{and, is_not_null, not};
use arrow::datatypes::TimeUnit;
use emit::{Emitted, timeless};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::changes::{ChangeCodec, Changes};
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::late::{Late, Untimed};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::Keys;
use keys::{closes, times, unit_of};
use std::sync::Arc;
use versions::VersionCodec;
pub use view::reader;

pub struct Temporal {
    spec: Arc<TemporalSpec>,
    /// The finer unit of the times of both inputs.
    unit: TimeUnit,
    rows: ChangeCodec,
    versions: VersionCodec,
    input: [Vec<ChangeBatch>; 2],
    /// Rows without a time, which match no version.
    timeless: Vec<ChangeBatch>,
}

/// The rows that a batch changes, with their times.
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
        if timed.false_count() > 0 {
            let timeless = rows.filter(&not(&timed)?)?;
            // Without a time there is no version; and where rows are retracted, no watermark ever makes such a row final.
            match spec.keeps_unmatched && !(spec.on_close && spec.input_retracts) {
                true => self.timeless.push(timeless),
                false => drop_timeless(0, timeless, late)?,
            }
        }
        // A row with a NULL in its key has no version, so it is needed only if it is emitted without one.
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

    /// Emits the difference of these rows.
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

    fn check(&self, _: usize, _: &ChangeBatch, _: &Late) -> Result<(), EngineError> {
        Ok(())
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

/// Returns which rows have no NULL in these columns.
fn there(rows: &RecordBatch, columns: &[usize]) -> Result<BooleanArray, EngineError> {
    let mut all = BooleanArray::from(vec![true; rows.num_rows()]);
    for column in columns {
        all = and(&all, &is_not_null(rows.column(*column))?)?;
    }
    Ok(all)
}
