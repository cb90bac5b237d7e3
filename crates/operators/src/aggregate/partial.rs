//! The partial half of a GROUP BY. It runs where records are read, so that fewer rows are exchanged.
//!
//! Owns: dropping and counting late rows. Invariants: its input never retracts; its expressions are evaluated over rows that
//! are in time only, and all of them before any row is taken.

use super::groups::{Accumulators, Groups};
use crate::aggregate::AggregateSpec;
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::compute::filter;
use arrow::datatypes::Schema;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::close_times;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::keyed_state::KeyedState;
use highwater_dataflow::runtime::keys::normalize;
use highwater_dataflow::runtime::late::{Late, Untimed};
use highwater_dataflow::runtime::pipeline::{batch, evaluate};
use highwater_dataflow::runtime::stateful::{Counts, Keeps, Stateful};
use highwater_dataflow::state::Keys;
use highwater_expressions::any_fails;
use std::sync::Arc;

pub struct PartialAggregate {
    spec: Arc<AggregateSpec>,
    groups: Groups,
    accumulators: Accumulators,
}

/// Columns of each function.
type Arguments = Vec<Vec<ArrayRef>>;

/// Of each function; `None` without FILTER.
type Filters = Vec<Option<BooleanArray>>;

impl PartialAggregate {
    pub fn new(spec: Arc<AggregateSpec>) -> Result<Self, EngineError> {
        let (groups, accumulators) = (Groups::new(&spec)?, Accumulators::new(&spec.aggregates)?);
        Ok(Self { groups, accumulators, spec })
    }

    /// True if an expression may fail over some row. What never fails need not be checked.
    fn may_fail(&self, input: &Schema) -> bool {
        let spec = &self.spec;
        let arguments = spec.aggregates.iter().flat_map(|function| function.expressions());
        let mut all = spec.group.iter().chain(spec.filters.iter().flatten()).cloned().chain(arguments);
        all.any(|expr| any_fails(&expr, input))
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
        let (arguments, filters) = self.arguments(&rows)?;
        self.groups.intern(&keys, rows.num_rows())?;
        let total = self.groups.len();
        self.accumulators.update(&arguments, &filters, self.groups.indexes(), total)
    }

    /// Returns the arguments and the FILTER of every function.
    fn arguments(&self, rows: &ChangeBatch) -> Result<(Arguments, Filters), EngineError> {
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
        Ok((arguments, filters))
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

    fn check(&self, _: usize, rows: &ChangeBatch, late: &Late) -> Result<(), EngineError> {
        if !self.may_fail(&rows.batch.schema()) {
            return Ok(());
        }
        let keys = self.keys(rows)?;
        match self.in_time(&keys, late)? {
            Some((keep, _)) => self.arguments(&rows.filter(&keep)?).map(drop),
            None => self.arguments(rows).map(drop),
        }
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
