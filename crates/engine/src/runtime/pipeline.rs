//! A chain of operators: what one gives is what the next takes.
//!
//! Owns: stateless operators, how many rows they compute at once, and the order of finishing. Does not own: the stateful
//! ones. Invariant: whatever rows become, it is counted before more of it is made.

use super::BatchContext;
use super::complete::CompleteResult;
use super::final_aggregate::FinalAggregate;
use super::general::GeneralAggregate;
use super::join::Join;
use super::keyed_sink::KeyedSink;
use super::late::LateRows;
use super::lookup::LookupJoin;
use super::over::Over;
use super::partial_aggregate::PartialAggregate;
use super::session::Sessions;
use super::stateful::Stateful;
use super::temporal::Temporal;
use super::ttl::Ttl;
use super::unnest::unnest;
use super::upsert::Upsert;
use crate::dataflow::{OpSpec, UnnestSpec};
use crate::delta::DeltaBatch;
use crate::error::EngineError;
use crate::state::{StateSize, Taker, TaskState};
use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use highwater_core::report::OperatorMetrics;
use highwater_functions::bounds::{MAX_COLUMN_BYTES, TooLarge};
use highwater_functions::size::array_bytes;
use std::sync::Arc;

/// Rows an operator gives at once, at most.
pub const OUTPUT_ROWS: usize = 8192;

/// What is computed at once, bytes; a row may be more.
const AT_ONCE_BYTES: usize = 64 << 20;
/// A single row.
const MAX_ROW_BYTES: usize = MAX_COLUMN_BYTES as usize;

/// The operators of one pipeline.
pub struct Chain {
    operators: Vec<Operator>,
}

enum Operator {
    Filter(Arc<dyn PhysicalExpr>),
    Project { exprs: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef },
    Expand { lists: Vec<Vec<Arc<dyn PhysicalExpr>>>, schema: SchemaRef },
    Unnest(Arc<UnnestSpec>),
    Lookup(LookupJoin),
    Stateful(Box<dyn Stateful>),
}

impl Operator {
    fn stateful(&self) -> Option<&dyn Stateful> {
        match self {
            Operator::Stateful(operator) => Some(operator.as_ref()),
            _ => None,
        }
    }
}

impl Chain {
    /// `sink` is the name of the sink it leads to, for messages.
    pub fn new(specs: &[OpSpec], context: &BatchContext, sink: &str) -> Result<Self, EngineError> {
        let mut operators = Vec::with_capacity(specs.len());
        for spec in specs {
            operators.push(match spec {
                OpSpec::Filter(predicate) => Operator::Filter(predicate.clone()),
                OpSpec::Project { exprs, schema } => Operator::Project { exprs: exprs.clone(), schema: schema.clone() },
                OpSpec::PartialAggregate { op, spec } => {
                    Operator::Stateful(Box::new(PartialAggregate::new(*op, spec.clone(), context)?))
                }
                OpSpec::FinalAggregate { op, spec, emit } => {
                    Operator::Stateful(Box::new(FinalAggregate::new(*op, spec.clone(), *emit, context)?))
                }
                OpSpec::GeneralAggregate { op, spec } => {
                    Operator::Stateful(Box::new(GeneralAggregate::new(*op, spec.clone(), context)?))
                }
                OpSpec::Join { op, spec } => Operator::Stateful(Box::new(Join::new(*op, spec.clone(), context)?)),
                OpSpec::Over { op, spec } => Operator::Stateful(Box::new(Over::new(*op, spec.clone(), context)?)),
                OpSpec::Session { op, spec } => {
                    Operator::Stateful(Box::new(Sessions::new(*op, spec.clone(), context)?))
                }
                OpSpec::Upsert { op, spec } => Operator::Stateful(Box::new(Upsert::new(*op, spec.clone(), context)?)),
                OpSpec::Temporal { op, spec } => {
                    Operator::Stateful(Box::new(Temporal::new(*op, spec.clone(), context)?))
                }
                OpSpec::Lookup(spec) => Operator::Lookup(LookupJoin::new(spec.clone(), &context.files)?),
                OpSpec::Unnest(spec) => Operator::Unnest(spec.clone()),
                OpSpec::Expand { lists, schema } => Operator::Expand { lists: lists.clone(), schema: schema.clone() },
                OpSpec::Complete { op, schema } => {
                    Operator::Stateful(Box::new(CompleteResult::new(*op, schema, context)?))
                }
                OpSpec::KeyedSink { op, key, unique, close, watermark, schema } => {
                    let stateful = (!unique).then_some(*op);
                    let keyed = KeyedSink::new(*op, stateful, key, schema, context, sink)?;
                    Operator::Stateful(Box::new(keyed.freed_by(*close, watermark, context)))
                }
            });
        }
        Ok(Self { operators })
    }

