//! Late rows, and rows without a time, which an operator drops.
//!
//! Owns: deciding which rows are late, counting them, and keeping those for a sink. Does not own: the close time of a row
//! (the operators), writing late rows (the executor). Invariant: every late row is counted; without a sink for it, it costs
//! nothing more.

use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use arrow::array::{Array, AsArray, BooleanArray, Int64Array};
use arrow::compute::{filter, min, not};
use arrow::datatypes::Int64Type;
use highwater_protocol::ids::OperatorId;
use highwater_protocol::report::OperatorMetrics;

/// Late rows of an operator.
#[derive(Clone, Debug)]
pub struct LateRows {
    pub operator: OperatorId,
    /// The watermark that had passed them, in milliseconds.
    pub watermark_ms: Option<i64>,
    /// The rows, in the schema of the operator's input.
    pub rows: ChangeBatch,
    /// Close time of each row, in milliseconds; NULL = the row has no time.
    pub over_at: Int64Array,
}

/// How rows without a time are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untimed {
    /// They are never late.
    Kept,
    /// They are always late.
    Dropped,
}

/// The late rows of one operator in one batch.
#[derive(Debug)]
pub struct Late {
    operator: OperatorId,
    late_before_ms: Option<i64>,
    /// For each input, true if its late rows are kept; by default none are.
    wanted: Vec<bool>,
    count: u64,
    kept: Vec<(usize, LateRows)>,
}

impl Late {
    /// Rows with a close time at or before `late_before_ms` are late; `None` = no row is.
    pub fn new(operator: OperatorId, late_before_ms: Option<i64>) -> Self {
        Self { operator, late_before_ms, wanted: Vec::new(), count: 0, kept: Vec::new() }
    }

    /// Sets of which inputs late rows are kept.
    pub fn want(&mut self, inputs: &[bool]) {
        self.wanted = inputs.to_vec();
    }

    fn is_wanted(&self, input: usize) -> bool {
        self.wanted.get(input).copied().unwrap_or(false)
    }

    /// True if a row with this close time is late.
    pub fn is_late(&self, over_at_ms: i64) -> bool {
        self.late_before_ms.is_some_and(|before| over_at_ms <= before)
    }

    /// Returns which rows are in time, given their close times; `None` = all are.
    pub fn in_time(&self, over_at: &Int64Array, untimed: Untimed) -> Option<BooleanArray> {
        let keeps_untimed = untimed == Untimed::Kept;
        let no_untimed = keeps_untimed || over_at.null_count() == 0;
        if no_untimed && min(over_at).is_none_or(|earliest| !self.is_late(earliest)) {
            return None;
        }
        Some(over_at.iter().map(|time| Some(time.map_or(keeps_untimed, |time| !self.is_late(time)))).collect())
    }

    /// Returns the rows of an input that are in time, and drops the late ones.
    pub fn drop_late(
        &mut self,
        input: usize,
        rows: ChangeBatch,
        over_at: &Int64Array,
        untimed: Untimed,
    ) -> Result<ChangeBatch, EngineError> {
        match self.in_time(over_at, untimed) {
            Some(keep) => self.drop_from(input, rows, &keep, over_at),
            None => Ok(rows),
        }
    }

    /// Returns the rows of an input where `keep` is true, and drops the others as late.
    pub fn drop_from(
        &mut self,
        input: usize,
        rows: ChangeBatch,
        keep: &BooleanArray,
        over_at: &Int64Array,
    ) -> Result<ChangeBatch, EngineError> {
        let dropped = rows.num_rows() - keep.true_count();
        if dropped == 0 {
            return Ok(rows);
        }
        self.count += dropped as u64;
        if self.is_wanted(input) {
            let late = not(keep)?;
            let over_at = filter(over_at, &late)?.as_primitive::<Int64Type>().clone();
            self.keep(input, rows.filter(&late)?, over_at);
        }
        rows.filter(keep)
    }

    /// Counts late rows of the only input. `rows` is called only if they are kept, and returns them with their close times.
    pub fn note(
        &mut self,
        count: u64,
        rows: impl FnOnce() -> Result<(ChangeBatch, Int64Array), EngineError>,
    ) -> Result<(), EngineError> {
        self.count += count;
        if count > 0 && self.is_wanted(0) {
            let (rows, over_at) = rows()?;
            self.keep(0, rows, over_at);
        }
        Ok(())
    }

    fn keep(&mut self, input: usize, rows: ChangeBatch, over_at: Int64Array) {
        let (operator, watermark_ms) = (self.operator, self.late_before_ms);
        self.kept.push((input, LateRows { operator, watermark_ms, rows, over_at }));
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the counters of an operator that does nothing else.
    pub fn metrics(&self) -> OperatorMetrics {
        OperatorMetrics { operator: self.operator, late_rows: self.count, ..OperatorMetrics::default() }
    }

    /// Returns the rows counted and kept so far, for [`Late::recount`].
    pub fn counted(&self) -> (u64, usize) {
        (self.count, self.kept.len())
    }

    /// Forgets the rows dropped since `counted`; none of them may have been taken.
    pub fn recount(&mut self, (count, kept): (u64, usize)) {
        self.count = count;
        self.kept.truncate(kept);
    }

    /// Returns the late rows kept since the last call, each with its input.
    pub fn take(&mut self) -> Vec<(usize, LateRows)> {
        std::mem::take(&mut self.kept)
    }
}
