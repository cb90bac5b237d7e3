//! Durations and intervals: compared by their length, and multiplied and divided by numbers.
//!
//! Owns: their length, and scaling them. Does not own: adding them to times (DataFusion). The length is PostgreSQL's: a
//! month counts as 30 days, a day as 24 hours.
//! <https://www.postgresql.org/docs/current/functions-datetime.html>

use crate::types::overflow;
use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float64Array, PrimitiveArray,
};
use datafusion::arrow::compute::{cast, try_binary};
use datafusion::arrow::datatypes::{
    DataType, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::Arc;

const DAYS_OF_MONTH: i128 = 30;
const NANOS_OF_DAY: i128 = 86_400_000_000_000;

/// Nanoseconds of any interval fit.
const LENGTH: DataType = DataType::Decimal128(38, 0);

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// True for durations (`b - a` of two times) and intervals (`INTERVAL '1' DAY`).
pub fn is_duration(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Duration(_) | DataType::Interval(_))
}

/// The expression's length, by which it is compared and ordered.
pub fn length(expr: Expr) -> Expr {
    ScalarUDF::from(Length { signature: Signature::any(1, Volatility::Immutable) }).call(vec![expr])
}

/// True for a call of [`length`].
pub fn is_length(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.inner().is::<Length>())
}

/// Nanoseconds of a duration or interval.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Length {
    signature: Signature,
}

impl ScalarUDFImpl for Length {
    fn name(&self) -> &str {
        "nanoseconds"
    }

    /// Named like its argument: people wrote that.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(Expr::to_string).unwrap_or_default())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(|expr| expr.schema_name().to_string()).unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(LENGTH)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = matches!(args.args.as_slice(), [ColumnarValue::Scalar(_)]);
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let [values] = columns.as_slice() else { return internal_err!("a length is of one value") };
        let lengths: ArrayRef = Arc::new(lengths(values)?);
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&lengths, 0)?)),
            false => Ok(ColumnarValue::Array(lengths)),
        }
    }
}

fn lengths(values: &ArrayRef) -> Result<Decimal128Array> {
    let lengths: Decimal128Array = match values.data_type() {
        DataType::Duration(unit) => {
            let factor = nanos(*unit);
            let numbers = cast(values, &DataType::Int64)?;
            numbers.as_primitive::<Int64Type>().unary(|value| i128::from(value) * factor)
        }
        _ => {
            let intervals = cast(values, &INTERVAL)?;
            intervals.as_primitive::<IntervalMonthDayNanoType>().unary(|value| {
                (i128::from(value.months) * DAYS_OF_MONTH + i128::from(value.days)) * NANOS_OF_DAY
                    + i128::from(value.nanoseconds)
            })
        }
    };
    Ok(lengths.with_data_type(LENGTH))
}

