//! Rows an operator drops because their time is over.
//!
//! Owns: counting them, and keeping those that someone wants. Does not own: what "over" means (the operators), where they
//! go (the executor). Invariant: a row is counted whether or not it is wanted; unwanted ones cost nothing more.

use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use arrow::array::{BooleanArray, Int64Array};
use arrow::compute::{filter, not};
use highwater_protocol::ids::OperatorId;

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

/// The late rows of one operator in one batch.
#[derive(Debug, Default)]
pub struct Late {
    /// Of which inputs they are wanted; of none by default.
    wanted: Vec<bool>,
    count: u64,
    kept: Vec<(usize, LateRows)>,
}

impl Late {
    /// Says of which inputs late rows are wanted.
    pub fn want(&mut self, inputs: &[bool]) {
        self.wanted = inputs.to_vec();
    }

    fn is_wanted(&self, input: usize) -> bool {
        self.wanted.get(input).copied().unwrap_or(false)
    }

    /// Rows of an input without those that are not to be kept.
    pub fn drop_from(
        &mut self,
        input: usize,
        rows: ChangeBatch,
        keep: &BooleanArray,
        context: (OperatorId, Option<i64>),
        over_at: &Int64Array,
    ) -> Result<ChangeBatch, EngineError> {
        let dropped = rows.num_rows() - keep.true_count();
        if dropped == 0 {
            return Ok(rows);
        }
        self.count += dropped as u64;
        if self.is_wanted(input) {
            let late = not(keep)?;
            let over_at = filter(over_at, &late)?.as_any().downcast_ref::<Int64Array>().cloned();
            let over_at = over_at.ok_or_else(|| EngineError::Internal("times that are no numbers".into()))?;
            let rows = rows.clone().filter(&late)?;
            let (operator, watermark_ms) = context;
            self.kept.push((input, LateRows { operator, watermark_ms, rows, over_at }));
        }
        rows.filter(keep)
    }

    /// So many rows are late; `rows` gives them where they are wanted.
    pub fn note(
        &mut self,
        count: u64,
        rows: impl FnOnce() -> Result<LateRows, EngineError>,
    ) -> Result<(), EngineError> {
        self.count += count;
        if count > 0 && self.is_wanted(0) {
            self.kept.push((0, rows()?));
        }
        Ok(())
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// What is kept since the last call, each with its input.
    pub fn take(&mut self) -> Vec<(usize, LateRows)> {
        std::mem::take(&mut self.kept)
    }
}
