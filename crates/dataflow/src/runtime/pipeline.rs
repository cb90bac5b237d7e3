//! A chain of operators: what one gives is what the next takes.
//!
//! Owns: the order in which rows go through operators and of finishing, and counting what rows grow by. Does not own: any
//! operator. Invariant: whatever rows become, it is counted before more of it is made.

use super::BatchContext;
use super::late::LateRows;
use crate::Op;
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::runtime::operator::{Running, StartContext};
use crate::state::{Taker, TaskState};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use highwater_protocol::report::OperatorMetrics;
use std::sync::Arc;

/// Rows an operator gives at once, at most.
pub const OUTPUT_ROWS: usize = 8192;

/// The operators of one pipeline.
pub struct Chain {
    operators: Vec<Running>,
}

impl Chain {
    /// `sink` is the name of the sink it leads to, for messages.
    pub fn new(ops: &[Op], batch: &BatchContext, sink: &str) -> Result<Self, EngineError> {
        let context = StartContext { batch, sink };
        Ok(Self { operators: ops.iter().map(|op| op.start(&context)).collect::<Result<_, _>>()? })
    }

    /// Sends rows through; what comes out at the end is appended to `out`. What they grow by is counted.
    pub fn push(
        &mut self,
        port: usize,
        rows: ChangeBatch,
        state: &mut TaskState,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        push_from(&mut self.operators, port, rows, state, out)
    }

    /// Finishes the operators in order, each one's rows going through those after it.
    pub fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        for index in 0..self.operators.len() {
            let (before, after) = self.operators.split_at_mut(index + 1);
            let Running::Stateful(operator) = &mut before[index] else { continue };
            let (given, by) = operator.finish(state)?;
            for rows in given {
                if let Some(by) = by {
                    state.charge(by, rows.size_bytes())?;
                }
                push_from(after, 0, rows, state, out)?;
            }
        }
        Ok(())
    }

    /// Says of which inputs late rows are wanted.
    pub fn want_late(&mut self, inputs: &[bool]) {
        let any = [inputs.contains(&true)];
        for (place, operator) in self.operators.iter_mut().enumerate() {
            if let Running::Stateful(operator) = operator {
                operator.want_late(if place == 0 { inputs } else { &any });
            }
        }
    }

    /// Late rows since the last call, each with its operator's place in the chain and the input it came by.
    pub fn take_late(&mut self) -> Vec<(usize, usize, LateRows)> {
        let mut taken = Vec::new();
        for (place, operator) in self.operators.iter_mut().enumerate() {
            if let Running::Stateful(operator) = operator {
                taken.extend(operator.take_late().into_iter().map(|(input, rows)| (place, input, rows)));
            }
        }
        taken
    }

    /// Counters of the stateful operators, once finished.
    pub fn metrics(&self, state: &TaskState) -> Vec<OperatorMetrics> {
        let of = |operator: &Running| match operator {
            Running::Stateful(operator) => operator.metrics(state),
            Running::Rows(_) => None,
        };
        self.operators.iter().filter_map(of).collect()
    }
}

/// Sends rows through operators. What those that keep nothing add to them is counted until they have gone on.
fn push_from(
    operators: &mut [Running],
    port: usize,
    rows: ChangeBatch,
    state: &mut TaskState,
    out: &mut Vec<ChangeBatch>,
) -> Result<(), EngineError> {
    let counted = rows.size_bytes();
    push_counted(operators, port, (rows, counted), state, out)
}

/// As [`push_from`], for rows of which `counted` bytes are counted already.
fn push_counted(
    operators: &mut [Running],
    port: usize,
    (rows, counted): (ChangeBatch, usize),
    state: &mut TaskState,
    out: &mut Vec<ChangeBatch>,
) -> Result<(), EngineError> {
    if rows.num_rows() == 0 {
        return Ok(());
    }
    match operators.split_first_mut() {
        Some((Running::Rows(operator), after)) => {
            let (grows, came) = (operator.grows(), rows.num_rows());
            operator.apply(rows, &mut |piece| {
                let counted = match grows {
                    // Of rows that become more rows, all is new.
                    Some(name) => {
                        let bytes = piece.size_bytes();
                        state.charge(Taker::Part(name), bytes)?;
                        bytes
                    }
                    None => counted * piece.num_rows() / came,
                };
                // Ports are the first operator's.
                push_counted(after, 0, (piece, counted), state, out)
            })
        }
        rest => {
            let more = rows.size_bytes().saturating_sub(counted);
            if more > 0 {
                state.charge(Taker::Part("what the expressions make of its rows"), more)?;
            }
            match rest {
                Some((Running::Stateful(operator), _)) => operator.push(port, rows),
                _ => {
                    out.push(rows);
                    Ok(())
                }
            }
        }
    }
}

/// Values of an expression over a batch.
pub fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, EngineError> {
    Ok(expr.evaluate(batch)?.into_array(batch.num_rows())?)
}

/// A batch of these columns; the number of rows counts where there are none.
pub fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, EngineError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}
