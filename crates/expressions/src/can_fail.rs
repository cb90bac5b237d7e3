//! Which expressions may fail over some row.
//!
//! Owns: the answer for expressions of plans and for those that run. Invariant: "no" is certain, "yes" is not: what is not
//! known to be safe may fail.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};

/// Functions that give an answer for any arguments of their types.
const SAFE: [&str; 58] = [
    "array_length",
    "ascii",
    "bit_length",
    "btrim",
    "cardinality",
    "ceil",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "contains",
    "cos",
    "date_part",
    "date_trunc",
    "degrees",
    "ends_with",
    "exp",
    "floor",
    "get_field",
    "greatest",
    "hw_has_time",
    "initcap",
    "instr",
    "isnan",
    "iszero",
    "json_value",
    "least",
    "left",
    "length",
    "levenshtein",
    "lower",
    "ltrim",
    "md5",
    "named_struct",
    "nanoseconds",
    "nanvl",
    "now",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "position",
    "radians",
    "replace",
    "reverse",
    "right",
    "rtrim",
    "sha256",
    "signum",
    "sin",
    "split_part",
    "starts_with",
    "strpos",
    "struct",
    "substr",
    "substring",
    "trim",
    "upper",
];

/// True if evaluating the expression may fail for some row of `schema`.
pub fn can_fail(expr: &Expr, schema: &DFSchema) -> bool {
    let fails = |expr: &Expr| match expr {
        Expr::Column(_)
        | Expr::OuterReferenceColumn(..)
        | Expr::Literal(..)
        | Expr::Alias(_)
        | Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::TryCast(_)
        | Expr::InList(_)
        | Expr::Like(_)
        | Expr::Exists(_)
        | Expr::InSubquery(_) => false,
        Expr::BinaryExpr(binary) if is_safe(binary.op) => false,
        Expr::BinaryExpr(binary) => match (binary.left.get_type(schema), binary.right.get_type(schema)) {
            (Ok(left), Ok(right)) => !is_safe_for(&left, &right),
            _ => true,
        },
        Expr::Cast(cast) => match cast.expr.get_type(schema) {
            Ok(from) => !holds(&from, cast.field.data_type()),
            Err(_) => true,
        },
        Expr::ScalarFunction(call) => !is_safe_function(call.func.name()),
        _ => true,
    };
    expr.exists(|expr| Ok(fails(expr))).unwrap_or(true)
}

/// True if the function gives an answer for any arguments of its types.
pub(crate) fn is_safe_function(name: &str) -> bool {
    SAFE.contains(&name)
}

/// Operators that compare two values.
pub(crate) fn compares(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// Operators that give an answer for any arguments.
pub(crate) fn is_safe(op: Operator) -> bool {
    let is_other = matches!(
        op,
        Operator::And
            | Operator::Or
            | Operator::LikeMatch
            | Operator::ILikeMatch
            | Operator::NotLikeMatch
            | Operator::NotILikeMatch
            | Operator::BitwiseAnd
            | Operator::BitwiseOr
            | Operator::BitwiseXor
            | Operator::StringConcat
    );
    is_other || compares(op)
}

/// True if arithmetic of these types is taken as safe: IEEE 754 has a result for any numbers, and times are far from the
/// ends of their types.
fn is_safe_for(left: &DataType, right: &DataType) -> bool {
    let is_time = |data_type: &DataType| data_type.is_temporal() || matches!(data_type, DataType::Interval(_));
    left.is_floating() && right.is_floating() || is_time(left) && is_time(right)
}

/// True if every value of type `from` can be cast to type `to`.
pub(crate) fn holds(from: &DataType, to: &DataType) -> bool {
    use DataType as D;
    let bits = |data_type: &DataType| data_type.primitive_width().unwrap_or(0);
    match (from, to) {
        (from, to) if from == to => true,
        (D::Null, _) => true,
        (from, to) if to.is_string() => from.is_numeric() || from.is_string() || matches!(from, D::Boolean | D::Date32),
        // Times are far from the ends of their types.
        (from, to) if from.is_temporal() && to.is_temporal() => true,
        (D::Decimal128(digits, behind), D::Decimal128(most, scale)) => {
            behind <= scale && i16::from(*digits) - i16::from(*behind) <= i16::from(*most) - i16::from(*scale)
        }
        (from, D::Decimal128(most, scale)) if from.is_integer() => {
            crate::decimal::digits(from).is_some_and(|digits| i16::from(digits) <= i16::from(*most) - i16::from(*scale))
        }
        (from, D::Float64) => from.is_numeric(),
        (from, D::Float32) => from.is_integer(),
        (from, to) if from.is_signed_integer() && to.is_signed_integer() => bits(from) <= bits(to),
        (from, to) if from.is_unsigned_integer() && to.is_integer() => {
            bits(from) < bits(to) || to.is_unsigned_integer() && bits(from) == bits(to)
        }
        _ => false,
    }
}
