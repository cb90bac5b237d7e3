//! Aggregates of Spark SQL and DuckDB that DataFusion does not have: `mode`, `skewness`, `kurtosis`, `product`.
//!
//! Owns: their results over a set of values. Does not own: keeping the values of retracting input
//! (`operators::retracting`). Invariants: the result does not depend on the order of values; NULLs do not count.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

pub fn all() -> Vec<Arc<AggregateUDF>> {
    let moments = ["skewness", "kurtosis", "product"].map(|name| AggregateUDF::from(OfNumbers::new(name)));
    moments.into_iter().chain([AggregateUDF::from(Mode::new())]).map(Arc::new).collect()
}

/// True if an aggregate of this name is one of these. Each keeps all values of a group, since no smaller state merges.
pub fn is_own(name: &str) -> bool {
    all().iter().any(|own| own.name() == name)
}

fn list(name: &str, part: &str, item: DataType) -> FieldRef {
    Arc::new(Field::new(
        format_state_name(name, part),
        DataType::List(Arc::new(Field::new_list_field(item, true))),
        true,
    ))
}

/// Aggregates of numbers as DOUBLE; NULL for no values.
///
/// `skewness(x)` and `kurtosis(x)` of the whole population; kurtosis is 0 for a normal distribution. NULL for equal values, too.
/// <https://spark.apache.org/docs/latest/api/sql/#skewness>
/// `product(x)`: all values multiplied. <https://duckdb.org/docs/stable/sql/functions/aggregates#productarg>
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfNumbers {
    name: &'static str,
    signature: Signature,
}

impl OfNumbers {
    fn new(name: &'static str) -> Self {
        Self { name, signature: Signature::numeric(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for OfNumbers {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let answer: fn(&[f64]) -> Option<f64> = match self.name {
            "skewness" => |values: &[f64]| known(moment(values, 3) / moment(values, 2).powf(1.5), values),
            "kurtosis" => |values: &[f64]| known(moment(values, 4) / moment(values, 2).powi(2) - 3.0, values),
            _ => |values: &[f64]| (!values.is_empty()).then(|| values.iter().product()),
        };
        Ok(Box::new(Numbers { answer, is_distinct: args.is_distinct, values: Vec::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![list(args.name, "values", DataType::Float64)])
    }
}

/// Returns the central moment of the values with this power.
fn moment(values: &[f64], power: i32) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|x| (x - mean).powi(power)).sum::<f64>() / count
}

/// Returns `answer` if the values differ; `None` otherwise.
fn known(answer: f64, values: &[f64]) -> Option<f64> {
    (!values.is_empty() && moment(values, 2) != 0.0).then_some(answer)
}

#[derive(Debug)]
struct Numbers {
    /// Computes the result from the values in ascending order, so that it does not depend on their order of arrival.
    answer: fn(&[f64]) -> Option<f64>,
    is_distinct: bool,
    values: Vec<f64>,
}

impl Accumulator for Numbers {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let numbers = cast(&values[0], &DataType::Float64)?;
        self.values.extend(numbers.as_primitive::<Float64Type>().iter().flatten());
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.values.sort_unstable_by(f64::total_cmp);
        if self.is_distinct {
            self.values.dedup();
        }
        Ok(ScalarValue::Float64((self.answer)(&self.values)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * size_of::<f64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: Vec<ScalarValue> = self.values.iter().map(|value| ScalarValue::from(*value)).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Float64))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        states[0].as_list::<i32>().iter().flatten().try_for_each(|values| self.update_batch(&[values]))
    }
}

/// `mode(x)`: the most frequent value, of several the least. <https://spark.apache.org/docs/latest/api/sql/#mode>
#[derive(Debug, PartialEq, Eq, Hash)]
struct Mode {
    signature: Signature,
}

impl Mode {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Mode {
    fn name(&self) -> &str {
        "mode"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        Ok(Box::new(Counts { data_type, is_distinct: args.is_distinct, counts: HashMap::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let value = args.return_field.data_type().clone();
        Ok(vec![list(args.name, "values", value), list(args.name, "counts", DataType::UInt64)])
    }
}

#[derive(Debug)]
struct Counts {
    data_type: DataType,
    is_distinct: bool,
    counts: HashMap<ScalarValue, u64>,
}

impl Counts {
    fn add(&mut self, values: &ArrayRef, count: impl Fn(usize) -> u64) -> Result<()> {
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            let known = self.counts.entry(ScalarValue::try_from_array(values, row)?).or_default();
            *known = if self.is_distinct { 1 } else { *known + count(row) };
        }
        Ok(())
    }
}

impl Accumulator for Counts {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0], |_| 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let least_first = |a: &ScalarValue, b: &ScalarValue| b.partial_cmp(a).unwrap_or(Ordering::Equal);
        let most = self.counts.iter().max_by(|(a, n), (b, m)| n.cmp(m).then_with(|| least_first(a, b)));
        most.map_or_else(|| ScalarValue::try_from(&self.data_type), |(value, _)| Ok(value.clone()))
    }

    fn size(&self) -> usize {
        let values: usize = self.counts.keys().map(|value| value.size() + size_of::<u64>()).sum();
        size_of_val(self) + values
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let (values, counts): (Vec<_>, Vec<_>) =
            self.counts.iter().map(|(value, count)| (value.clone(), ScalarValue::from(*count))).unzip();
        let list = |items: &[ScalarValue], of: &DataType| ScalarValue::List(ScalarValue::new_list_nullable(items, of));
        Ok(vec![list(&values, &self.data_type), list(&counts, &DataType::UInt64)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states[0].as_list::<i32>().iter().zip(states[1].as_list::<i32>().iter());
        for (values, counts) in lists.filter_map(|(values, counts)| values.zip(counts)) {
            let counts = counts.as_primitive::<UInt64Type>();
            self.add(&values, |row| counts.value(row))?;
        }
        Ok(())
    }
}
