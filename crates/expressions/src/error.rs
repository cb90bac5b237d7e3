//! Errors of expressions, told in the words of the query.
//!
//! Owns: their text. Does not own: which expressions may fail ([`crate::can_fail`]).

use crate::can_fail::holds;
use crate::guard::unnamed;
use crate::types::type_name;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use std::fmt;

/// An expression that has no value for some row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    /// The expression, as SQL.
    pub expression: String,
    pub cause: Cause,
}

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The result is beyond its type, of this name.
    Overflow(String),
    DivisionByZero,
    Other(String),
}

impl ExpressionError {
    /// The error with the expression it came from; one that has one keeps it.
    /// `data_type`: of the expression, by its name.
    pub fn of(error: DataFusionError, expression: &str, data_type: &str) -> DataFusionError {
        if Self::find(&error).is_some() {
            return error;
        }
        let cause = match error.find_root() {
            DataFusionError::ArrowError(error, _) => match error.as_ref() {
                ArrowError::ArithmeticOverflow(_) => Cause::Overflow(data_type.into()),
                // Arrow's words for numbers cast to numbers.
                ArrowError::CastError(text) if text.starts_with("Can't cast value") => {
                    Cause::Overflow(data_type.into())
                }
                ArrowError::DivideByZero => Cause::DivisionByZero,
                ArrowError::CastError(text) | ArrowError::ParseError(text) | ArrowError::ComputeError(text) => {
                    Cause::Other(text.clone())
                }
                other => Cause::Other(other.to_string()),
            },
            // Others carry a meaning of their own, such as a limit on the size of results.
            DataFusionError::Execution(text) => Cause::Other(text.clone()),
            _ => return error,
        };
        DataFusionError::External(Box::new(Self { expression: expression.into(), cause }))
    }

    /// The fault that an error is about.
    pub fn find(error: &DataFusionError) -> Option<&Self> {
        match error.find_root() {
            DataFusionError::External(inner) => inner.downcast_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expression = &self.expression;
        match &self.cause {
            Cause::Overflow(data_type) => write!(f, "overflow: {expression} is beyond {data_type}"),
            Cause::DivisionByZero => write!(f, "division by zero: {expression}"),
            Cause::Other(text) => write!(f, "{expression}: {text}"),
        }
    }
}

impl std::error::Error for ExpressionError {}

/// An expression over rows of `schema` as SQL, in one line. Casts that lose nothing are left out: the planner adds them.
pub(crate) fn text(expr: &dyn PhysicalExpr, schema: &Schema) -> String {
    if let Some(inner) = unnamed(expr) {
        return text(inner, schema);
    }
    if let Some(column) = expr.downcast_ref::<Column>() {
        return column.name().to_string();
    }
    if let Some(literal) = expr.downcast_ref::<Literal>() {
        return constant(literal.value());
    }
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let inner = text(cast.expr().as_ref(), schema);
        let is_lossless = cast.expr().data_type(schema).is_ok_and(|from| holds(&from, cast.cast_type()));
        return if is_lossless { inner } else { format!("CAST({inner} AS {})", type_name(cast.cast_type())) };
    }
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        return operation(binary.left().as_ref(), &binary.op().to_string(), binary.right().as_ref(), schema);
    }
    if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
        if let (true, [left, right]) = (is_sign(call), call.args()) {
            return operation(left.as_ref(), call.fun().name(), right.as_ref(), schema);
        }
        let args: Vec<String> = call.args().iter().map(|arg| text(arg.as_ref(), schema)).collect();
        return match (call.fun().name(), args.as_slice()) {
            ("nanoseconds", [one]) => one.clone(),
            ("to_float", [one]) => format!("CAST({one} AS FLOAT)"),
            ("to_double", [one]) => format!("CAST({one} AS DOUBLE)"),
            (name, args) => format!("{name}({})", args.join(", ")),
        };
    }
    fmt_sql(expr).to_string()
}

/// True for operators, which are functions named by their sign.
fn is_sign(call: &ScalarFunctionExpr) -> bool {
    !call.fun().name().starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
}

fn constant(value: &ScalarValue) -> String {
    let shown = value.to_array().and_then(|array| Ok(array_value_to_string(&array, 0)?));
    match (shown, value) {
        (Ok(text), ScalarValue::Utf8(Some(_)) | ScalarValue::Utf8View(Some(_)) | ScalarValue::LargeUtf8(Some(_))) => {
            format!("'{text}'")
        }
        (Ok(text), value) if !value.is_null() => text,
        _ => "NULL".into(),
    }
}

fn operation(left: &dyn PhysicalExpr, sign: &str, right: &dyn PhysicalExpr, schema: &Schema) -> String {
    let operand = |expr: &dyn PhysicalExpr| {
        let bare = unnamed(expr).unwrap_or(expr);
        let is_operation = bare.is::<BinaryExpr>() || bare.downcast_ref::<ScalarFunctionExpr>().is_some_and(is_sign);
        if is_operation { format!("({})", text(bare, schema)) } else { text(bare, schema) }
    };
    format!("{} {sign} {}", operand(left), operand(right))
}
