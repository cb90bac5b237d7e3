//! Expressions that run: AND and OR evaluate their right side only for rows that need it, and errors name their expression.
//!
//! Owns: both. Does not own: evaluating any operator (DataFusion).

use crate::can_fail::{holds, is_safe, is_safe_function};
use crate::named::{Named, named};
use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::kernels::boolean::{and_kleene, or_kleene};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
    TryCastExpr,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

type Physical = Arc<dyn PhysicalExpr>;

/// The same expression, with guards and with errors that name their part of it.
pub fn guarded(expr: Physical, schema: &Schema) -> Result<Physical> {
    let guarded = expr.transform_up(|expr| {
        if let Some(binary) = expr.downcast_ref::<BinaryExpr>()
            && matches!(binary.op(), Operator::And | Operator::Or)
        {
            return Ok(guard(&expr, binary, schema));
        }
        match fails(expr.as_ref(), schema) {
            true => Ok(Transformed::yes(named(expr, schema)?)),
            false => Ok(Transformed::no(expr)),
        }
    })?;
    Ok(guarded.data)
}

fn guard(expr: &Physical, binary: &BinaryExpr, schema: &Schema) -> Transformed<Physical> {
    let (left, right) = (binary.left(), binary.right());
    let (first, second) = match (any_fails(left, schema), any_fails(right, schema)) {
        (false, false) => return Transformed::no(expr.clone()),
        // The order does not matter to the answer: what cannot fail guards what can.
        (true, false) => (right, left),
        _ => (left, right),
    };
    let guard = Guard {
        is_and: *binary.op() == Operator::And,
        first: first.clone(),
        second: second.clone(),
        shown: expr.clone(),
    };
    Transformed::yes(Arc::new(guard))
}

/// True if some part of the expression may fail over a row of `schema`.
pub fn any_fails(expr: &Physical, schema: &Schema) -> bool {
    expr.exists(|expr| Ok(expr.is::<Named>() || fails(expr.as_ref(), schema))).unwrap_or(true)
}

/// True if the expression itself may fail, its arguments left aside.
fn fails(expr: &dyn PhysicalExpr, schema: &Schema) -> bool {
    if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        return !is_safe(*binary.op());
    }
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        return !cast.expr().data_type(schema).is_ok_and(|from| holds(&from, cast.cast_type()));
    }
    if let Some(call) = expr.downcast_ref::<ScalarFunctionExpr>() {
        return !is_safe_function(call.fun().name());
    }
    let is_safe = expr.is::<Column>()
        || expr.is::<Literal>()
        || expr.is::<NotExpr>()
        || expr.is::<IsNullExpr>()
        || expr.is::<IsNotNullExpr>()
        || expr.is::<CaseExpr>()
        || expr.is::<InListExpr>()
        || expr.is::<LikeExpr>()
        || expr.is::<TryCastExpr>()
        || expr.is::<Guard>()
        || expr.is::<Named>();
    !is_safe
}

/// `first AND second` or `first OR second`; `second` is evaluated for the rows that `first` does not decide.
#[derive(Debug)]
struct Guard {
    is_and: bool,
    first: Physical,
    second: Physical,
    /// As DataFusion shows it.
    shown: Physical,
}

impl PartialEq for Guard {
    fn eq(&self, other: &Self) -> bool {
        self.shown.eq(&other.shown)
    }
}

impl Eq for Guard {}

impl Hash for Guard {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.shown.hash(state);
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.fmt(f)
    }
}

impl PhysicalExpr for Guard {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.shown.nullable(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let first = boolean(self.first.evaluate(batch)?, batch.num_rows())?;
        // AND is decided by false, OR by true.
        let open = |row: usize| first.is_null(row) || first.value(row) == self.is_and;
        let open = BooleanArray::from_iter((0..first.len()).map(|row| Some(open(row))));
        if !open.has_true() {
            return Ok(ColumnarValue::Array(Arc::new(first)));
        }
        let second = boolean(self.second.evaluate_selection(batch, &open)?, batch.num_rows())?;
        // A row that was not evaluated is NULL or false in `second`, and `first` decides it.
        let both = if self.is_and { and_kleene(&first, &second)? } else { or_kleene(&first, &second)? };
        Ok(ColumnarValue::Array(Arc::new(both)))
    }

    fn children(&self) -> Vec<&Physical> {
        vec![&self.first, &self.second]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Physical>) -> Result<Physical> {
        let Ok([first, second]) = <[Physical; 2]>::try_from(children) else {
            return internal_err!("AND and OR take two arguments");
        };
        let op = if self.is_and { Operator::And } else { Operator::Or };
        let shown = Arc::new(BinaryExpr::new(first.clone(), op, second.clone()));
        Ok(Arc::new(Self { is_and: self.is_and, first, second, shown }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.fmt_sql(f)
    }
}

fn boolean(value: ColumnarValue, rows: usize) -> Result<BooleanArray> {
    Ok(value.into_array(rows)?.as_boolean().clone())
}
