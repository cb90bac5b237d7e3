//! Arithmetic of DECIMAL: results are rounded half up to the scale of their type, and must fit its precision.
//!
//! Owns: the types of results, and computing them. The types are Spark's with `spark.sql.decimalOperations.allowPrecisionLoss`
//! (`DecimalPrecision` in its documentation): where precision would exceed 38 digits, digits behind the point are given
//! up, though never below 6. Intermediates are of 256 bits.

use crate::types::overflow;
use datafusion::arrow::array::{ArrayRef, AsArray, Decimal128Array};
use datafusion::arrow::compute::try_binary;
use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, DecimalType, i256};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::Operator;
use std::sync::Arc;

const MOST: u8 = DECIMAL128_MAX_PRECISION;

/// Digits behind the point that a result keeps, however many it has before the point.
const LEAST_SCALE: i8 = 6;

/// True if one of the types is DECIMAL and the other DECIMAL or a whole number.
pub fn is_one(left: &DataType, right: &DataType) -> bool {
    coerced(left, right).is_some()
}

/// Both types as DECIMAL; `None` if neither is one, or one is not exact.
pub fn coerced(left: &DataType, right: &DataType) -> Option<[DataType; 2]> {
    let either = matches!(left, DataType::Decimal128(..)) || matches!(right, DataType::Decimal128(..));
    if !either {
        return None;
    }
    Some([of(left)?, of(right)?])
}

/// The DECIMAL that holds every value of a type.
fn of(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Decimal128(_, scale) if *scale >= 0 => Some(data_type.clone()),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) if *scale >= 0 => {
            Some(DataType::Decimal128(*precision, *scale))
        }
        whole => digits(whole).map(|digits| DataType::Decimal128(digits, 0)),
    }
}

/// Digits of the largest value of a type of whole numbers.
pub(crate) fn digits(data_type: &DataType) -> Option<u8> {
    Some(match data_type {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        DataType::UInt64 => 20,
        _ => return None,
    })
}

/// The type of `left op right`.
pub fn result_type(op: Operator, left: &DataType, right: &DataType) -> Result<DataType> {
    let (DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)) = (left, right) else {
        return plan_err!("{op} is not defined for {left} and {right}");
    };
    let (p1, s1, p2, s2) = (i32::from(*p1), i32::from(*s1), i32::from(*p2), i32::from(*s2));
    let (precision, scale) = match op {
        Operator::Plus | Operator::Minus => {
            let scale = s1.max(s2);
            ((p1 - s1).max(p2 - s2) + scale + 1, scale)
        }
        Operator::Multiply => (p1 + p2 + 1, s1 + s2),
        Operator::Divide => {
            let scale = (s1 + p2 + 1).max(i32::from(LEAST_SCALE));
            (p1 - s1 + s2 + scale, scale)
        }
        Operator::Modulo => {
            let scale = s1.max(s2);
            ((p1 - s1).min(p2 - s2) + scale, scale)
        }
        _ => return plan_err!("{op} is not defined for {left} and {right}"),
    };
    Ok(narrowed(precision, scale))
}

/// Precision within 38 digits; whole digits go before those behind the point.
fn narrowed(precision: i32, scale: i32) -> DataType {
    let most = i32::from(MOST);
    if precision <= most {
        return DataType::Decimal128(precision.max(1) as u8, scale as i8);
    }
    let whole = precision - scale;
    let scale = (most - whole).max(scale.min(i32::from(LEAST_SCALE)));
    DataType::Decimal128(MOST, scale as i8)
}

/// `left op right` row by row, as DECIMAL(precision, scale).
pub fn compute(op: Operator, left: &ArrayRef, right: &ArrayRef, precision: u8, scale: i8) -> Result<ArrayRef> {
    let (left, right) = (left.as_primitive::<Decimal128Type>(), right.as_primitive::<Decimal128Type>());
    let (s1, s2) = (i32::from(left.scale()), i32::from(right.scale()));
    let to = Target { precision, scale: i32::from(scale) };
    let result: Decimal128Array = match op {
        Operator::Plus => try_binary(left, right, |a, b| to.sum(a, s1, b, s2, false))?,
        Operator::Minus => try_binary(left, right, |a, b| to.sum(a, s1, b, s2, true))?,
        Operator::Multiply => try_binary(left, right, |a, b| to.product(a, b, s1 + s2))?,
        Operator::Divide => try_binary(left, right, |a, b| to.quotient(a, b, s1 - s2))?,
        Operator::Modulo => try_binary(left, right, |a, b| to.remainder(a, s1, b, s2))?,
        _ => return plan_err!("{op} is not defined for DECIMAL"),
    };
    Ok(Arc::new(result.with_precision_and_scale(precision, scale)?))
}

