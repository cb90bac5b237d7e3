//! The partial half of a GROUP BY. It runs where records are read, so that fewer rows are exchanged.
//!
//! Owns: dropping and counting late rows. Invariant: its input never retracts.

use super::groups::{Accumulators, Groups};
use crate::aggregate::AggregateSpec;
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::filter;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::close_times;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::normalize;
use highwater_dataflow::runtime::late::{Late, Untimed};
use highwater_dataflow::runtime::pipeline::{batch, evaluate};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::Keys;
use std::sync::Arc;

pub struct PartialAggregate {
    spec: Arc<AggregateSpec>,
    groups: Groups,
    accumulators: Accumulators,
}

impl PartialAggregate {
    pub fn new(spec: Arc<AggregateSpec>) -> Result<Self, EngineError> {
        let (groups, accumulators) = (Groups::new(&spec)?, Accumulators::new(&spec.aggregates)?);
        Ok(Self { groups, accumulators, spec })
    }

    fn take(&mut self, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        if rows.weights.is_some() {
            return Err(Fault::Retracts("the input of a plain aggregate").into());
        }
        let mut rows = rows;
        let mut keys = self.keys(&rows)?;
        if let Some((keep, over_at)) = self.in_time(&keys, late)? {
            rows = late.drop_from(0, rows, &keep, &over_at)?;
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

    /// Returns which rows have an open window, and when each window closes; `None` if all rows have one.
    fn in_time(&self, keys: &[ArrayRef], late: &Late) -> Result<Option<(BooleanArray, Int64Array)>, EngineError> {
        let Some(close) = self.spec.close else { return Ok(None) };
        let times = close_times(close, keys)?;
        let untimed = if self.spec.keeps_untimed { Untimed::Kept } else { Untimed::Dropped };
        Ok(late.in_time(&times, untimed).map(|keep| (keep, times)))
    }
}

impl Stateful for PartialAggregate {
    fn keeps(&self) -> Keeps {
        Keeps::Partial
    }

    fn counts(&self) -> Counts {
        Counts::Taker
    }

    fn push(&mut self, _: usize, rows: ChangeBatch, late: &mut Late) -> Result<(), EngineError> {
        self.take(rows, late)
    }

    fn expire(&mut self, _: &Keys, _: &mut KeyedState<'_>) -> Result<(), EngineError> {
        Ok(())
    }

    fn finish(&mut self, _: &mut KeyedState<'_>, out: &mut Vec<ChangeBatch>) -> Result<(), EngineError> {
        let rows = self.groups.len();
        if rows == 0 {
            return Ok(());
        }
        let mut columns = self.groups.emit()?;
        columns.extend(self.accumulators.states()?);
        out.push(ChangeBatch::inserts(batch(&self.spec.partial_schema, columns, rows)?));
        Ok(())
    }
}
