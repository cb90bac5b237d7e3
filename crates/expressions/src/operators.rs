//! Which operators of a query are computed here and not by DataFusion.
//!
//! Owns: the choice, while DataFusion's SQL planner meets the operators. Does not own: computing them.

use crate::arithmetic::{Arithmetic, is_exact};
use crate::duration;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{ExprSchemable, Operator};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Plans exact arithmetic.
#[derive(Debug)]
pub struct Exact;

impl ExprPlanner for Exact {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let Some(op) = operator(&expr.op) else { return Ok(PlannerResult::Original(expr)) };
        let (left, right) = (expr.left.get_type(schema)?, expr.right.get_type(schema)?);
        if is_exact(op, &left, &right) {
            return Ok(PlannerResult::Planned(Arithmetic::call(op, expr.left, expr.right)));
        }
        match duration::scaled(op, (expr.left, left), (expr.right, right)) {
            Ok(planned) => Ok(PlannerResult::Planned(planned)),
            Err((left, right)) => Ok(PlannerResult::Original(RawBinaryExpr { op: expr.op, left, right })),
        }
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
        _ => return None,
    })
}
