//! SUM and AVG whose results do not depend on the order of their terms, for append-only aggregates.
//!
//! Owns: the accumulators of float sums and averages, which are exact and rounded once, and of integer sums, which do
//! not wrap. Does not own: which calls use them (`plan::aggregate`). Invariant: merging states in any order gives the
//! same bytes.

use crate::retracting::{ExactSum, is_wide};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Decimal128Array, Decimal256Array, Float64Array,
    Int64Array, UInt64Array,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type, i256};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};
use highwater_expressions::{decimal, type_name};
use std::sync::Arc;

/// Type of integer sums, wide enough for any sum of `i64::MAX` numbers of 64 bits.
const WHOLE: DataType = DataType::Decimal128(38, 0);

/// Wide enough for any sum of DECIMAL(38), as a whole number at the scale of its terms.
const WIDE: DataType = DataType::Decimal256(76, 0);

/// The function that is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SumKind {
    FloatSum,
    FloatAverage,
    WholeSum,
    /// Of DECIMAL whose sum 128 bits may not hold.
    DecimalSum,
    DecimalAverage,
}

impl SumKind {
    /// The kind of the function `name` of one argument; `None` where DataFusion's own accumulator is exact.
    pub fn of(name: &str, argument: &DataType, output: &DataType) -> Option<Self> {
        match (name, output) {
            ("sum", DataType::Float64) => Some(Self::FloatSum),
            ("avg" | "mean", DataType::Float64) => Some(Self::FloatAverage),
            ("sum", DataType::Int64 | DataType::UInt64) => Some(Self::WholeSum),
            ("sum", DataType::Decimal128(..)) if is_wide(argument) => Some(Self::DecimalSum),
            ("avg" | "mean", DataType::Decimal128(..)) if matches!(argument, DataType::Decimal128(..)) => {
                Some(Self::DecimalAverage)
            }
            _ => None,
        }
    }
}

/// `sum` or `avg` of one argument.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Sum {
    kind: SumKind,
    argument: DataType,
    output: DataType,
    signature: Signature,
}

impl Sum {
    /// `argument` and `output` are types for which [`SumKind::of`] returns `kind`.
    pub fn new(kind: SumKind, argument: DataType, output: DataType) -> Self {
        Self { kind, argument, output, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        match self.kind {
            SumKind::FloatAverage | SumKind::DecimalAverage => "avg",
            _ => "sum",
        }
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
            SumKind::DecimalSum | SumKind::DecimalAverage => {
                vec![field("sum", WIDE), field("count", DataType::Int64)]
            }
            _ => vec![field("sum", DataType::Binary), field("count", DataType::Int64)],
        })
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(self.groups())
    }
}

