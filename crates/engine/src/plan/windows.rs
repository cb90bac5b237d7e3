//! `TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND [, offset]))` as a relation.
//!
//! Owns: the syntax and checks of window table functions, and the columns they add.
//! Does not own: the arithmetic (`tumble`), closing (`lineage`, the runtime).
//! Invariant: rows without a time are in no window, so they leave here.

use super::errors::{external, sql_error};
use super::tumble::{Part, Tumble};
use crate::sql::dialect::table_argument;
use crate::sql::error::SqlError;
use crate::sql::refuse::function_name;
use crate::sql::types::{fold, type_name};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, Result, ScalarValue, TableReference};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, lit};
use datafusion::sql::sqlparser::ast::{
    self, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Spanned, TableAlias,
    TableFactor,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::sync::Arc;

const DAY_MS: i64 = 86_400_000;
const USAGE: &str = "write TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND))";

/// A parsed call of `TUMBLE`.
#[derive(Clone, Debug)]
pub struct WindowCall {
    pub table: Ident,
    pub time: Ident,
    pub size: ast::Expr,
    pub offset: Option<ast::Expr>,
    pub alias: Option<TableAlias>,
    pub span: Span,
}

impl WindowCall {
    /// `None` if the FROM item is no function at all.
    pub fn parse(factor: &TableFactor) -> std::result::Result<Option<Self>, SqlError> {
        let (name, args, alias) = match factor {
            TableFactor::TableFunction {
                expr: ast::Expr::Function(Function { name, args: FunctionArguments::List(list), .. }),
                alias,
            } => (name, &list.args, alias),
            TableFactor::TableFunction { expr, .. } => {
                return Err(SqlError::on(expr, "TABLE(…) needs a window function").hint(USAGE));
            }
            TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
            _ => return Ok(None),
        };
        let span = name.span();
        if function_name(name) != "tumble" {
            return Err(SqlError::in_span(span, format!("unknown table function '{name}'")).hint(USAGE));
        }
        let arguments = by_position(args, span)?;
        let wrong = |what: &str| SqlError::in_span(span, what.to_string()).hint(USAGE);
        let table = match arguments[0] {
            Some(ast::Expr::Identifier(name)) => name.clone(),
            Some(expr) => table_argument(expr).ok_or_else(|| wrong("TUMBLE's first argument is a table"))?.clone(),
            None => return Err(wrong("TUMBLE needs a table")),
        };
        let time = arguments[1]
            .and_then(descriptor)
            .ok_or_else(|| wrong("TUMBLE's second argument is DESCRIPTOR(<time column>)"))?;
        let size = arguments[2].ok_or_else(|| wrong("TUMBLE needs the size of its windows"))?.clone();
        Ok(Some(Self { table, time, size, offset: arguments[3].cloned(), alias: alias.clone(), span }))
    }
}

/// Arguments in order table, time, size, offset; named ones (`SIZE => …`) find their place.
fn by_position(args: &[FunctionArg], span: Span) -> std::result::Result<[Option<&ast::Expr>; 4], SqlError> {
    let mut slots = [None; 4];
    for (index, arg) in args.iter().enumerate() {
        let (position, value) = match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => (Some(index), expr),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                let names = ["data", "timecol", "size", "offset"];
                (names.iter().position(|known| *known == fold(name)), expr)
            }
            _ => return Err(SqlError::on(arg, "this is no argument of TUMBLE").hint(USAGE)),
        };
        let slot = position.and_then(|position| slots.get_mut(position));
        *slot.ok_or_else(|| {
            SqlError::in_span(span, "TUMBLE takes a table, a time column, a size and an offset").hint(USAGE)
        })? = Some(value);
    }
    Ok(slots)
}

fn descriptor(expr: &ast::Expr) -> Option<Ident> {
    let ast::Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr else { return None };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Identifier(column)))]
            if function_name(name) == "descriptor" =>
        {
            Some(column.clone())
        }
        _ => None,
    }
}

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
        let input = context.plan(TableFactor::Table {
            name: ObjectName::from(vec![call.table.clone()]),
            alias: None,
            args: None,
            with_hints: Vec::new(),
            version: None,
            with_ordinality: false,
            partitions: Vec::new(),
            json_path: None,
            sample: None,
            index_hints: Vec::new(),
        })?;
        let size_ms = interval_ms(&call.size, "size", context)?;
        if size_ms <= 0 {
            return Err(external(SqlError::on(&call.size, "a window's size is above zero").hint(USAGE)));
        }
        let offset_ms = match &call.offset {
            Some(offset) => interval_ms(offset, "offset", context)?,
            None => 0,
        };
        let plan = add_window(input, &call, size_ms, offset_ms)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, call.alias))))
    }
}

fn add_window(input: LogicalPlan, call: &WindowCall, size_ms: i64, offset_ms: i64) -> Result<LogicalPlan> {
    let name = fold(&call.time);
    let schema = input.schema().clone();
    let Some((qualifier, field)) = schema.iter().find(|(_, field)| *field.name() == name) else {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(external(
            SqlError::in_span(call.time.span, format!("table '{}' has no column '{name}'", fold(&call.table))).suggest(
                &name,
                names,
                "its columns",
            ),
        ));
    };
    if !matches!(field.data_type(), DataType::Timestamp(_, _)) {
        let message = format!("TUMBLE needs a TIMESTAMP column, and '{name}' is {}", type_name(field.data_type()));
        return Err(external(
            SqlError::in_span(call.time.span, message)
                .hint("cast it in a view first, for example to_timestamp_millis(…)"),
        ));
    }
    let time = Expr::Column(Column::new(qualifier.cloned(), &name));
    let table: TableReference = fold(&call.table).into();
    let window = |part, column: &str| {
        let function = Arc::new(ScalarUDF::from(Tumble::new(part)));
        function.call(vec![time.clone(), lit(size_ms), lit(offset_ms)]).alias_qualified(Some(table.clone()), column)
    };
    let mut columns: Vec<Expr> = schema.iter().map(Expr::from).collect();
    columns.push(window(Part::Start, "window_start"));
    columns.push(window(Part::End, "window_end"));
    columns.push(window(Part::Time, "window_time"));
    LogicalPlanBuilder::from(input).filter(time.clone().is_not_null())?.project(columns)?.build()
}

/// A constant interval in milliseconds; months have no fixed length.
fn interval_ms(expr: &ast::Expr, what: &str, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    let planned = context
        .sql_to_expr(expr.clone(), &datafusion::common::DFSchema::empty())
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
