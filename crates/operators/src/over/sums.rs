//! SUM and AVG whose results do not depend on the order of their terms, for append-only aggregates.
//!
//! Owns: the accumulators of float sums and averages, which are exact and rounded once, and of integer sums, which do
//! not wrap. Does not own: which calls use them (`plan::aggregate`). Invariant: merging states in any order gives the
//! same bytes.

use crate::retracting::ExactSum;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Decimal128Array, Float64Array, Int64Array,
    UInt64Array,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};
use std::sync::Arc;

/// Type of integer sums, wide enough for any sum of `i64::MAX` numbers of 64 bits.
const WHOLE: DataType = DataType::Decimal128(38, 0);

/// The function that is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SumKind {
    FloatSum,
    FloatAverage,
    WholeSum,
}

/// `sum` or `avg` of one argument.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Sum {
    kind: SumKind,
    output: DataType,
    signature: Signature,
}

impl Sum {
    /// `output` is FLOAT64, or INT64 or UINT64 for an integer sum.
    pub fn new(kind: SumKind, output: DataType) -> Self {
        Self { kind, output, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        if self.kind == SumKind::FloatAverage { "avg" } else { "sum" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.output.clone())
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        exec_err!("{} works on groups", self.name())
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |name: &str, data_type| Arc::new(Field::new(format!("{}[{name}]", args.name), data_type, true));
        Ok(match self.kind {
            SumKind::WholeSum => vec![field("sum", WHOLE)],
            _ => vec![field("sum", DataType::Binary), field("count", DataType::Int64)],
        })
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(match self.kind {
            SumKind::WholeSum => Box::new(WholeSums { output: self.output.clone(), sums: Vec::new() }),
            kind => Box::new(FloatSums { is_average: kind == SumKind::FloatAverage, groups: Vec::new() }),
        })
    }
}

/// Returns whether a row passes the FILTER.
fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

/// Removes and returns the first groups, or all.
fn emitted<T>(groups: &mut Vec<T>, emit: EmitTo) -> Vec<T> {
    emit.take_needed(groups)
}

struct FloatSums {
    is_average: bool,
    groups: Vec<(ExactSum, i64)>,
}

impl GroupsAccumulator for FloatSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.groups.resize_with(total, Default::default);
        let values = cast(&values[0], &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        for (row, group) in groups.iter().enumerate() {
            if values.is_valid(row) && passes(filter, row) {
                let (sum, count) = &mut self.groups[*group];
                sum.add(values.value(row), 1);
                *count += 1;
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.groups.resize_with(total, Default::default);
        let (sums, counts): (&BinaryArray, &Int64Array) = (values[0].as_binary(), values[1].as_primitive());
        for (row, group) in groups.iter().enumerate() {
            if sums.is_null(row) || counts.is_null(row) {
                continue;
            }
            let Some(more) = ExactSum::read(&mut sums.value(row)) else {
                return exec_err!("the state of a sum is cut off");
            };
            let (sum, count) = &mut self.groups[*group];
            sum.merge(&more);
            *count += counts.value(row);
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let value = |(sum, count): (ExactSum, i64)| {
            let divisor = if self.is_average { count as f64 } else { 1.0 };
            (count != 0).then(|| sum.value() / divisor)
        };
        Ok(Arc::new(emitted(&mut self.groups, emit).into_iter().map(value).collect::<Float64Array>()))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = emitted(&mut self.groups, emit);
        let mut sums = BinaryBuilder::new();
        let mut bytes = Vec::new();
        for (sum, _) in &groups {
            bytes.clear();
            sum.write(&mut bytes);
            sums.append_value(&bytes);
        }
        let counts = Int64Array::from_iter_values(groups.iter().map(|(_, count)| *count));
        Ok(vec![Arc::new(sums.finish()), Arc::new(counts)])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut each = Self { is_average: self.is_average, groups: Vec::new() };
        each.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.groups.iter().map(|(sum, _)| size_of::<(ExactSum, i64)>() + size_of_val(sum.parts())).sum()
    }
}

struct WholeSums {
    output: DataType,
    sums: Vec<Option<i128>>,
}

impl WholeSums {
    fn add(&mut self, values: &Decimal128Array, groups: &[usize], filter: Option<&BooleanArray>, total: usize) {
        self.sums.resize(total, None);
        for (row, group) in groups.iter().enumerate() {
            if values.is_valid(row) && passes(filter, row) {
                let sum = self.sums[*group].get_or_insert(0);
                *sum = sum.saturating_add(values.value(row));
            }
        }
    }
}

impl GroupsAccumulator for WholeSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        if let Some(values) = values[0].as_primitive_opt::<Int64Type>() {
            self.sums.resize(total, None);
            for (row, group) in groups.iter().enumerate() {
                if values.is_valid(row) && passes(filter, row) {
                    *self.sums[*group].get_or_insert(0) += i128::from(values.value(row));
                }
            }
            return Ok(());
        }
        let values = cast(&values[0], &WHOLE)?;
        self.add(values.as_primitive::<Decimal128Type>(), groups, filter, total);
        Ok(())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.add(values[0].as_primitive::<Decimal128Type>(), groups, None, total);
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let sums = emitted(&mut self.sums, emit);
        let beyond = |sum: i128| match self.output {
            DataType::UInt64 => u64::try_from(sum).is_err(),
            _ => i64::try_from(sum).is_err(),
        };
        if let Some(sum) = sums.iter().flatten().find(|sum| beyond(**sum)) {
            return exec_err!("sum() gives {sum}, beyond BIGINT: sum CAST(… AS DECIMAL(38, 0)) instead");
        }
        Ok(match self.output {
            DataType::UInt64 => Arc::new(sums.into_iter().map(|sum| Some(sum? as u64)).collect::<UInt64Array>()),
            _ => Arc::new(sums.into_iter().map(|sum| Some(sum? as i64)).collect::<Int64Array>()),
        })
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let sums: Decimal128Array = emitted(&mut self.sums, emit).into_iter().collect();
        Ok(vec![Arc::new(sums.with_data_type(WHOLE))])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut each = Self { output: self.output.clone(), sums: Vec::new() };
        each.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        size_of_val(self.sums.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(kind: SumKind, output: DataType, batches: &[ArrayRef]) -> Result<ArrayRef> {
        // Each batch has its own accumulator, and their states are merged.
        let args = Sum::new(kind, output);
        let make = || -> Box<dyn GroupsAccumulator> {
            match args.kind {
                SumKind::WholeSum => Box::new(WholeSums { output: args.output.clone(), sums: Vec::new() }),
                kind => Box::new(FloatSums { is_average: kind == SumKind::FloatAverage, groups: Vec::new() }),
            }
        };
        let mut all = make();
        for batch in batches {
            let mut one = make();
            one.update_batch(std::slice::from_ref(batch), &vec![0; batch.len()], None, 1)?;
            all.merge_batch(&one.state(EmitTo::All)?, &[0], 1)?;
        }
        all.evaluate(EmitTo::All)
    }

    fn floats(values: &[f64]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    #[test]
    fn the_order_of_floats_does_not_matter() {
        let terms = [1e100, 1.0, -1e100, 0.1, 0.2, 0.3];
        let mut backwards = terms;
        backwards.reverse();
        for kind in [SumKind::FloatSum, SumKind::FloatAverage] {
            let one = sums(kind, DataType::Float64, &[floats(&terms)]).unwrap();
            let other = sums(kind, DataType::Float64, &[floats(&backwards[..2]), floats(&backwards[2..])]).unwrap();
            assert_eq!(&one, &other);
            let exact = if kind == SumKind::FloatSum { 1.6 } else { 1.6 / 6.0 };
            assert_eq!(one.as_primitive::<Float64Type>().value(0), exact);
        }
    }

    #[test]
    fn whole_sums_do_not_wrap() {
        let numbers = |values: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
        let most = numbers(&[i64::MAX, 1]);
        let error = sums(SumKind::WholeSum, DataType::Int64, std::slice::from_ref(&most)).unwrap_err().to_string();
        assert!(error.contains("9223372036854775808, beyond BIGINT"), "{error}");
        let back = sums(SumKind::WholeSum, DataType::Int64, &[most, numbers(&[-1])]).unwrap();
        assert_eq!(back.as_primitive::<Int64Type>().value(0), i64::MAX);
        let none = sums(SumKind::WholeSum, DataType::Int64, &[numbers(&[])]).unwrap();
        assert!(none.is_null(0));
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        assert!(sums(SumKind::WholeSum, DataType::UInt64, &[unsigned]).is_ok());
    }
}