/// `sum`, of `scale` digits behind the point, divided by a count, as DECIMAL(precision, target).
///
/// # Errors
/// If the average does not fit, or `count` is 0.
pub fn average(sum: i256, scale: i8, count: i64, precision: u8, target: i8) -> Computed {
    let to = Target { precision, scale: i32::from(target) };
    let more = i32::from(target) - i32::from(scale);
    let count = i256::from(count);
    if count == i256::ZERO {
        return Err(ArrowError::DivideByZero);
    }
    let widened = power(more.max(0)).and_then(|power| sum.checked_mul(power));
    let divisor = power((-more).max(0)).and_then(|power| count.checked_mul(power));
    let average = widened.zip(divisor).and_then(|(sum, count)| divided(sum, count)).and_then(i256::to_i128);
    to.fitting(average.ok_or_else(|| to.too_large())?)
}

/// The value as DECIMAL(precision, scale), whose scale it has already.
///
/// # Errors
/// If it has more digits.
pub fn fitting(value: i256, precision: u8, scale: i8) -> Computed {
    let to = Target { precision, scale: i32::from(scale) };
    to.fitting(value.to_i128().ok_or_else(|| to.too_large())?)
}

/// The type of a result.
#[derive(Clone, Copy)]
struct Target {
    precision: u8,
    scale: i32,
}

type Computed = std::result::Result<i128, ArrowError>;

impl Target {
    fn too_large(self) -> ArrowError {
        overflow(&DataType::Decimal128(self.precision, self.scale as i8))
    }

    /// The value if it has no more digits than the type.
    fn fitting(self, value: i128) -> Computed {
        let most = Decimal128Type::MAX_FOR_EACH_PRECISION[usize::from(self.precision)];
        if (-most..=most).contains(&value) { Ok(value) } else { Err(self.too_large()) }
    }

    /// `value`, of `scale` digits behind the point, with the digits of the type.
    fn rounded(self, value: i256, scale: i32) -> Computed {
        let value = match self.scale - scale {
            0 => Some(value),
            more @ 1.. => power(more).and_then(|power| value.checked_mul(power)),
            fewer => power(-fewer).map_or(Some(i256::ZERO), |power| divided(value, power)),
        };
        self.fitting(value.and_then(i256::to_i128).ok_or_else(|| self.too_large())?)
    }

    fn sum(self, a: i128, s1: i32, b: i128, s2: i32, negated: bool) -> Computed {
        if s1 == s2 && s1 == self.scale {
            let sum = if negated { a.checked_sub(b) } else { a.checked_add(b) };
            return self.fitting(sum.ok_or_else(|| self.too_large())?);
        }
        let scale = s1.max(s2);
        let (a, b) = (widened(a, scale - s1), widened(b, scale - s2));
        let sum = a.zip(b).and_then(|(a, b)| if negated { a.checked_sub(b) } else { a.checked_add(b) });
        self.rounded(sum.ok_or_else(|| self.too_large())?, scale)
    }

    fn product(self, a: i128, b: i128, scale: i32) -> Computed {
        match a.checked_mul(b) {
            Some(product) if scale == self.scale => self.fitting(product),
            // Two values of 38 digits have a product of 76, which 256 bits hold.
            _ => self.rounded(i256::from_i128(a).wrapping_mul(i256::from_i128(b)), scale),
        }
    }

    /// `scale`: of `a` less that of `b`.
    fn quotient(self, a: i128, b: i128, scale: i32) -> Computed {
        if b == 0 {
            return Err(ArrowError::DivideByZero);
        }
        // A numerator beyond 256 bits has a quotient beyond 38 digits.
        let (a, b) = (i256::from_i128(a), i256::from_i128(b));
        let quotient = match self.scale - scale {
            more @ 0.. => power(more).and_then(|power| a.checked_mul(power)).and_then(|a| divided(a, b)),
            fewer => power(-fewer).and_then(|power| b.checked_mul(power)).map_or(Some(i256::ZERO), |b| divided(a, b)),
        };
        let quotient = if a == i256::ZERO { Some(a) } else { quotient };
        self.fitting(quotient.and_then(i256::to_i128).ok_or_else(|| self.too_large())?)
    }

    fn remainder(self, a: i128, s1: i32, b: i128, s2: i32) -> Computed {
        if b == 0 {
            return Err(ArrowError::DivideByZero);
        }
        let scale = s1.max(s2);
        let (a, b) = (widened(a, scale - s1), widened(b, scale - s2));
        let rest = a.zip(b).and_then(|(a, b)| a.checked_rem(b));
        self.rounded(rest.ok_or_else(|| self.too_large())?, scale)
    }
}

/// With `digits` more zeros; `None` beyond 256 bits.
fn widened(value: i128, digits: i32) -> Option<i256> {
    power(digits).and_then(|power| i256::from_i128(value).checked_mul(power))
}

/// 10 to this power; `None` beyond 256 bits.
fn power(digits: i32) -> Option<i256> {
    i256::from_i128(10).checked_pow(u32::try_from(digits).ok()?)
}

/// Divides by a number that is not zero, rounding half away from zero.
fn divided(a: i256, b: i256) -> Option<i256> {
    let (whole, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
    let rest = rest.wrapping_abs();
    let up = rest >= b.wrapping_abs().wrapping_sub(rest);
    if !up || rest == i256::ZERO {
        return Some(whole);
    }
    let away = if (a < i256::ZERO) == (b < i256::ZERO) { i256::ONE } else { i256::MINUS_ONE };
    whole.checked_add(away)
}
