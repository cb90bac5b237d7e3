//! Rows of a source whose expressions fail.
//!
//! Owns: finding them among their neighbours. Does not own: what a row goes through (`pipeline`), which record a row is
//! decoded from (the connector), the report of bad records (the executor).
//! Invariant: a row fails if and only if it fails alone. So the same rows fail however the records of a batch are cut into
//! chunks, and a repetition leaves out the same ones.

use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater_protocol::options::OnBadRecord;
use std::collections::BTreeMap;

/// Most characters of a row that a message shows.
const MAX_ROW_TEXT: usize = 200;

/// What becomes of the other rows when one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing more is done: one failing row is enough to end the attempt.
    Stop,
    /// They are processed without it.
    LeaveOut,
}

impl OnFailure {
    pub fn of(on_bad_record: &OnBadRecord) -> Self {
        match on_bad_record {
            OnBadRecord::Fail => Self::Stop,
            OnBadRecord::Skip | OnBadRecord::DeadLetter { .. } => Self::LeaveOut,
        }
    }
}

/// The failing rows by their index, each with its first error.
pub type FailedRows = BTreeMap<usize, EngineError>;

/// Applies `apply` to all rows but those that fail alone, in order. Returns whether all were reached: `OnFailure::Stop`
/// ends at the first failing row.
///
/// `apply` returns `Some` if an expression fails on some of its rows; then it must have had no effect. The rows are
/// halved until each failing one is found, so only a chunk with a failing row costs more than one call.
pub fn apply_to_good(
    rows: &ChangeBatch,
    on_failure: OnFailure,
    failed: &mut FailedRows,
    apply: &mut dyn FnMut(ChangeBatch) -> Result<Option<EngineError>, EngineError>,
) -> Result<bool, EngineError> {
    halve(rows, 0, on_failure, failed, apply)
}

/// As [`apply_to_good`], for rows of which the first has the index `first`.
fn halve(
    rows: &ChangeBatch,
    first: usize,
    on_failure: OnFailure,
    failed: &mut FailedRows,
    apply: &mut dyn FnMut(ChangeBatch) -> Result<Option<EngineError>, EngineError>,
) -> Result<bool, EngineError> {
    let count = rows.num_rows();
    if count == 0 {
        return Ok(true);
    }
    let Some(error) = apply(rows.clone())? else { return Ok(true) };
    if count == 1 {
        failed.entry(first).or_insert(error);
        return Ok(on_failure == OnFailure::LeaveOut);
    }
    let half = count / 2;
    Ok(halve(&rows.slice(0, half), first, on_failure, failed, apply)?
        && halve(&rows.slice(half, count - half), first + half, on_failure, failed, apply)?)
}

/// Returns the columns of a single row as text, for messages: `id = 3, n = 0`.
pub fn row_text(row: &ChangeBatch) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let schema = row.batch.schema();
    let columns = schema.fields().iter().zip(row.batch.columns()).map(|(field, column)| {
        let value = ArrayFormatter::try_new(column, &options).ok();
        let value = value.and_then(|column| column.value(0).try_to_string().ok()).unwrap_or_default();
        format!("{} = {value}", field.name())
    });
    let text = columns.collect::<Vec<_>>().join(", ");
    match text.char_indices().nth(MAX_ROW_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
#[path = "failing_tests.rs"]
mod tests;
