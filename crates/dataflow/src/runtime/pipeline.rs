//! A chain of operators: the output of one is the input of the next.
//!
//! Owns: the order in which rows go through operators and operators finish, counting the memory by which rows grow, and
//! switching the profile between steps. Does not own: any operator, where rows go afterwards. Invariants: a piece of output
//! is counted before the next one is made; rows of a source are taken as a whole, or leave no trace.

use super::failing::{FailedRows, OnFailure, apply_to_good, row_text};
use super::late::{Late, LateRows};
use super::profile::Profile;
use super::{BatchContext, Keyed};
use crate::Op;
use crate::changelog::ChangeBatch;
use crate::error::EngineError;
use crate::runtime::operator::{Running, StartContext};
use crate::state::{Taker, TaskState};
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use highwater_protocol::ids::OperatorId;
use highwater_protocol::metrics::StepMetrics;
use highwater_protocol::report::OperatorMetrics;
use std::sync::Arc;

/// Most rows that an operator emits at once.
pub const OUTPUT_ROWS: usize = 8192;

/// The operators of one pipeline.
pub struct Chain {
    operators: Vec<Running>,
    pub(super) profile: Profile,
}

/// The task's parts that rows need on their way through operators.
struct Flow<'a> {
    state: &'a mut TaskState,
    profile: &'a mut Profile,
    out: &'a mut Vec<ChangeBatch>,
    /// Rows that reached an operator with state and are not pushed into it yet, with its port; `None` = they are pushed
    /// at once.
    held: Option<Vec<(usize, ChangeBatch)>>,
}

impl Chain {
    /// Starts the operators. `sink` is the name of the sink that the pipeline ends in, for messages.
    pub fn new(ops: &[Op], batch: &BatchContext, sink: &str) -> Result<Self, EngineError> {
        let context = StartContext { batch, sink };
        let operators = ops.iter().map(|op| op.start(&context)).collect::<Result<_, _>>()?;
        Ok(Self { operators, profile: Profile::new(batch.clock, ops.len()) })
    }

