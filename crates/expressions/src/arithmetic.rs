//! `+`, `-`, `*`, `/`, `%`, `<<` and `>>` whose result is exact or an error.
//!
//! Owns: arithmetic of whole numbers, and the operators as functions. Does not own: DECIMAL ([`crate::decimal`]); DOUBLE
//! and FLOAT, which follow IEEE 754 in DataFusion; which operators of a query become these ([`crate::operators`]).
//! Invariant: a result outside its type is an error, never a wrapped number.

use crate::decimal;
use crate::types::overflow;
use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use datafusion::arrow::compute::kernels::numeric;
use datafusion::arrow::compute::try_binary;
use datafusion::arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::hash::Hash;
use std::sync::Arc;

/// An operator as a function of two numbers of one kind: whole numbers, or DECIMAL.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Arithmetic {
    op: Operator,
    signature: Signature,
}

impl Arithmetic {
    /// The operator over these arguments.
    pub fn call(op: Operator, left: Expr, right: Expr) -> Expr {
        let signature = Signature::user_defined(Volatility::Immutable);
        ScalarUDF::from(Self { op, signature }).call(vec![left, right])
    }

    pub fn op(&self) -> Operator {
        self.op
    }

    /// The operator's sign, such as `+`.
    pub fn sign(&self) -> &'static str {
        sign(self.op)
    }
}

/// The expression as text, with its operators between their arguments.
pub fn text(expr: &Expr) -> String {
    let operators = expr.clone().transform_up(|expr| match expr {
        Expr::ScalarFunction(call) => match (call.func.inner().downcast_ref::<Arithmetic>(), call.args.as_slice()) {
            (Some(operator), [left, right]) => {
                let (left, right) = (Box::new(left.clone()), Box::new(right.clone()));
                Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left, operator.op, right))))
            }
            _ => Ok(Transformed::no(Expr::ScalarFunction(call))),
        },
        other => Ok(Transformed::no(other)),
    });
    operators.map_or_else(|_| expr.to_string(), |expr| expr.data.to_string())
}

/// True if values of these types are computed exactly here.
pub fn is_exact(op: Operator, left: &DataType, right: &DataType) -> bool {
    match op {
        Operator::Plus | Operator::Minus | Operator::Multiply => {
            left.is_integer() && right.is_integer() || decimal::is_one(left, right)
        }
        Operator::Divide | Operator::Modulo => decimal::is_one(left, right),
        Operator::BitwiseShiftLeft | Operator::BitwiseShiftRight => left.is_integer() && right.is_integer(),
        _ => false,
    }
}

fn sign(op: Operator) -> &'static str {
    match op {
        Operator::Plus => "+",
        Operator::Minus => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::Modulo => "%",
        Operator::BitwiseShiftLeft => "<<",
        _ => ">>",
    }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        self.sign()
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [left, right] => Ok(format!("{} {} {}", operand(left), self.sign(), operand(right))),
            _ => internal_err!("{} takes two arguments", self.sign()),
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [left, right] => Ok(format!("{} {} {}", left.schema_name(), self.sign(), right.schema_name())),
            _ => internal_err!("{} takes two arguments", self.sign()),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = types else { return plan_err!("{} takes two arguments", self.sign()) };
        if let Some(types) = decimal::coerced(left, right) {
            return Ok(types.to_vec());
        }
        if !left.is_integer() || !right.is_integer() {
            return plan_err!("{} is not defined for {left} and {right}", self.sign());
        }
        match self.op {
            Operator::BitwiseShiftLeft | Operator::BitwiseShiftRight => Ok(vec![left.clone(), DataType::Int64]),
            op => {
                let (left, right) = BinaryTypeCoercer::new(left, &op, right).get_input_types()?;
                Ok(vec![left, right])
            }
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [left @ DataType::Decimal128(..), right @ DataType::Decimal128(..)] => {
                decimal::result_type(self.op, left, right)
            }
            [left, _] if left.is_integer() => Ok(left.clone()),
            other => plan_err!("{} is not defined for {other:?}", self.sign()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let columns = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let result = match args.return_field.data_type() {
            DataType::Decimal128(precision, scale) => {
                decimal::compute(self.op, &columns[0], &columns[1], *precision, *scale)?
            }
            _ => whole(self.op, &columns[0], &columns[1])?,
        };
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

/// An argument as it stands beside an operator.
fn operand(expr: &Expr) -> String {
    let is_operator = match expr {
        Expr::BinaryExpr(_) | Expr::Between(_) | Expr::Like(_) | Expr::Not(_) => true,
        Expr::ScalarFunction(call) => call.func.inner().is::<Arithmetic>(),
        _ => false,
    };
    if is_operator { format!("({expr})") } else { expr.to_string() }
}

fn whole(op: Operator, left: &ArrayRef, right: &ArrayRef) -> Result<ArrayRef> {
    let result = match op {
        Operator::Plus => numeric::add(left, right),
        Operator::Minus => numeric::sub(left, right),
        Operator::Multiply => numeric::mul(left, right),
        _ => shift(op == Operator::BitwiseShiftLeft, left, right),
    };
    result.map_err(|error| match error {
        ArrowError::ArithmeticOverflow(_) => overflow(left.data_type()).into(),
        other => other.into(),
    })
}

fn shift(to_left: bool, values: &ArrayRef, by: &ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    let by = by.as_primitive::<Int64Type>();
    match values.data_type() {
        DataType::Int8 => shifted::<Int8Type>(to_left, values, by, 8),
        DataType::Int16 => shifted::<Int16Type>(to_left, values, by, 16),
        DataType::Int32 => shifted::<Int32Type>(to_left, values, by, 32),
        DataType::Int64 => shifted::<Int64Type>(to_left, values, by, 64),
        DataType::UInt8 => shifted::<UInt8Type>(to_left, values, by, 8),
        DataType::UInt16 => shifted::<UInt16Type>(to_left, values, by, 16),
        DataType::UInt32 => shifted::<UInt32Type>(to_left, values, by, 32),
        DataType::UInt64 => shifted::<UInt64Type>(to_left, values, by, 64),
        other => Err(ArrowError::InvalidArgumentError(format!("{other} cannot be shifted"))),
    }
}

/// Multiplies by, or divides by (rounding down), powers of two.
fn shifted<T>(
    to_left: bool,
    values: &ArrayRef,
    by: &PrimitiveArray<Int64Type>,
    bits: i64,
) -> std::result::Result<ArrayRef, ArrowError>
where
    T: ArrowPrimitiveType,
    i128: From<T::Native>,
    T::Native: TryFrom<i128>,
{
    let compute = |value: T::Native, by: i64| {
        let wide = i128::from(value);
        let shifted = match by {
            ..0 => None,
            by if !to_left => Some(wide >> by.min(127)),
            _ if value.is_zero() => Some(0),
            by if by >= bits => None,
            by => Some(wide << by),
        };
        shifted.and_then(|wide| T::Native::try_from(wide).ok()).ok_or_else(|| overflow(values.data_type()))
    };
    let shifted: PrimitiveArray<T> = try_binary(values.as_primitive::<T>(), by, compute)?;
    Ok(Arc::new(shifted))
}
