//! Errors of expressions, told in the words of the query.
//!
//! Owns: their text. Does not own: which expressions may fail ([`crate::can_fail`]).

use datafusion::arrow::error::ArrowError;
use datafusion::common::DataFusionError;
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
