//! The half of a GROUP BY that runs where rows are read: fewer rows go over the exchange.
//!
//! Owns: dropping and counting late rows. Invariant: its input never retracts.

use super::groups::{Accumulators, Groups};
use crate::changelog::ChangeBatch;
use crate::dataflow::close_times;
use crate::error::EngineError;
use crate::operators::aggregate::AggregateSpec;
use crate::runtime::BatchContext;
use crate::runtime::keys::normalize;
use crate::runtime::late::Late;
use crate::runtime::pipeline::{batch, evaluate};
use crate::runtime::stateful::Stateful;
use crate::state::TaskState;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::{filter, min};
use highwater_protocol::ids::OperatorId;
use std::sync::Arc;

pub struct PartialAggregate {
    operator: OperatorId,
    spec: Arc<AggregateSpec>,
    late_before_ms: Option<i64>,
    groups: Groups,
    accumulators: Accumulators,
    late: Late,
}

impl PartialAggregate {
    pub fn new(operator: OperatorId, spec: Arc<AggregateSpec>, context: &BatchContext) -> Result<Self, EngineError> {
        Ok(Self {
            operator,
            late_before_ms: BatchContext::least(&context.late_before, &spec.watermark),
            groups: Groups::new(&spec)?,
            accumulators: Accumulators::new(&spec.aggregates)?,
            late: Late::default(),
            spec,
        })
    }

    fn take(&mut self, rows: ChangeBatch) -> Result<(), EngineError> {
        if rows.weights.is_some() {
            return Err(EngineError::Internal("an aggregate over rows that retract".into()));
        }
        let mut rows = rows;
        let mut keys = self.keys(&rows)?;
        if let Some((keep, over_at)) = self.in_time(&keys)? {
            rows = self.late.drop_from(0, rows, &keep, (self.operator, self.late_before_ms), &over_at)?;
            keys = keys.iter().map(|key| filter(key, &keep)).collect::<Result<_, _>>()?;
            if rows.num_rows() == 0 {
                return Ok(());
            }
        }
        let mut arguments = Vec::with_capacity(self.spec.aggregates.len());
        for function in &self.spec.aggregates {
            let columns =
                function.expressions().iter().map(|expr| evaluate(expr, &rows.batch)).collect::<Result<_, _>>()?;
            arguments.push(columns);
        }
        let mut filters = Vec::with_capacity(self.spec.filters.len());
        for filter in &self.spec.filters {
            filters.push(match filter {
                Some(filter) => evaluate(filter, &rows.batch)?.as_boolean_opt().cloned(),
                None => None,
            });
        }
        self.groups.intern(&keys, rows.num_rows())?;
        let total = self.groups.len();
        self.accumulators.update(&arguments, &filters, self.groups.indexes(), total)
    }

    fn keys(&self, rows: &ChangeBatch) -> Result<Vec<ArrayRef>, EngineError> {
        self.spec.group.iter().map(|expr| Ok(normalize(evaluate(expr, &rows.batch)?))).collect()
    }

    /// Which rows have an open window, and when each one's is over; `None`: all of them have.
    fn in_time(&self, keys: &[ArrayRef]) -> Result<Option<(BooleanArray, Int64Array)>, EngineError> {
        let Some(close) = self.spec.close else { return Ok(None) };
        let times = close_times(close, keys)?;
        let late_before = self.late_before_ms.unwrap_or(i64::MIN);
        let untimed = self.spec.keeps_untimed;
        if (untimed || times.null_count() == 0) && min(&times).is_none_or(|earliest| earliest > late_before) {
            return Ok(None);
        }
        let keep = times.iter().map(|time| Some(time.map_or(untimed, |time| time > late_before))).collect();
        Ok(Some((keep, times)))
    }
}

impl Stateful for PartialAggregate {
    fn operator(&self) -> Option<OperatorId> {
        Some(self.operator)
    }

    fn is_partial(&self) -> bool {
        true
    }

    fn push(&mut self, _: usize, rows: ChangeBatch) -> Result<(), EngineError> {
        self.take(rows)
    }

    fn finish(&mut self, _: &mut TaskState, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let rows = self.groups.len();
        if rows == 0 {
            return Ok(());
        }
        let mut columns = self.groups.emit()?;
        columns.extend(self.accumulators.states()?);
        out.push(ChangeBatch::inserts(batch(&self.spec.partial_schema, columns, rows)?));
        Ok(())
    }

    fn late(&mut self) -> Option<&mut Late> {
        Some(&mut self.late)
    }

    fn late_rows(&self) -> u64 {
        self.late.count()
    }
}
