//! Expressions that run and whose error names them.
//!
//! Owns: the wrapper around an expression, its text as SQL, and its text in identities of plans. Does not own: which
//! expressions get one ([`crate::guard`]).

use crate::arithmetic::Arithmetic;
use crate::can_fail::holds;
use crate::error::ExpressionError;
use crate::types::type_name;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

type Physical = Arc<dyn PhysicalExpr>;

/// Wraps an expression over rows of `schema`.
pub(crate) fn named(expr: Physical, schema: &Schema) -> Result<Physical> {
    let (text, data_type) = (text(expr.as_ref(), schema), type_name(&expr.data_type(schema)?));
    Ok(Arc::new(Named { text, data_type, shown: shown(&expr), expr }))
}

/// The expression as DataFusion would show it: identities of plans hold this text, those of older builds, too.
fn shown(expr: &Physical) -> Physical {
    if let Some(named) = expr.downcast_ref::<Named>() {
        return named.shown.clone();
    }
    let call = expr.downcast_ref::<ScalarFunctionExpr>();
    match call.and_then(|call| Some((call.fun().inner().downcast_ref::<Arithmetic>()?, call.args()))) {
        Some((operator, [left, right])) => Arc::new(BinaryExpr::new(shown(left), operator.op(), shown(right))),
        _ => expr.clone(),
    }
}

/// An expression whose error names it.
#[derive(Debug)]
pub(crate) struct Named {
    text: String,
    /// Its type's name.
    data_type: String,
    shown: Physical,
    expr: Physical,
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.expr.eq(&other.expr)
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.fmt(f)
    }
}

impl PhysicalExpr for Named {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.expr.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.expr.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.expr.evaluate(batch).map_err(|error| ExpressionError::of(error, &self.text, &self.data_type))
    }

    fn children(&self) -> Vec<&Physical> {
        vec![&self.expr]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Physical>) -> Result<Physical> {
        let Ok([expr]) = <[Physical; 1]>::try_from(children) else {
            return internal_err!("an expression is named alone");
        };
        let (text, data_type) = (self.text.clone(), self.data_type.clone());
        Ok(Arc::new(Self { text, data_type, shown: shown(&expr), expr }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt_sql(f)
    }
}

/// The expression without the name of its error.
fn unnamed(expr: &dyn PhysicalExpr) -> Option<&dyn PhysicalExpr> {
    expr.downcast_ref::<Named>().map(|named| named.expr.as_ref())
}

/// An expression over rows of `schema` as SQL, in one line. Casts that lose nothing are left out: the planner adds them.
fn text(expr: &dyn PhysicalExpr, schema: &Schema) -> String {
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
