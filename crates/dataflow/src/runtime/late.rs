//! Rows an operator drops because their time is over, or because they have none.
//!
//! Owns: what is late, counting such rows, and keeping those that someone wants. Does not own: when a row's time is over
//! (the operators), where late rows go (the executor). Invariant: a row is counted whether or not it is wanted; unwanted
//! ones cost nothing more.

use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use arrow::array::{Array, AsArray, BooleanArray, Int64Array};
use arrow::compute::{filter, min, not};
use arrow::datatypes::Int64Type;
use highwater_protocol::ids::OperatorId;
use highwater_protocol::report::OperatorMetrics;

/// Rows that were late, with what to say of them.
#[derive(Clone, Debug)]
pub struct LateRows {
    pub operator: OperatorId,
    /// What was closed by then, milliseconds.
    pub watermark_ms: Option<i64>,
    /// As the operator saw them.
    pub rows: ChangeBatch,
    /// When each row's time was over, milliseconds; null: it has no time.
    pub over_at: Int64Array,
}

/// What becomes of rows without a time.
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
    /// Of which inputs they are wanted; of none by default.
    wanted: Vec<bool>,
    count: u64,
    kept: Vec<(usize, LateRows)>,
}

impl Late {
    /// What is over at or before `late_before_ms` is late; `None`: nothing is.
    pub fn new(operator: OperatorId, late_before_ms: Option<i64>) -> Self {
        Self { operator, late_before_ms, wanted: Vec::new(), count: 0, kept: Vec::new() }
    }

    /// Says of which inputs late rows are wanted.
    pub fn want(&mut self, inputs: &[bool]) {
        self.wanted = inputs.to_vec();
    }

    fn is_wanted(&self, input: usize) -> bool {
        self.wanted.get(input).copied().unwrap_or(false)
    }

    /// Whether what is over at this time is late.
    pub fn is_late(&self, over_at_ms: i64) -> bool {
        self.late_before_ms.is_some_and(|before| over_at_ms <= before)
    }

    /// Which rows are in time, given when each one's time is over; `None`: all are.
    pub fn in_time(&self, over_at: &Int64Array, untimed: Untimed) -> Option<BooleanArray> {
        let keeps_untimed = untimed == Untimed::Kept;
        let no_untimed = keeps_untimed || over_at.null_count() == 0;
        if no_untimed && min(over_at).is_none_or(|earliest| !self.is_late(earliest)) {
            return None;
        }
        Some(over_at.iter().map(|time| Some(time.map_or(keeps_untimed, |time| !self.is_late(time)))).collect())
    }

    /// The rows of an input that are in time; the others are dropped.
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

    /// Rows of an input without those that are not to be kept.
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

    /// So many rows of the one input are late; `rows` gives them where they are wanted, with when their times were over.
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

    /// The counters of an operator that does nothing else.
    pub fn metrics(&self) -> OperatorMetrics {
        OperatorMetrics { operator: self.operator, late_rows: self.count, ..OperatorMetrics::default() }
    }

    /// What is kept since the last call, each with its input.
    pub fn take(&mut self) -> Vec<(usize, LateRows)> {
        std::mem::take(&mut self.kept)
    }
}
