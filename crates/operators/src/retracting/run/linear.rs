//! Functions with a running value from which a row can be retracted: counts, sums, averages, variances.
//!
//! Owns: their running values, and the bytes of those in state. Invariant: a value depends on the rows, not on their
//! order.

use super::exact::{ExactSum, take};
use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, i256};
use datafusion::common::ScalarValue;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_expressions::decimal;
use highwater_expressions::overflow;

/// The function that is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinearKind {
    Count,
    /// Sum of integers or decimals, stored as an integer at the argument's scale.
    Sum,
    /// Average of decimals.
    Average,
    /// Sum of decimals that 128 bits may not hold.
    WideSum,
    /// Average of decimals whose sum 128 bits may not hold.
    WideAverage,
    FloatSum,
    FloatAverage,
    /// Variance of floats, of a sample or a population; with `root`, the standard deviation.
    Variance {
        sample: bool,
        root: bool,
    },
}

impl LinearKind {
    /// Returns the kind of a function over arguments of these types; `None` if the function is not linear.
    pub fn of(name: &str, arguments: &[DataType], output: &DataType) -> Option<Self> {
        let [first] = arguments else { return (name == "count").then_some(Self::Count) };
        let variance = |sample, root| first.is_floating().then_some(Self::Variance { sample, root });
        match (name, output) {
            ("count", _) => Some(Self::Count),
            ("sum", DataType::Float64) => Some(Self::FloatSum),
            ("sum", DataType::Decimal128(_, _)) if is_wide(first) => Some(Self::WideSum),
            ("sum", DataType::Int64 | DataType::UInt64 | DataType::Decimal128(_, _)) => Some(Self::Sum),
            ("avg" | "mean", DataType::Float64) => Some(Self::FloatAverage),
            ("avg" | "mean", DataType::Decimal128(_, _)) if is_wide(first) => Some(Self::WideAverage),
            ("avg" | "mean", DataType::Decimal128(_, _)) if matches!(first, DataType::Decimal128(_, _)) => {
                Some(Self::Average)
            }
            ("var" | "var_samp" | "var_sample", _) => variance(true, false),
            ("var_pop" | "var_population", _) => variance(false, false),
            ("stddev" | "stddev_samp", _) => variance(true, true),
            ("stddev_pop", _) => variance(false, true),
            _ => None,
        }
    }

    fn is_float(&self) -> bool {
        matches!(self, Self::FloatSum | Self::FloatAverage | Self::Variance { .. })
    }
}

/// True for decimals of which fewer than ten billion may have a sum beyond 128 bits.
pub fn is_wide(argument: &DataType) -> bool {
    matches!(argument, DataType::Decimal128(precision, _) if *precision > 28)
}

/// Argument values of a batch, prepared for running values.
pub enum Terms {
    /// Whether each row is counted.
    There(Vec<bool>),
    Whole(Decimal128Array),
    Float(ArrayRef),
}

impl Terms {
    pub fn new(kind: &LinearKind, arguments: &[ArrayRef], rows: usize) -> Result<Self, EngineError> {
        if *kind == LinearKind::Count {
            let there = |row| arguments.iter().all(|argument| !argument.is_null(row));
            return Ok(Self::There((0..rows).map(there).collect()));
        }
        let argument = arguments.first().ok_or(Fault::Lacks { what: "a sum", lacks: "argument" })?;
        if kind.is_float() {
            return Ok(Self::Float(cast(argument, &DataType::Float64)?));
        }
        let scale = match argument.data_type() {
            DataType::Decimal128(_, scale) => *scale,
            _ => 0,
        };
        Ok(Self::Whole(cast(argument, &DataType::Decimal128(38, scale))?.as_primitive::<Decimal128Type>().clone()))
    }
}

/// The running value of one function in one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linear {
    /// Number of rows counted.
    count: i64,
    whole: i256,
    float: ExactSum,
    squares: ExactSum,
}

impl Linear {
    /// Adds row `row` `weight` times; a negative weight retracts it.
    pub fn add(&mut self, kind: &LinearKind, terms: &Terms, row: usize, times: i64) -> Result<(), EngineError> {
        match terms {
            Terms::There(there) => self.count += if there[row] { times } else { 0 },
            Terms::Whole(values) if values.is_valid(row) => {
                // 256 bits hold the sum of more rows than there can be.
                let more = i256::from_i128(values.value(row)).wrapping_mul(i256::from(times));
                self.whole = self.whole.wrapping_add(more);
                self.count += times;
            }
            Terms::Float(values) if values.is_valid(row) => {
                let value = values.as_primitive::<Float64Type>().value(row);
                self.float.add(value, times);
                if matches!(kind, LinearKind::Variance { .. }) {
                    self.squares.add_square(value, times);
                }
                self.count += times;
            }
            Terms::Whole(_) | Terms::Float(_) => {}
        }
        Ok(())
    }

