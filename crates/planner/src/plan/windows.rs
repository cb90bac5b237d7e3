//! Window table functions as relations.
//!
//! Owns: their checks, and the columns they add. Does not own: their syntax (`sql::window_call`), the arithmetic
//! (`tumble`, `hop`, `session`), closing (`lineage`, the runtime).
//! Invariant: rows without a time belong to no window, so they are dropped here, and counted (`timed`).

use super::errors::{external, sql_error};
use super::lineage::{Kind, trace};
use super::timed::has_time;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, Result, ScalarValue, TableReference, UnnestOptions};
use datafusion::functions::core::get_field;
use datafusion::logical_expr::expr::WindowFunction as OverFunction;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ScalarUDF, ScalarUDFImpl,
    WindowFunctionDefinition, WindowUDF, ident, lit,
};
use datafusion::sql::sqlparser::ast::{self, ObjectName, Spanned, TableFactor};
use highwater_functions::windows::hop::Overlapping;
use highwater_functions::windows::session::Session;
use highwater_functions::windows::tumble::{Part, Tumble};
use highwater_sql::dialect::WindowInput;
use highwater_sql::error::SqlError;
use highwater_sql::types::{fold, type_name};
use highwater_sql::window_call::{WindowCall, WindowFunction};
use std::sync::Arc;

const DAY_MS: i64 = 86_400_000;
/// Most windows that a row may be in.
const MOST_WINDOWS: i64 = 10_000;
/// The column with the list of a row's windows, before it is unnested.
const WINDOWS: &str = "__hw_windows";

/// Plans window table functions inside DataFusion's planner.
#[derive(Debug)]
pub struct WindowPlanner;

impl RelationPlanner for WindowPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let Some(call) = WindowCall::parse(&relation).map_err(external)? else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let input = context.plan(input_factor(&call))?;
        let intervals = Intervals::of(&call, context)?;
        let mut partition = Vec::with_capacity(call.partition.len());
        for key in &call.partition {
            let planned = context.sql_to_expr(key.clone(), input.schema());
            partition.push(planned.map_err(|error| external(sql_error(error, key.span().start)))?);
        }
        let plan = add_window(input, &call, intervals, partition)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, call.alias))))
    }
}

fn input_factor(call: &WindowCall) -> TableFactor {
    match &call.input {
        WindowInput::Table(name) => TableFactor::Table {
            name: ObjectName::from(vec![name.clone()]),
            alias: None,
            args: None,
            with_hints: Vec::new(),
            version: None,
            with_ordinality: false,
            partitions: Vec::new(),
            json_path: None,
            sample: None,
            index_hints: Vec::new(),
        },
        WindowInput::Query(query) => {
            TableFactor::Derived { lateral: false, subquery: query.clone(), alias: None, sample: None }
        }
    }
}

/// The constants of a call, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Intervals {
    /// Slide or step.
    step: i64,
    /// Size or gap.
    size: i64,
    offset: i64,
}

impl Intervals {
    fn of(call: &WindowCall, context: &mut dyn RelationPlannerContext) -> Result<Self> {
        let mut found = Self::default();
        for (what, expr) in call.function.intervals().iter().zip(&call.intervals) {
            let Some(expr) = expr else { continue };
            let value = interval_ms(expr, what, context)?;
            if value <= 0 && *what != "offset" {
                let message = format!("a window's {what} must be above zero");
                return Err(external(SqlError::on(expr, message).hint(call.function.usage())));
            }
            match *what {
                "slide" | "step" => found.step = value,
                "offset" => found.offset = value,
                _ => found.size = value,
            }
        }
        let refuse = |message: String| Err(external(SqlError::in_span(call.span, message).hint(call.function.usage())));
        if call.function == WindowFunction::Cumulate && found.size % found.step != 0 {
            return refuse("CUMULATE needs a size that is a multiple of its step".into());
        }
        let is_overlapping = matches!(call.function, WindowFunction::Hop | WindowFunction::Cumulate);
        if is_overlapping && found.size / found.step > MOST_WINDOWS {
            let windows = found.size / found.step;
            return refuse(format!("each row would be in {windows} windows; at most {MOST_WINDOWS} are allowed"));
        }
        Ok(found)
    }
}

