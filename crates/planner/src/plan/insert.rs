//! Assigns the columns of an INSERT's query to the sink's by position.
//!
//! Owns: the column list, SQL assignment (what may be cast silently), missing columns as NULL.
//! Does not own: the query's own plan. Invariant: the resulting plan has exactly the sink's columns,
//! names and types.

use super::catalog::Catalog;
use super::errors::sql_error;
use super::field_case::named_as;
use super::table::Table;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use highwater_sql::error::{Result, SqlError};
use highwater_sql::script::InsertDef;
use highwater_sql::types::type_name;

/// Adds the assignment to the sink on top of a query's plan.
pub fn assign(plan: LogicalPlan, insert: &InsertDef, sink: &Table, schema: &Schema) -> Result<LogicalPlan> {
    let targets = targets(insert, sink, schema)?;
    let given = plan.schema().fields().len();
    if given != targets.len() {
        let names: Vec<&str> = targets.iter().map(|index| schema.field(*index).name().as_str()).collect();
        let message = format!(
            "the SELECT gives {}, and '{}' takes {}: {}",
            columns(given),
            sink.def.name.text,
            columns(names.len()),
            names.join(", ")
        );
        let hint = match insert.columns.is_empty() {
            true => "INSERT matches columns by position; name the ones you fill: INSERT INTO t (a, b) SELECT …",
            false => "give the SELECT one column for each name in the list",
        };
        return Err(SqlError::at(insert.table.at, message).hint(hint));
    }
    let mut exprs = Vec::with_capacity(schema.fields().len());
    for (index, field) in schema.fields().iter().enumerate() {
        let expr = match targets.iter().position(|target| *target == index) {
            Some(position) => {
                let (qualifier, from) = plan.schema().qualified_field(position);
                let column = Expr::Column(Column::from((qualifier, from)));
                convert(column, from, field, insert)?
            }
            None => missing(field, index, insert, sink)?,
        };
        exprs.push(expr.alias(field.name()));
    }
    LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| sql_error(error, insert.at))
}

fn columns(count: usize) -> String {
    if count == 1 { "1 column".into() } else { format!("{count} columns") }
}

/// Returns the positions of the columns that the INSERT fills, in the order of its list.
fn targets(insert: &InsertDef, sink: &Table, schema: &Schema) -> Result<Vec<usize>> {
    if insert.columns.is_empty() {
        return Ok((0..schema.fields().len()).collect());
    }
    let mut targets = Vec::new();
    for name in &insert.columns {
        let declared = sink.def.name_of(name)?;
        if let Some(why) = sink.def.read_only(declared) {
            return Err(SqlError::at(name.at, why).hint("leave it out of the list"));
        }
        let wanted = sink.def.written_name(declared);
        let Some(index) = schema.fields().iter().position(|field| field.name() == wanted) else {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            return Err(SqlError::at(name.at, format!("table '{}' has no column '{}'", sink.def.name.text, name.text))
                .suggest(&name.text, names, "its columns"));
        };
        if targets.contains(&index) {
            return Err(SqlError::at(name.at, format!("column '{}' is in the list twice", name.text)));
        }
        targets.push(index);
    }
    Ok(targets)
}

fn missing(field: &Field, index: usize, insert: &InsertDef, sink: &Table) -> Result<Expr> {
    let name = field.name();
    let is_key = sink.def.primary_key.iter().flat_map(|key| &key.columns).any(|column| column.text == *name);
    if is_key || !field.is_nullable() {
        let why = if is_key { "part of the PRIMARY KEY" } else { "NOT NULL" };
        return Err(SqlError::at(
            insert.table.at,
            format!("column '{name}' of '{}' is {why} and not in the list", sink.def.name.text),
        )
        .hint(format!("add it to the list and to the SELECT (column {})", index + 1)));
    }
    let null = ScalarValue::try_from(field.data_type()).map_err(|error| sql_error(error, insert.at))?;
    Ok(Expr::Literal(null, None))
}

fn convert(column: Expr, from: &Field, to: &Field, insert: &InsertDef) -> Result<Expr> {
    let to_type = to.data_type();
    let (column, from_type) = named_as(column, from.data_type(), to_type);
    if from_type == *to_type {
        return Ok(column);
    }
    if assignable(&from_type, to_type) {
        return Ok(cast(column, to_type.clone()));
    }
    Err(SqlError::at(
        insert.table.at,
        format!(
            "column '{}' of '{}' is {}, and the SELECT gives it {} ('{}')",
            to.name(),
            insert.table.text,
            type_name(to_type),
            type_name(from.data_type()),
            from.name()
        ),
    )
    .hint(format!("cast it, if that is meant: CAST({} AS {})", from.name(), type_name(to_type))))
}

/// True if SQL assignment needs no explicit CAST. A value that does not fit fails at run time.
fn assignable(from: &DataType, to: &DataType) -> bool {
    use DataType as D;
    let text = |t: &D| matches!(t, D::Utf8 | D::LargeUtf8 | D::Utf8View);
    let bytes = |t: &D| matches!(t, D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_));
    let date_or_time = |t: &D| matches!(t, D::Date32 | D::Date64 | D::Timestamp(_, _));
    match (from, to) {
        (D::Null, _) => true,
        (from, to) if from.is_numeric() && to.is_numeric() => true,
        (from, to) if text(from) && text(to) || bytes(from) && bytes(to) => true,
        (from, to) if text(to) => {
            from.is_numeric() || date_or_time(from) || matches!(from, D::Boolean | D::Time32(_) | D::Time64(_))
        }
        (from, to) if date_or_time(from) && date_or_time(to) => true,
        (D::Time32(_) | D::Time64(_), D::Time32(_) | D::Time64(_)) => true,
        (D::List(from) | D::LargeList(from), D::List(to)) => {
            from.data_type() == to.data_type() || assignable(from.data_type(), to.data_type())
        }
        (D::Struct(from), D::Struct(to)) => {
            from.len() == to.len()
                && from.iter().zip(to.iter()).all(|(from, to)| {
                    from.name() == to.name()
                        && (from.data_type() == to.data_type() || assignable(from.data_type(), to.data_type()))
                })
        }
        _ => false,
    }
}

/// Returns the sink of an INSERT.
pub fn sink_of<'a>(insert: &InsertDef, catalog: &'a Catalog) -> Result<&'a std::sync::Arc<Table>> {
    catalog.table(&insert.table.text).ok_or_else(|| {
        if catalog.is_view(&insert.table.text) {
            return SqlError::at(insert.table.at, format!("'{}' is a view and cannot be written", insert.table.text))
                .hint("INSERT INTO a table");
        }
        SqlError::at(insert.table.at, format!("table '{}' not found", insert.table.text)).suggest(
            &insert.table.text,
            catalog.names(),
            "tables",
        )
    })
}