    /// Returns the function's value, of type `output`; `argument` is the type of its argument.
    pub fn value(
        &self,
        kind: &LinearKind,
        argument: Option<&DataType>,
        output: &DataType,
    ) -> Result<ScalarValue, EngineError> {
        if *kind == LinearKind::Count {
            return Ok(ScalarValue::Int64(Some(self.count)));
        }
        if self.count == 0 {
            return Ok(ScalarValue::try_from(output)?);
        }
        let count = self.count as f64;
        match kind {
            LinearKind::Count => Ok(ScalarValue::Int64(Some(self.count))),
            LinearKind::Sum | LinearKind::WideSum => whole(self.whole, output),
            LinearKind::Average | LinearKind::WideAverage => {
                let (Some(DataType::Decimal128(_, scale)), DataType::Decimal128(precision, target)) =
                    (argument, output)
                else {
                    return Err(Fault::Type { what: "a decimal average", found: output.clone() }.into());
                };
                let value = decimal::average(self.whole, *scale, self.count, *precision, *target)?;
                Ok(ScalarValue::Decimal128(Some(value), *precision, *target))
            }
            LinearKind::FloatSum => Ok(ScalarValue::Float64(Some(self.float.value()))),
            LinearKind::FloatAverage => Ok(ScalarValue::Float64(Some(self.float.value() / count))),
            LinearKind::Variance { sample, root } => {
                let over = if *sample { count - 1.0 } else { count };
                if over == 0.0 {
                    return Ok(ScalarValue::Float64(None));
                }
                // Σx² − (Σx)²/n without cancellation: the product with the mean is subtracted exactly.
                let mean = self.float.value() / count;
                let mut rest = self.squares.clone();
                rest.merge(&scaled(&self.float, -mean));
                let variance = (rest.value() / over).max(0.0);
                Ok(ScalarValue::Float64(Some(if *root { variance.sqrt() } else { variance })))
            }
        }
    }

    pub fn write(&self, kind: &LinearKind, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.count.to_le_bytes());
        match kind {
            LinearKind::Count => {}
            // Ten billion terms of at most 28 digits fit.
            LinearKind::Sum | LinearKind::Average => into.extend_from_slice(&self.whole.as_i128().to_le_bytes()),
            LinearKind::WideSum | LinearKind::WideAverage => into.extend_from_slice(&self.whole.to_le_bytes()),
            LinearKind::FloatSum | LinearKind::FloatAverage => self.float.write(into),
            LinearKind::Variance { .. } => {
                self.float.write(into);
                self.squares.write(into);
            }
        }
    }

    /// Reads a running value from the front of `bytes`; `None` if it is cut off.
    pub fn read(kind: &LinearKind, bytes: &mut &[u8]) -> Option<Self> {
        let mut read = Self { count: i64::from_le_bytes(take(bytes)?), ..Self::default() };
        match kind {
            LinearKind::Count => {}
            LinearKind::Sum | LinearKind::Average => {
                read.whole = i256::from_i128(i128::from_le_bytes(take(bytes)?));
            }
            LinearKind::WideSum | LinearKind::WideAverage => read.whole = i256::from_le_bytes(take(bytes)?),
            LinearKind::FloatSum | LinearKind::FloatAverage => read.float = ExactSum::read(bytes)?,
            LinearKind::Variance { .. } => {
                read.float = ExactSum::read(bytes)?;
                read.squares = ExactSum::read(bytes)?;
            }
        }
        Some(read)
    }
}

/// Returns `factor` times the sum, exactly.
fn scaled(sum: &ExactSum, factor: f64) -> ExactSum {
    let mut scaled = ExactSum::default();
    for part in sum.parts() {
        let product = part * factor;
        scaled.add(product, 1);
        scaled.add(part.mul_add(factor, -product), 1);
    }
    scaled
}

fn whole(value: i256, output: &DataType) -> Result<ScalarValue, EngineError> {
    let narrow = || value.to_i128().ok_or_else(|| overflow(output));
    Ok(match output {
        DataType::Int64 => ScalarValue::Int64(Some(i64::try_from(narrow()?).map_err(|_| overflow(output))?)),
        DataType::UInt64 => ScalarValue::UInt64(Some(u64::try_from(narrow()?).map_err(|_| overflow(output))?)),
        DataType::Decimal128(precision, scale) => {
            ScalarValue::Decimal128(Some(decimal::fitting(value, *precision, *scale)?), *precision, *scale)
        }
        other => return Err(Fault::Type { what: "a sum", found: other.clone() }.into()),
    })
}