fn add_window(
    input: LogicalPlan,
    call: &WindowCall,
    intervals: Intervals,
    partition: Vec<Expr>,
) -> Result<LogicalPlan> {
    let time = time_column(&input, call)?;
    refuse_taken(&input, call)?;
    let table = call.table().map(TableReference::bare);
    let mut columns: Vec<Expr> = input.schema().iter().map(Expr::from).collect();
    let Intervals { step, size, offset } = intervals;
    let nullable = time.nullable(input.schema())?;
    // Rows of an inner window without a time have been counted there.
    let is_windowed = trace(&time, &input).is_some_and(|origin| matches!(origin.kind, Kind::Window(_, _)));
    let there = if is_windowed { time.clone().is_not_null() } else { has_time(time.clone()) };
    let rows = LogicalPlanBuilder::from(input);
    let filtered = if nullable { rows.filter(there)? } else { rows };
    let (rows, parts): (LogicalPlanBuilder, Vec<Expr>) = match call.function {
        WindowFunction::Tumble => {
            let part = |part| function(Tumble::new(part)).call(vec![time.clone(), lit(size), lit(offset)]);
            (filtered, Part::ALL.into_iter().map(part).collect())
        }
        WindowFunction::Hop | WindowFunction::Cumulate => {
            let overlapping = Overlapping::new(call.function == WindowFunction::Cumulate);
            let windows = function(overlapping).call(vec![time, lit(step), lit(size), lit(offset)]);
            let all = columns.iter().cloned().chain([windows.alias(WINDOWS)]).collect::<Vec<_>>();
            let options = UnnestOptions::new().with_preserve_nulls(false);
            let unnested = filtered.project(all)?.unnest_column_with_options(WINDOWS, options)?;
            (unnested, Part::ALL.into_iter().map(field).collect())
        }
        WindowFunction::Session => {
            let session = WindowUDF::from(Session::default());
            let session = OverFunction::new(
                WindowFunctionDefinition::WindowUDF(Arc::new(session)),
                vec![time.clone(), lit(size)],
            );
            let over = Expr::from(session).partition_by(partition).order_by(vec![time.sort(true, false)]).build()?;
            (filtered.window(vec![over.alias(WINDOWS)])?, Part::ALL.into_iter().map(field).collect())
        }
    };
    for (expr, part) in parts.into_iter().zip(Part::ALL) {
        columns.push(expr.alias_qualified(table.clone(), part.column()));
    }
    rows.project(columns)?.build()
}

/// Refuses windows over windows whose inner columns have not been renamed.
fn refuse_taken(input: &LogicalPlan, call: &WindowCall) -> Result<()> {
    let taken = |part: &Part| input.schema().fields().iter().any(|field| field.name() == part.column());
    let Some(part) = Part::ALL.into_iter().find(taken) else { return Ok(()) };
    let name = part.column();
    let message = format!("the rows have a column '{name}' already, and {} adds one", call.function.name());
    Err(external(
        SqlError::in_span(call.span, message)
            .hint(format!("rename it in the view or subquery that is windowed: {name} AS inner_{name}")),
    ))
}

fn function(function: impl ScalarUDFImpl + 'static) -> ScalarUDF {
    ScalarUDF::from(function)
}

/// Builds the expression for a part of the windows' column.
fn field(part: Part) -> Expr {
    get_field().call(vec![ident(WINDOWS), lit(part.column())])
}

/// Returns the column of DESCRIPTOR; refuses it unless it is a timestamp.
fn time_column(input: &LogicalPlan, call: &WindowCall) -> Result<Expr> {
    let name = fold(&call.time);
    let schema = input.schema();
    let Some((qualifier, field)) = schema.iter().find(|(_, field)| *field.name() == name) else {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let place = call.table().map_or_else(|| "the query".into(), |table| format!("table '{table}'"));
        return Err(external(SqlError::in_span(call.time.span, format!("{place} has no column '{name}'")).suggest(
            &name,
            names,
            "its columns",
        )));
    };
    if !matches!(field.data_type(), DataType::Timestamp(_, _)) {
        let found = type_name(field.data_type());
        let message = format!("{} needs a TIMESTAMP column, and '{name}' is {found}", call.function.name());
        return Err(external(
            SqlError::in_span(call.time.span, message)
                .hint("cast it in a view first, for example to_timestamp_millis(…)"),
        ));
    }
    Ok(Expr::Column(Column::new(qualifier.cloned(), &name)))
}

/// Returns a constant interval in milliseconds; refuses months, whose length varies.
fn interval_ms(expr: &ast::Expr, what: &str, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    let planned = context
        .sql_to_expr(expr.clone(), &DFSchema::empty())
        .map_err(|error| external(sql_error(error, expr.span().start)))?;
    let (value, sign) = match planned {
        Expr::Negative(inner) => (*inner, -1),
        other => (other, 1),
    };
    let wrong = || {
        external(
            SqlError::on(expr, format!("the {what} of a window is a constant interval"))
                .hint("for example INTERVAL '10' SECOND"),
        )
    };
    let (months, days, nanos) = match value {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => {
            (interval.months, interval.days, interval.nanoseconds)
        }
        Expr::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => {
            (0, interval.days, i64::from(interval.milliseconds) * 1_000_000)
        }
        Expr::Literal(ScalarValue::IntervalYearMonth(Some(months)), _) => (months, 0, 0),
        _ => return Err(wrong()),
    };
    if months != 0 {
        return Err(external(
            SqlError::on(expr, format!("the {what} of a window cannot be in months or years: their length varies"))
                .hint("use days, hours, minutes or seconds"),
        ));
    }
    if nanos % 1_000_000 != 0 {
        return Err(external(SqlError::on(expr, format!("the {what} of a window is in whole milliseconds"))));
    }
    Ok(sign * (i64::from(days) * DAY_MS + nanos / 1_000_000))
}