impl Sum {
    fn groups(&self) -> Box<dyn GroupsAccumulator> {
        match self.kind {
            SumKind::WholeSum => Box::new(WholeSums { output: self.output.clone(), sums: Vec::new() }),
            SumKind::DecimalSum | SumKind::DecimalAverage => Box::new(DecimalSums {
                is_average: self.kind == SumKind::DecimalAverage,
                argument: self.argument.clone(),
                output: self.output.clone(),
                groups: Vec::new(),
            }),
            kind => Box::new(FloatSums { is_average: kind == SumKind::FloatAverage, groups: Vec::new() }),
        }
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
            let message = format!("{sum} is beyond {}: sum CAST(… AS DECIMAL(38, 0)) instead", type_name(&self.output));
            return Err(ArrowError::ArithmeticOverflow(message).into());
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

/// Sums and averages of DECIMAL.
struct DecimalSums {
    is_average: bool,
    argument: DataType,
    output: DataType,
    /// Sum and number of terms of each group.
    groups: Vec<(i256, i64)>,
}

impl GroupsAccumulator for DecimalSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.groups.resize(total, (i256::ZERO, 0));
        let values: &Decimal128Array = values[0].as_primitive();
        for (row, group) in groups.iter().enumerate() {
            if values.is_valid(row) && passes(filter, row) {
                let (sum, count) = &mut self.groups[*group];
                // 256 bits hold the sum of more rows than there can be.
                *sum = sum.wrapping_add(i256::from_i128(values.value(row)));
                *count += 1;
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.groups.resize(total, (i256::ZERO, 0));
        let (sums, counts): (&Decimal256Array, &Int64Array) = (values[0].as_primitive(), values[1].as_primitive());
        for (row, group) in groups.iter().enumerate() {
            if sums.is_valid(row) && counts.is_valid(row) {
                let (sum, count) = &mut self.groups[*group];
                *sum = sum.wrapping_add(sums.value(row));
                *count += counts.value(row);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (DataType::Decimal128(_, scale), DataType::Decimal128(precision, target)) = (&self.argument, &self.output)
        else {
            return exec_err!("{} is not a DECIMAL", self.output);
        };
        let value = |(sum, count): (i256, i64)| match (count, self.is_average) {
            (0, _) => Ok(None),
            (count, true) => decimal::average(sum, *scale, count, *precision, *target).map(Some),
            (_, false) => decimal::fitting(sum, *precision, *target).map(Some),
        };
        let groups = emit.take_needed(&mut self.groups);
        let values = groups.into_iter().map(value).collect::<std::result::Result<Decimal128Array, _>>()?;
        Ok(Arc::new(values.with_precision_and_scale(*precision, *target)?))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (sums, counts): (Vec<i256>, Vec<i64>) = emitted(&mut self.groups, emit).into_iter().unzip();
        let sums = Decimal256Array::from_iter_values(sums).with_data_type(WIDE);
        Ok(vec![Arc::new(sums), Arc::new(Int64Array::from(counts))])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let (argument, output) = (self.argument.clone(), self.output.clone());
        let mut each = Self { is_average: self.is_average, argument, output, groups: Vec::new() };
        each.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        size_of_val(self.groups.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(kind: SumKind, output: DataType, batches: &[ArrayRef]) -> Result<ArrayRef> {
        // Each batch has its own accumulator, and their states are merged.
        let args = Sum::new(kind, batches[0].data_type().clone(), output);
        let make = || args.groups();
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
        assert!(error.contains("9223372036854775808 is beyond BIGINT"), "{error}");
        let back = sums(SumKind::WholeSum, DataType::Int64, &[most, numbers(&[-1])]).unwrap();
        assert_eq!(back.as_primitive::<Int64Type>().value(0), i64::MAX);
        let none = sums(SumKind::WholeSum, DataType::Int64, &[numbers(&[])]).unwrap();
        assert!(none.is_null(0));
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        assert!(sums(SumKind::WholeSum, DataType::UInt64, &[unsigned]).is_ok());
    }

    #[test]
    fn decimals_go_beyond_their_type_on_the_way_only() {
        let most = 10i128.pow(38) - 1;
        let terms = |values: &[i128]| -> ArrayRef {
            Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(38, 0).unwrap())
        };
        let output = DataType::Decimal128(38, 0);
        let sum = |batches: &[ArrayRef]| sums(SumKind::DecimalSum, output.clone(), batches);
        let error = sum(&[terms(&[most, most])]).unwrap_err().to_string();
        assert!(error.contains("beyond DECIMAL(38, 0)"), "{error}");
        let back = sum(&[terms(&[most, most]), terms(&[-most])]).unwrap();
        assert_eq!(back.as_primitive::<Decimal128Type>().value(0), most);
        let average = sums(SumKind::DecimalAverage, DataType::Decimal128(38, 2), &[terms(&[1, 1, 0]), terms(&[-4])]);
        assert_eq!(average.unwrap().as_primitive::<Decimal128Type>().value(0), -50);
        let thirds = sums(SumKind::DecimalAverage, DataType::Decimal128(38, 2), &[terms(&[1, 1, 0])]);
        assert_eq!(thirds.unwrap().as_primitive::<Decimal128Type>().value(0), 67);
    }
}