fn nanos(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

/// The expression, and its type.
type Typed = (Expr, DataType);

/// A duration or interval times or divided by a number; `Err` gives back the arguments of anything else.
pub fn scaled(op: Operator, left: Typed, right: Typed) -> std::result::Result<Expr, (Expr, Expr)> {
    let is_number = |data_type: &DataType| data_type.is_numeric();
    let call = |duration, number| {
        let signature = Signature::user_defined(Volatility::Immutable);
        ScalarUDF::from(Scale { divides: op == Operator::Divide, signature }).call(vec![duration, number])
    };
    match op {
        Operator::Multiply | Operator::Divide if is_duration(&left.1) && is_number(&right.1) => {
            Ok(call(left.0, right.0))
        }
        Operator::Multiply if is_number(&left.1) && is_duration(&right.1) => Ok(call(right.0, left.0)),
        _ => Err((left.0, right.0)),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Scale {
    divides: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Scale {
    fn name(&self) -> &str {
        if self.divides { "/" } else { "*" }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [left, right] => Ok(format!("{left} {} {right}", self.name())),
            _ => internal_err!("{} takes two arguments", self.name()),
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [left, right] => Ok(format!("{} {} {}", left.schema_name(), self.name(), right.schema_name())),
            _ => internal_err!("{} takes two arguments", self.name()),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [duration, number] = types else { return plan_err!("{} takes two arguments", self.name()) };
        let duration = if matches!(duration, DataType::Interval(_)) { INTERVAL } else { duration.clone() };
        let number = if number.is_integer() { DataType::Int64 } else { DataType::Float64 };
        Ok(vec![duration, number])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first() {
            Some(DataType::Interval(_)) => Ok(INTERVAL),
            Some(duration) => Ok(duration.clone()),
            None => plan_err!("{} takes two arguments", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let [durations, numbers] = columns.as_slice() else { return internal_err!("two arguments are scaled") };
        let result = match durations.data_type() {
            DataType::Interval(_) => intervals(self.divides, durations, numbers)?,
            DataType::Duration(TimeUnit::Second) => {
                durations_by::<DurationSecondType>(self.divides, durations, numbers)?
            }
            DataType::Duration(TimeUnit::Millisecond) => {
                durations_by::<DurationMillisecondType>(self.divides, durations, numbers)?
            }
            DataType::Duration(TimeUnit::Microsecond) => {
                durations_by::<DurationMicrosecondType>(self.divides, durations, numbers)?
            }
            _ => durations_by::<DurationNanosecondType>(self.divides, durations, numbers)?,
        };
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

fn durations_by<T: ArrowPrimitiveType<Native = i64>>(
    divides: bool,
    durations: &ArrayRef,
    numbers: &ArrayRef,
) -> Result<ArrayRef> {
    let durations = durations.as_primitive::<T>();
    let too_long = || overflow(&T::DATA_TYPE);
    let scaled: PrimitiveArray<T> = match numbers.data_type() {
        DataType::Int64 => {
            try_binary(durations, numbers.as_primitive::<Int64Type>(), |duration, number| match (divides, number) {
                (true, 0) => Err(ArrowError::DivideByZero),
                (true, number) => duration.checked_div(number).ok_or_else(too_long),
                (false, number) => duration.checked_mul(number).ok_or_else(too_long),
            })?
        }
        _ => try_binary(durations, numbers.as_primitive::<Float64Type>(), |duration, number| {
            let factor = factor(divides, number)?;
            whole(duration as f64 * factor).ok_or_else(too_long)
        })?,
    };
    Ok(Arc::new(scaled))
}

/// What to multiply by.
fn factor(divides: bool, number: f64) -> std::result::Result<f64, ArrowError> {
    match divides {
        true if number == 0.0 => Err(ArrowError::DivideByZero),
        true => Ok(number.recip()),
        false => Ok(number),
    }
}

/// The nearest whole number, if there is one of 64 bits.
fn whole(value: f64) -> Option<i64> {
    let rounded = value.round();
    // 2^63 itself is beyond.
    (rounded.abs() < 9_223_372_036_854_775_808.0).then_some(rounded as i64)
}

fn intervals(divides: bool, intervals: &ArrayRef, numbers: &ArrayRef) -> Result<ArrayRef> {
    let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
    let scaled: PrimitiveArray<IntervalMonthDayNanoType> = match numbers.data_type() {
        DataType::Int64 if !divides => {
            try_binary(intervals, numbers.as_primitive::<Int64Type>(), |interval, number| {
                multiplied(interval, number).ok_or_else(|| overflow(&INTERVAL))
            })?
        }
        DataType::Int64 => try_binary(intervals, numbers.as_primitive::<Int64Type>(), divided)?,
        _ => {
            let numbers: &Float64Array = numbers.as_primitive();
            try_binary(intervals, numbers, |interval, number| {
                let factor = factor(divides, number)?;
                spread(interval, factor).ok_or_else(|| overflow(&INTERVAL))
            })?
        }
    };
    Ok(Arc::new(scaled))
}

fn multiplied(interval: IntervalMonthDayNano, by: i64) -> Option<IntervalMonthDayNano> {
    Some(IntervalMonthDayNano {
        months: i64::from(interval.months).checked_mul(by)?.try_into().ok()?,
        days: i64::from(interval.days).checked_mul(by)?.try_into().ok()?,
        nanoseconds: interval.nanoseconds.checked_mul(by)?,
    })
}

/// What is left of months goes to days, what is left of days to hours.
fn divided(interval: IntervalMonthDayNano, by: i64) -> std::result::Result<IntervalMonthDayNano, ArrowError> {
    if by == 0 {
        return Err(ArrowError::DivideByZero);
    }
    let by = i128::from(by);
    let months = i128::from(interval.months);
    let days = i128::from(interval.days) + months % by * DAYS_OF_MONTH;
    let nanoseconds = i128::from(interval.nanoseconds) + days % by * NANOS_OF_DAY;
    let parts = (i32::try_from(months / by), i32::try_from(days / by), i64::try_from(nanoseconds / by));
    match parts {
        (Ok(months), Ok(days), Ok(nanoseconds)) => Ok(IntervalMonthDayNano { months, days, nanoseconds }),
        _ => Err(overflow(&INTERVAL)),
    }
}

fn spread(interval: IntervalMonthDayNano, by: f64) -> Option<IntervalMonthDayNano> {
    let months = f64::from(interval.months) * by;
    let days = f64::from(interval.days) * by + months.fract() * DAYS_OF_MONTH as f64;
    let nanoseconds = interval.nanoseconds as f64 * by + days.fract() * NANOS_OF_DAY as f64;
    Some(IntervalMonthDayNano {
        months: whole(months.trunc())?.try_into().ok()?,
        days: whole(days.trunc())?.try_into().ok()?,
        nanoseconds: whole(nanoseconds)?,
    })
}