    /// Sends rows through the operators, and appends the output of the last one to `out`. Counts the memory by which rows
    /// grow.
    pub fn push(
        &mut self,
        port: usize,
        rows: ChangeBatch,
        state: &mut TaskState,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<(), EngineError> {
        let mut flow = Flow { state, profile: &mut self.profile, out, held: None };
        push_from(&mut self.operators, 0, port, rows, &mut flow)
    }

    /// As [`Chain::push`], for rows of a source, all of them or none: returns the error if an expression fails on one of
    /// them before the first operator with state has taken any, and then has had no effect.
    pub fn push_all_or_none(
        &mut self,
        port: usize,
        rows: ChangeBatch,
        state: &mut TaskState,
        out: &mut Vec<ChangeBatch>,
    ) -> Result<Option<EngineError>, EngineError> {
        let (counted, charged, emitted) = (self.profile.counted(), state.charged(), out.len());
        let late: Vec<_> = self.late_of_rows().map(|late| late.counted()).collect();
        let mut flow = Flow { state, profile: &mut self.profile, out, held: Some(Vec::new()) };
        let pushed = push_from(&mut self.operators, 0, port, rows, &mut flow);
        let held = flow.held.take().unwrap_or_default();
        match pushed.and_then(|()| self.check(&held)) {
            Ok(()) => self.push_held(held).map(|()| None),
            Err(error) if error.is_of_a_row() => {
                self.profile.recount(counted);
                self.late_of_rows().zip(late).for_each(|(dropped, counted)| dropped.recount(counted));
                state.charge_only(charged);
                out.truncate(emitted);
                Ok(Some(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns what operators without state have dropped.
    fn late_of_rows(&mut self) -> impl Iterator<Item = &mut Late> {
        self.operators.iter_mut().filter_map(|operator| match operator {
            Running::Rows(operator) => operator.late(),
            Running::Stateful(_) => None,
        })
    }

    /// Checks that the first operator with state can evaluate its expressions over these rows.
    fn check(&mut self, held: &[(usize, ChangeBatch)]) -> Result<(), EngineError> {
        let Self { operators, profile } = self;
        let Some((step, operator)) = first_stateful(operators) else { return Ok(()) };
        let outer = profile.enter(step);
        let checked = held.iter().try_for_each(|(port, rows)| operator.check(*port, rows));
        profile.leave(outer);
        checked
    }

    /// Pushes rows into the first operator with state.
    fn push_held(&mut self, held: Vec<(usize, ChangeBatch)>) -> Result<(), EngineError> {
        let Self { operators, profile } = self;
        let Some((step, operator)) = first_stateful(operators) else { return Ok(()) };
        let outer = profile.enter(step);
        let pushed = held.into_iter().try_for_each(|(port, rows)| operator.push(port, rows));
        profile.leave(outer);
        pushed
    }

    /// Finishes the operators in order; the rows of each go through those after it.
    pub fn finish(&mut self, state: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let mut flow = Flow { state, profile: &mut self.profile, out, held: None };
        for index in 0..self.operators.len() {
            let (before, after) = self.operators.split_at_mut(index + 1);
            let Running::Stateful(operator) = &mut before[index] else { continue };
            let outer = flow.profile.enter(index);
            let finished = operator.finish(flow.state);
            flow.profile.leave(outer);
            let (given, by) = finished?;
            let name = operator.operator();
            for rows in given {
                if let Some(by) = by {
                    flow.state.charge(by, rows.size_bytes())?;
                }
                flow.profile.emits(index, &rows);
                let pushed = push_from(after, index + 1, 0, rows.clone(), &mut flow);
                pushed.map_err(|error| blame(error, name, after, index + 1, &rows, &mut flow))?;
            }
        }
        Ok(())
    }

    /// Sets of which inputs late rows are kept.
    pub fn want_late(&mut self, inputs: &[bool]) {
        let any = [inputs.contains(&true)];
        for (place, operator) in self.operators.iter_mut().enumerate() {
            match operator {
                Running::Stateful(operator) => operator.want_late(if place == 0 { inputs } else { &any }),
                Running::Rows(operator) => operator.late().into_iter().for_each(|late| late.want(&any)),
            }
        }
    }

    /// Returns the late rows since the last call, each with its operator's place in the chain and the operator's input.
    pub fn take_late(&mut self) -> Vec<(usize, usize, LateRows)> {
        let mut taken = Vec::new();
        for (place, operator) in self.operators.iter_mut().enumerate() {
            let late = match operator {
                Running::Stateful(operator) => operator.take_late(),
                Running::Rows(operator) => operator.late().map(Late::take).unwrap_or_default(),
            };
            taken.extend(late.into_iter().map(|(input, rows)| (place, input, rows)));
        }
        taken
    }

    /// Returns the counters of every step; the last is the pipeline's output.
    pub fn steps(&self) -> Vec<StepMetrics> {
        self.profile.steps()
    }

    /// Returns the counters of the operators that keep state or drop rows, once they have finished.
    pub fn metrics(&mut self, state: &TaskState) -> Vec<OperatorMetrics> {
        let of = |operator: &mut Running| match operator {
            Running::Stateful(operator) => operator.metrics(state),
            Running::Rows(operator) => operator.late().map(|late| late.metrics()),
        };
        self.operators.iter_mut().filter_map(of).collect()
    }
}

/// Returns an error of expressions over rows that an operator made, with the operator's name and the first row to blame. The
/// attempt has failed, so it does not matter that rows go through the operators `after` it again.
fn blame(
    error: EngineError,
    operator: OperatorId,
    after: &mut [Running],
    step: usize,
    rows: &ChangeBatch,
    flow: &mut Flow<'_>,
) -> EngineError {
    if !error.is_of_a_row() {
        return error;
    }
    flow.held = Some(Vec::new());
    let mut failed = FailedRows::new();
    let tried =
        apply_to_good(rows, OnFailure::Stop, &mut failed, &mut |rows| match push_from(after, step, 0, rows, flow) {
            Ok(()) => Ok(None),
            Err(error) if error.is_of_a_row() => Ok(Some(error)),
            Err(error) => Err(error),
        });
    match (tried, failed.into_iter().next()) {
        (Ok(_), Some((row, of_row))) => EngineError::ValueOfRow {
            operator: flow.state.name(operator),
            row: row_text(&rows.slice(row, 1)),
            reason: of_row.reason(),
        },
        _ => error,
    }
}

/// Returns the first operator with state, and its step.
fn first_stateful(operators: &mut [Running]) -> Option<(usize, &mut Keyed)> {
    operators.iter_mut().enumerate().find_map(|(step, operator)| match operator {
        Running::Stateful(operator) => Some((step, operator.as_mut())),
        Running::Rows(_) => None,
    })
}

/// Sends rows through operators, of which the first is step `step`. Memory that operators without state add to rows is
/// counted until the rows are handed on.
fn push_from(
    operators: &mut [Running],
    step: usize,
    port: usize,
    rows: ChangeBatch,
    flow: &mut Flow<'_>,
) -> Result<(), EngineError> {
    let counted = rows.size_bytes();
    push_counted(operators, step, port, (rows, counted), flow)
}

/// As [`push_from`], for rows of which `counted` bytes are counted already.
fn push_counted(
    operators: &mut [Running],
    step: usize,
    port: usize,
    (rows, counted): (ChangeBatch, usize),
    flow: &mut Flow<'_>,
) -> Result<(), EngineError> {
    if rows.num_rows() == 0 {
        return Ok(());
    }
    flow.profile.takes(step, &rows);
    match operators.split_first_mut() {
        Some((Running::Rows(operator), after)) => {
            let (grows, came) = (operator.grows(), rows.num_rows());
            let outer = flow.profile.enter(step);
            let applied = operator.apply(rows, &mut |piece| {
                flow.profile.emits(step, &piece);
                let counted = match grows {
                    // The output of an operator that makes several rows of one is all new.
                    Some(name) => {
                        let bytes = piece.size_bytes();
                        flow.state.charge(Taker::Part(name), bytes)?;
                        bytes
                    }
                    None => counted * piece.num_rows() / came,
                };
                // Only the first operator has several ports.
                push_counted(after, step + 1, 0, (piece, counted), flow)
            });
            flow.profile.leave(outer);
            applied
        }
        rest => {
            let more = rows.size_bytes().saturating_sub(counted);
            if more > 0 {
                flow.state.charge(Taker::Part("results of its expressions"), more)?;
            }
            match rest {
                Some((Running::Stateful(operator), _)) => {
                    if let Some(held) = &mut flow.held {
                        held.push((port, rows));
                        return Ok(());
                    }
                    let outer = flow.profile.enter(step);
                    let pushed = operator.push(port, rows);
                    flow.profile.leave(outer);
                    pushed
                }
                _ => {
                    flow.profile.emits(step, &rows);
                    flow.out.push(rows);
                    Ok(())
                }
            }
        }
    }
}

/// Returns the values of an expression over a batch.
pub fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, EngineError> {
    Ok(expr.evaluate(batch)?.into_array(batch.num_rows())?)
}

/// Returns a batch of these columns, with `rows` rows even if there are no columns.
pub fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, EngineError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}
