//! Tables with derived columns: a projection over stored columns.
//!
//! Owns: planning `cost AS price * quantity` and `METADATA FROM`, and the marker call on a computed event time.
//! Does not own: their syntax (`sql::derived`), decoding (connectors). Invariants: a derived column is a function of its
//! row and the batch's time; columns that no query uses are neither decoded nor computed.

use super::errors::sql_error;
use super::table::{Stream, Table};
use datafusion::arrow::compute::can_cast_types;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result as DataFusionResult, TableReference};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, cast,
};
use datafusion::sql::sqlparser::ast::{self, Spanned};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_sql::derived::{Derived, DerivedFrom};
use highwater_sql::error::{Result, SqlError};
use highwater_sql::functions::Functions;
use highwater_sql::metadata_columns::metadata_field;
use highwater_sql::refuse::refuse_unsupported;
use highwater_sql::types::type_name;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Plans an expression over the columns of a schema; the place is for errors.
pub type PlanExpr<'a> = dyn Fn(ast::Expr, &DFSchema, Location) -> Result<Expr> + 'a;

/// Returns the plan of a table's rows with derived columns; `None` if the table has no derived columns.
pub fn read(table: &Arc<Table>, functions: &Functions, plan_expr: &PlanExpr<'_>) -> Result<Option<LogicalPlan>> {
    let def = &table.def;
    if def.derived.is_empty() {
        return Ok(None);
    }
    let located = |error| sql_error(error, def.name.at);
    let source = Arc::new(Stream { table: table.clone() });
    let scan = LogicalPlanBuilder::scan(reference(table), source, None).map_err(located)?;
    let stored = scan.schema().clone();
    let mut metadata: Vec<Expr> = stored.iter().map(Expr::from).collect();
    for derived in &def.derived {
        if let DerivedFrom::Metadata { key, data_type, .. } = &derived.from {
            check_type(key, data_type, derived.name.at)?;
            let column = Expr::Column(Column::new(Some(reference(table)), *key));
            metadata.push(named(cast(column, data_type.clone()), table, &derived.name.text));
        }
    }
    let rows = scan.project(metadata).map_err(located)?;
    let column = |name: &str| Expr::Column(Column::new(Some(reference(table)), name));
    let mut exprs = Vec::with_capacity(rows.schema().fields().len());
    for place in 0..=def.columns.len() {
        for derived in def.derived.iter().filter(|derived| derived.after == place) {
            let expr = match &derived.from {
                DerivedFrom::Metadata { .. } => column(&derived.name.text),
                DerivedFrom::Expr(_) => computed(derived, rows.schema(), functions, plan_expr)?,
            };
            exprs.push(named(marked(expr, table, derived), table, &derived.name.text));
        }
        exprs.extend(def.columns.get(place).map(|stored| column(&stored.name.text)));
    }
    exprs.extend(table.hidden.iter().map(|name| column(name)));
    rows.project(exprs).and_then(LogicalPlanBuilder::build).map(Some).map_err(located)
}

fn check_type(key: &str, wanted: &DataType, at: Location) -> Result<()> {
    let Some(metadata) = metadata_field(key) else { return Ok(()) };
    match can_cast_types(metadata.data_type(), wanted) {
        true => Ok(()),
        false => {
            let (is, wanted) = (type_name(metadata.data_type()), type_name(wanted));
            Err(SqlError::at(at, format!("this metadata is {is}, and cannot be read as {wanted}"))
                .hint(format!("declare it {is}")))
        }
    }
}

/// The table's name as it is declared.
fn reference(table: &Table) -> TableReference {
    TableReference::bare(table.def.name.text.as_str())
}

fn named(expr: Expr, table: &Table, name: &str) -> Expr {
    expr.alias_qualified(Some(reference(table)), name)
}

fn computed(derived: &Derived, schema: &DFSchema, functions: &Functions, plan_expr: &PlanExpr<'_>) -> Result<Expr> {
    let DerivedFrom::Expr(expr) = &derived.from else {
        return Err(SqlError::at(derived.name.at, "this column is not computed"));
    };
    refuse_unsupported(expr.as_ref(), functions)?;
    let planned = plan_expr(expr.as_ref().clone(), schema, expr.span().start)?;
    let is_of_row = planned
        .exists(|e| Ok(matches!(e, Expr::AggregateFunction(_) | Expr::WindowFunction(_) | Expr::ScalarSubquery(_))))
        .map_err(|error| sql_error(error, derived.name.at))?;
    match is_of_row {
        false => Ok(planned),
        true => {
            let message = format!("column '{}' is not a function of its row alone", derived.name.text);
            Err(SqlError::at(derived.name.at, message).hint("compute it in a view over the table"))
        }
    }
}

/// Rewrites an expression over the output of projections to one over the scan below them; returns both.
pub fn over_scan(expr: Expr, plan: &LogicalPlan) -> DataFusionResult<(Expr, &LogicalPlan)> {
    let LogicalPlan::Projection(projection) = plan else { return Ok((expr, plan)) };
    let below = expr.transform(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let index = projection.schema.index_of_column(column)?;
        Ok(Transformed::yes(projection.expr[index].clone().unalias()))
    })?;
    over_scan(below.data, &projection.input)
}

/// Puts the marker call around the column of WATERMARK FOR, so that it is recognized after optimizing.
fn marked(expr: Expr, table: &Arc<Table>, derived: &Derived) -> Expr {
    let is_time = table.def.watermark.as_ref().is_some_and(|watermark| watermark.column.text == derived.name.text);
    match is_time {
        true => ScalarUDF::from(EventTime::new(table.clone())).call(vec![expr]),
        false => expr,
    }
}

/// `hw_event_time(x)`: returns `x`, and marks it as the column of `WATERMARK FOR`.
pub struct EventTime {
    table: Arc<Table>,
    signature: Signature,
}

impl EventTime {
    fn new(table: Arc<Table>) -> Self {
        Self { table, signature: Signature::any(1, Volatility::Immutable) }
    }

    /// Returns the table whose event time this expression is; `None` for other expressions.
    pub fn recognize(expr: &Expr) -> Option<&Arc<Table>> {
        let Expr::ScalarFunction(call) = expr else { return None };
        let inner: &dyn std::any::Any = call.func.inner().as_ref();
        inner.downcast_ref::<Self>().map(|mark| &mark.table)
    }
}

// Shows only the table's name, since its options may name secrets.
impl fmt::Debug for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventTime({})", self.table.def.name.text)
    }
}

impl PartialEq for EventTime {
    fn eq(&self, other: &Self) -> bool {
        self.table.def.name.text == other.table.def.name.text
    }
}

impl Eq for EventTime {}

impl Hash for EventTime {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.table.def.name.text.hash(state);
    }
}

impl ScalarUDFImpl for EventTime {
    fn name(&self) -> &str {
        "hw_event_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> DataFusionResult<DataType> {
        Ok(args[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DataFusionResult<FieldRef> {
        Ok(args.arg_fields[0].clone())
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Ok(args.args.remove(0))
    }
}