    /// Sends rows through; what comes out at the end is appended to `out`. What they grow by is counted.
    pub fn push(
        &mut self,
        port: usize,
        rows: DeltaBatch,
        state: &mut TaskState,
        out: &mut Vec<DeltaBatch>,
    ) -> Result<(), EngineError> {
        push_from(&mut self.operators, port, rows, state, out)
    }

    /// Finishes the operators in order, each one's rows going through those after it.
    pub fn finish(&mut self, state: &mut TaskState, out: &mut Vec<DeltaBatch>) -> Result<(), EngineError> {
        for index in 0..self.operators.len() {
            let (before, after) = self.operators.split_at_mut(index + 1);
            let mut given = Vec::new();
            let Operator::Stateful(operator) = &mut before[index] else { continue };
            operator.finish(state, &mut given)?;
            let by = operator.operator().filter(|_| !operator.counts_output());
            for rows in given {
                if let Some(by) = by {
                    state.give(by, rows.size_bytes())?;
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
            if let Operator::Stateful(operator) = operator
                && let Some(late) = operator.late()
            {
                late.want(if place == 0 { inputs } else { &any });
            }
        }
    }

    /// Late rows since the last call, each with its operator's place in the chain and the input it came by.
    pub fn take_late(&mut self) -> Vec<(usize, usize, LateRows)> {
        let mut taken = Vec::new();
        for (place, operator) in self.operators.iter_mut().enumerate() {
            if let Operator::Stateful(operator) = operator
                && let Some(late) = operator.late()
            {
                taken.extend(late.take().into_iter().map(|(input, rows)| (place, input, rows)));
            }
        }
        taken
    }

    /// Counters of the stateful operators, once finished.
    pub fn metrics(&self, state: &TaskState) -> Vec<OperatorMetrics> {
        let of = |operator: &Operator| {
            let operator = operator.stateful()?;
            let (id, late_rows) = (operator.operator()?, operator.late_rows());
            let size = if operator.is_partial() { StateSize::default() } else { state.size(id) };
            Some(OperatorMetrics {
                operator: id,
                state_rows: size.rows,
                state_bytes: size.bytes,
                rows_updated: size.updated,
                rows_removed: size.removed,
                late_rows,
                expired_rows: operator.ttl().map_or(0, Ttl::expired),
                ignored_rows: operator.ttl().map_or(0, Ttl::ignored),
            })
        };
        self.operators.iter().filter_map(of).collect()
    }
}

fn push_from(
    operators: &mut [Operator],
    port: usize,
    rows: DeltaBatch,
    state: &mut TaskState,
    out: &mut Vec<DeltaBatch>,
) -> Result<(), EngineError> {
    let came = rows.size_bytes();
    let grown = |rows: &DeltaBatch, state: &mut TaskState| match rows.size_bytes().saturating_sub(came) {
        0 => Ok(()),
        more => state.give(Taker::Part("what the expressions make of its rows"), more),
    };
    let mut rows = rows;
    for place in 0..operators.len() {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let (operator, after) = operators[place..].split_at_mut(1);
        let computed = match &mut operator[0] {
            Operator::Filter(predicate) => filter(predicate, &rows)?,
            Operator::Project { exprs, schema } => project(exprs, schema, &rows)?,
            Operator::Expand { lists, schema } => {
                for exprs in lists.iter() {
                    let made = project(exprs, schema, &rows)?;
                    let Some(made) = made else { return push_halves(&mut operators[place..], &rows, state, out) };
                    state.give(Taker::Part("GROUPING SETS"), made.size_bytes())?;
                    push_from(after, 0, made, state, out)?;
                }
                return Ok(());
            }
            Operator::Unnest(spec) => {
                return unnest(spec, &rows, &mut |piece| {
                    state.give(Taker::Part("UNNEST"), piece.size_bytes())?;
                    push_from(after, 0, piece, state, out)
                });
            }
            Operator::Lookup(lookup) => Some(lookup.join(rows.clone())?),
            // Ports are the first operator's.
            Operator::Stateful(operator) => {
                grown(&rows, state)?;
                return operator.push(if place == 0 { port } else { 0 }, rows);
            }
        };
        match computed {
            Some(computed) => rows = computed,
            None => return push_halves(&mut operators[place..], &rows, state, out),
        }
    }
    grown(&rows, state)?;
    out.push(rows);
    Ok(())
}

/// What is too much to be computed at once is computed in two parts.
fn push_halves(
    operators: &mut [Operator],
    rows: &DeltaBatch,
    state: &mut TaskState,
    out: &mut Vec<DeltaBatch>,
) -> Result<(), EngineError> {
    let half = rows.num_rows() / 2;
    push_from(operators, 0, rows.slice(0, half), state, out)?;
    push_from(operators, 0, rows.slice(half, rows.num_rows() - half), state, out)
}

/// Values of an expression over a batch.
pub fn evaluate(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, EngineError> {
    Ok(expr.evaluate(batch)?.into_array(batch.num_rows())?)
}

/// The values of an expression over several rows; `None`: they are too many at once.
fn evaluate_within(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<Option<ArrayRef>, EngineError> {
    match evaluate(expr, batch) {
        Ok(values) => Ok(Some(values)),
        Err(EngineError::TooLarge(TooLarge::Column { .. })) if batch.num_rows() > 1 => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None`: the rows are too many at once.
fn filter(predicate: &Arc<dyn PhysicalExpr>, rows: &DeltaBatch) -> Result<Option<DeltaBatch>, EngineError> {
    let Some(keep) = evaluate_within(predicate, &rows.batch)? else { return Ok(None) };
    let keep = keep.as_boolean_opt().ok_or_else(|| EngineError::Internal("a predicate that is no boolean".into()))?;
    if keep.true_count() == rows.num_rows() {
        return Ok(Some(rows.clone()));
    }
    rows.filter(keep).map(Some)
}

/// `None`: the rows are too many at once.
fn project(
    exprs: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
    rows: &DeltaBatch,
) -> Result<Option<DeltaBatch>, EngineError> {
    let mut columns = Vec::with_capacity(exprs.len());
    let mut bytes = 0;
    for expr in exprs {
        let Some(column) = evaluate_within(expr, &rows.batch)? else { return Ok(None) };
        bytes += array_bytes(&column);
        if bytes > AT_ONCE_BYTES && rows.num_rows() > 1 {
            return Ok(None);
        }
        if bytes > MAX_ROW_BYTES {
            return Err(TooLarge::Row { bytes: bytes as u64 }.into());
        }
        columns.push(column);
    }
    let batch = batch(schema, columns, rows.num_rows())?;
    Ok(Some(DeltaBatch { batch, weights: rows.weights.clone() }))
}

/// A batch of these columns; the number of rows counts where there are none.
pub fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, EngineError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}
