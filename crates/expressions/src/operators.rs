//! Which operators of a query are computed here and not by DataFusion.
//!
//! Owns: the choice, while DataFusion's SQL planner meets the operators. Does not own: computing them.

use crate::arithmetic::{Arithmetic, is_exact};
use crate::can_fail::compares;
use crate::duration;
use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, cast, lit};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Plans exact arithmetic.
#[derive(Debug)]
pub struct Exact;

impl ExprPlanner for Exact {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let Some(op) = operator(&expr.op) else { return Ok(PlannerResult::Original(expr)) };
        // What has no type is refused later, with its place.
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(expr));
        };
        // A literal beside a DECIMAL is one.
        let (left, right) = match (&left, &right) {
            (DataType::Decimal128(..), _) => ((expr.left, left), literal(expr.right, right)),
            (_, DataType::Decimal128(..)) => (literal(expr.left, left), (expr.right, right)),
            _ => ((expr.left, left), (expr.right, right)),
        };
        if compares(op) {
            let (left, right) = beside_double(left, right);
            return Ok(PlannerResult::Original(RawBinaryExpr { op: expr.op, left, right }));
        }
        let (expr, left, right) = (RawBinaryExpr { op: expr.op, left: left.0, right: right.0 }, left.1, right.1);
        if is_exact(op, &left, &right) {
            return Ok(PlannerResult::Planned(Arithmetic::call(op, expr.left, expr.right)));
        }
        match duration::scaled(op, (&expr.left, &left), (&expr.right, &right)) {
            Some(planned) => Ok(PlannerResult::Planned(planned)),
            None => Ok(PlannerResult::Original(expr)),
        }
    }
}

/// The number of a literal as DECIMAL of just its digits; other expressions as they are.
fn literal(expr: Expr, data_type: DataType) -> (Expr, DataType) {
    let decimal = match &expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => decimal(&value.to_string()),
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => decimal(&value.to_string()),
        _ => None,
    };
    match decimal {
        Some(decimal) => (lit(decimal.clone()), decimal.data_type()),
        None => (expr, data_type),
    }
}

/// The number of a text without an exponent. That of a DOUBLE is the shortest that is read as this number: the literal's.
fn decimal(text: &str) -> Option<ScalarValue> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let precision = digits.unsigned_abs().to_string().len().max(fraction.len());
    let precision = u8::try_from(precision).ok().filter(|precision| *precision <= DECIMAL128_MAX_PRECISION)?;
    Some(ScalarValue::Decimal128(Some(digits), precision, i8::try_from(fraction.len()).ok()?))
}

/// A DECIMAL that is compared with a DOUBLE becomes one. DataFusion would make the DOUBLE a DECIMAL of 15 digits before the
/// point.
fn beside_double(left: (Expr, DataType), right: (Expr, DataType)) -> (Expr, Expr) {
    let to_double = |expr: Expr| cast(expr, DataType::Float64);
    match (&left.1, &right.1) {
        (DataType::Decimal128(..), other) if other.is_floating() => (to_double(left.0), right.0),
        (other, DataType::Decimal128(..)) if other.is_floating() => (left.0, to_double(right.0)),
        _ => (left.0, right.0),
    }
}

fn operator(op: &BinaryOperator) -> Option<Operator> {
    Some(match op {
        BinaryOperator::Plus => Operator::Plus,
        BinaryOperator::Minus => Operator::Minus,
        BinaryOperator::Multiply => Operator::Multiply,
        BinaryOperator::Divide => Operator::Divide,
        BinaryOperator::Modulo => Operator::Modulo,
        BinaryOperator::PGBitwiseShiftLeft => Operator::BitwiseShiftLeft,
        BinaryOperator::PGBitwiseShiftRight => Operator::BitwiseShiftRight,
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        _ => return None,
    })
}
