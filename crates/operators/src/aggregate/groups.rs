//! Groups and their accumulators, built from DataFusion's parts.
//!
//! Owns: numbering groups and feeding accumulators. Does not own: which rows are fed, the use of the results.

use crate::aggregate::AggregateSpec;
use arrow::array::{ArrayRef, BooleanArray};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::GroupsAccumulatorAdapter;
use highwater_dataflow::error::EngineError;
use highwater_expressions::{ExpressionError, type_name};
use std::sync::Arc;

/// One accumulator per function, for many groups.
pub struct Accumulators {
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// Number of state columns of each accumulator.
    state_widths: Vec<usize>,
    /// Name and type of each function, for errors.
    names: Vec<(String, String)>,
}

impl Accumulators {
    pub fn new(functions: &[Arc<AggregateFunctionExpr>]) -> Result<Self, EngineError> {
        let mut accumulators = Vec::with_capacity(functions.len());
        let mut state_widths = Vec::with_capacity(functions.len());
        let name = |function: &Arc<AggregateFunctionExpr>| {
            (function.name().to_string(), type_name(function.field().data_type()))
        };
        let names = functions.iter().map(name).collect();
        for function in functions {
            accumulators.push(accumulator(function)?);
            state_widths.push(function.state_fields()?.len());
        }
        Ok(Self { accumulators, state_widths, names })
    }

    /// Adds rows. `arguments` and `filters` have one entry per function, `groups` the group of each row; `total` is the
    /// number of groups so far.
    pub fn update(
        &mut self,
        arguments: &[Vec<ArrayRef>],
        filters: &[Option<BooleanArray>],
        groups: &[usize],
        total: usize,
    ) -> Result<(), EngineError> {
        for ((accumulator, arguments), filter) in self.accumulators.iter_mut().zip(arguments).zip(filters) {
            accumulator.update_batch(arguments, groups, filter.as_ref(), total)?;
        }
        Ok(())
    }

    /// Merges state columns, of all functions in order.
    pub fn merge(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<(), EngineError> {
        let mut at = 0;
        for (accumulator, width) in self.accumulators.iter_mut().zip(&self.state_widths) {
            accumulator.merge_batch(&states[at..at + width], groups, total)?;
            at += width;
        }
        Ok(())
    }

    /// Returns the state columns of all groups; may drain the accumulators.
    pub fn states(&mut self) -> Result<Vec<ArrayRef>, EngineError> {
        let mut columns = Vec::new();
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(columns)
    }

    /// Returns the values of all groups; drains the accumulators.
    pub fn values(&mut self) -> Result<Vec<ArrayRef>, EngineError> {
        let value = |(accumulator, (name, data_type)): (&mut Box<dyn GroupsAccumulator>, &(String, String))| {
            accumulator.evaluate(EmitTo::All).map_err(|error| ExpressionError::of(error, name, data_type))
        };
        let values = self.accumulators.iter_mut().zip(&self.names).map(value);
        Ok(values.collect::<Result<_, _>>()?)
    }
}

fn accumulator(function: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>, EngineError> {
    if function.groups_accumulator_supported() {
        return Ok(function.create_groups_accumulator()?);
    }
    let function = function.clone();
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}

/// Groups, numbered in the order in which they are first seen.
pub struct Groups {
    /// `None` for a grouping without columns: all rows are one group.
    values: Option<Box<dyn GroupValues>>,
    seen_any: bool,
    indexes: Vec<usize>,
}

impl Groups {
    pub fn new(spec: &AggregateSpec) -> Result<Self, EngineError> {
        let values = match spec.group_schema.fields().is_empty() {
            true => None,
            false => Some(new_group_values(spec.group_schema.clone(), &GroupOrdering::None)?),
        };
        Ok(Self { values, seen_any: false, indexes: Vec::new() })
    }

    /// Returns the group number of every row.
    pub fn intern(&mut self, columns: &[ArrayRef], rows: usize) -> Result<&[usize], EngineError> {
        self.seen_any |= rows > 0;
        match &mut self.values {
            Some(values) => values.intern(columns, &mut self.indexes)?,
            None => {
                self.indexes.clear();
                self.indexes.resize(rows, 0);
            }
        }
        Ok(&self.indexes)
    }

    pub fn indexes(&self) -> &[usize] {
        &self.indexes
    }

    pub fn len(&self) -> usize {
        match &self.values {
            Some(values) => values.len(),
            None => usize::from(self.seen_any),
        }
    }

    /// Returns the columns of all groups, in the order of their numbers.
    pub fn emit(&mut self) -> Result<Vec<ArrayRef>, EngineError> {
        match &mut self.values {
            Some(values) if !values.is_empty() => Ok(values.emit(EmitTo::All)?),
            _ => Ok(Vec::new()),
        }
    }
}
