//! Output of sessions: rows with the start and end of their session.
//!
//! Owns: collecting rows that are decoded together, and their columns.

use super::Sessions;
use arrow::array::Int64Array;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_functions::windows::session::windows;

/// Encoded rows to emit, which are decoded together.
#[derive(Default)]
pub struct Output {
    rows: Vec<Vec<u8>>,
    bounds: Vec<(i64, i64)>,
    weights: Vec<i64>,
}

impl Output {
    pub fn add(&mut self, row: &[u8], session: (i64, i64), weight: i64) {
        self.rows.push(row.to_vec());
        self.bounds.push(session);
        self.weights.push(weight);
    }
}

impl Sessions {
    /// Emits the rows if there are enough for a batch.
    pub fn emit_if_full(&self, output: &mut Output, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        if output.rows.len() > OUTPUT_ROWS {
            out.extend(self.emit(std::mem::take(output))?);
        }
        Ok(())
    }

    /// Returns the rows as a batch; `None` if there are no rows.
    pub fn emit(&self, output: Output) -> Result<Option<ChangeBatch>, EngineError> {
        let count = output.rows.len();
        if count == 0 {
            return Ok(None);
        }
        let mut columns = self.changes.rows.decode(output.rows.iter().map(Vec::as_slice))?;
        let time = self.spec.input_schema.field(self.spec.time).data_type();
        columns.truncate(self.spec.width);
        columns.push(windows(&output.bounds, time, self.gap)?);
        let batch = batch(&self.spec.output_schema, columns, count)?;
        // Final rows are never retracted, so they have no weights.
        let weights = (!self.spec.on_close).then(|| Int64Array::from(output.weights));
        Ok(Some(ChangeBatch { batch, weights }))
    }
}
