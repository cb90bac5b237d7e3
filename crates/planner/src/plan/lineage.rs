//! Traces columns to the watermark column of a source, or to a window over it.
//!
//! Owns: tracing through a plan's nodes. Does not own: when state closes.
//! Invariant: a column has a trace only if it holds the traced value in every row, whatever the data.

use super::as_of::TemporalJoin;
use super::derived::EventTime;
use super::table::{Stream, Table};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, JoinType, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan};
use highwater_dataflow::CloseKind;
use highwater_functions::windows::hop::Overlapping;
use highwater_functions::windows::session::Session;
use highwater_functions::windows::tumble::{Part, Tumble, Window};
use std::sync::Arc;

/// The meaning of a traced expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The column of `WATERMARK FOR`, unchanged.
    EventTime,
    /// One of the times of a window.
    Window(Part, Window),
    /// A struct of all three times of a window, or a list of such structs.
    Windows(Window),
}

impl Kind {
    /// Returns how a watermark closes a group of equal values; `None` if it does not.
    pub fn close(self) -> Option<CloseKind> {
        match self {
            // A window's time is its last millisecond. As an event time, it is over one millisecond later.
            Kind::EventTime | Kind::Window(Part::Time, _) => Some(CloseKind::EventTime),
            Kind::Window(Part::End, _) => Some(CloseKind::WindowEnd),
            Kind::Window(Part::Start, window) => window.longest_ms().map(|size_ms| CloseKind::WindowStart { size_ms }),
            Kind::Windows(_) => None,
        }
    }
}

/// An expression that event time bounds, and the tables whose watermarks bound it.
#[derive(Clone, Debug)]
pub struct Origin {
    pub kind: Kind,
    pub tables: Vec<Arc<Table>>,
}

impl Origin {
    /// True for a time of rows: their own event time, or the time of the window that they result from.
    fn is_event_time(&self) -> bool {
        matches!(self.kind, Kind::EventTime | Kind::Window(Part::Time, _))
    }
}

/// Returns the window over the batch clock of which an expression is a time; `None` for other expressions.
pub fn trace_clock(expr: &Expr, input: &LogicalPlan) -> Option<Kind> {
    match expr {
        Expr::Alias(alias) => trace_clock(&alias.expr, input),
        Expr::Column(column) => {
            let index = position(input, column)?;
            match input {
                LogicalPlan::Projection(projection) => trace_clock(projection.expr.get(index)?, &projection.input),
                LogicalPlan::SubqueryAlias(alias) => {
                    trace_clock(&Expr::from(alias.input.schema().qualified_field(index)), &alias.input)
                }
                LogicalPlan::Filter(filter) => trace_clock(expr, &filter.input),
                LogicalPlan::Unnest(unnest) => {
                    let column = *unnest.dependency_indices.get(index)?;
                    trace_clock(&Expr::from(unnest.input.schema().qualified_field(column)), &unnest.input)
                }
                _ => None,
            }
        }
        _ => {
            if let Some((windows, part)) = part_of(expr) {
                let Kind::Windows(window) = trace_clock(windows, input)? else { return None };
                return Some(Kind::Window(part, window));
            }
            let (time, kind) = window_of(expr)?;
            is_now(time, input).then_some(kind)
        }
    }
}

/// True if an expression is a column with the time of the batch that the row came in.
pub fn is_clock(expr: &Expr, input: &LogicalPlan) -> bool {
    matches!(expr, Expr::Column(_)) && is_now(expr, input)
}

/// True for `now()`, also as a column of a plan below.
fn is_now(expr: &Expr, input: &LogicalPlan) -> bool {
    match (expr, input) {
        (Expr::ScalarFunction(call), _) => call.func.name() == "now",
        (Expr::Alias(alias), _) => is_now(&alias.expr, input),
        (Expr::Column(column), LogicalPlan::Projection(projection)) => position(input, column)
            .and_then(|index| projection.expr.get(index))
            .is_some_and(|inner| is_now(inner, &projection.input)),
        (Expr::Column(column), LogicalPlan::SubqueryAlias(alias)) => position(input, column)
            .is_some_and(|index| is_now(&Expr::from(alias.input.schema().qualified_field(index)), &alias.input)),
        (Expr::Column(_), LogicalPlan::Filter(filter)) => is_now(expr, &filter.input),
        _ => false,
    }
}

/// Traces an expression over the output of `input`; `None` if it is not a time.
pub fn trace(expr: &Expr, input: &LogicalPlan) -> Option<Origin> {
    match expr {
        Expr::Alias(alias) => trace(&alias.expr, input),
        Expr::Column(column) => trace_output(input, position(input, column)?),
        _ => {
            if let Some(table) = EventTime::recognize(expr) {
                return Some(Origin { kind: Kind::EventTime, tables: vec![table.clone()] });
            }
            if let Some((windows, part)) = part_of(expr) {
                let origin = trace(windows, input)?;
                let Kind::Windows(window) = origin.kind else { return None };
                return Some(Origin { kind: Kind::Window(part, window), ..origin });
            }
            let (time, kind) = window_of(expr)?;
            let origin = trace(time, input).filter(|origin| origin.is_event_time())?;
            Some(Origin { kind, ..origin })
        }
    }
}

/// Returns time and result of a call of a window function; `None` for other expressions.
fn window_of(expr: &Expr) -> Option<(&Expr, Kind)> {
    match (Tumble::recognize(expr), Overlapping::recognize(expr)) {
        (Some((part, time, window)), _) => Some((time, Kind::Window(part, window))),
        (_, Some((time, window))) => Some((time, Kind::Windows(window))),
        _ => None,
    }
}

/// Returns windows and part of `get_field(windows, 'window_end')`; `None` for other expressions.
pub fn part_of(expr: &Expr) -> Option<(&Expr, Part)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    match call.args.as_slice() {
        [of, Expr::Literal(ScalarValue::Utf8(Some(name)), _)] if call.func.name() == "get_field" => {
            Some((of, Part::of_column(name)?))
        }
        _ => None,
    }
}

/// Returns the index of a column in the output of `plan`.
pub fn position(plan: &LogicalPlan, column: &Column) -> Option<usize> {
    plan.schema().maybe_index_of_column(column)
}

/// Traces output column `index` of `plan`.
pub fn trace_output(plan: &LogicalPlan, index: usize) -> Option<Origin> {
    match plan {
        LogicalPlan::Projection(projection) => trace(projection.expr.get(index)?, &projection.input),
        LogicalPlan::SubqueryAlias(alias) => trace_output(&alias.input, index),
        LogicalPlan::Filter(filter) => trace_output(&filter.input, index),
        LogicalPlan::Aggregate(aggregate) => {
            let key = aggregate.group_expr.get(index)?;
            // Grouping sets make keys NULL.
            (!matches!(aggregate.group_expr.first(), Some(Expr::GroupingSet(_))))
                .then(|| trace(key, &aggregate.input))?
        }
        LogicalPlan::Window(window) => {
            let width = window.input.schema().fields().len();
            let Some(function) = index.checked_sub(width) else { return trace_output(&window.input, index) };
            let (_, time, session) = Session::recognize(window.window_expr.get(function)?)?;
            let origin = trace(time, &window.input).filter(|origin| origin.is_event_time())?;
            Some(Origin { kind: Kind::Windows(session), ..origin })
        }
        LogicalPlan::Unnest(unnest) => {
            let column = *unnest.dependency_indices.get(index)?;
            let is_list = unnest.list_type_columns.iter().any(|(list, _)| *list == column);
            let origin = trace_output(&unnest.input, column)?;
            // Of lists, only those of windows are traced, and their elements are windows of the same kind.
            (is_list == matches!(origin.kind, Kind::Windows(_))).then_some(origin)
        }
        LogicalPlan::Sort(sort) => trace_output(&sort.input, index),
        LogicalPlan::Limit(limit) => trace_output(&limit.input, index),
        LogicalPlan::Join(join) => {
            let left = join.left.schema().fields().len();
            match join.join_type {
                JoinType::RightSemi | JoinType::RightAnti => trace_output(&join.right, index),
                JoinType::RightMark => trace_output(&join.right, index),
                // In rows without a match the column is NULL, which no watermark ever passes.
                JoinType::Right | JoinType::Full if index < left => None,
                JoinType::Left | JoinType::Full if index >= left => None,
                _ if index < left => trace_output(&join.left, index),
                JoinType::LeftMark => None,
                _ => trace_output(&join.right, index - left),
            }
        }
        LogicalPlan::Extension(_) => {
            let node = TemporalJoin::of(plan)?;
            // Times of versions are not traced, since a version is older than the row that it is joined with.
            (index < node.left.schema().fields().len()).then(|| trace_output(&node.left, index))?
        }
        LogicalPlan::Union(union) => {
            let mut merged: Option<Origin> = None;
            for input in &union.inputs {
                let origin = trace_output(input, index)?;
                match &mut merged {
                    None => merged = Some(origin),
                    Some(known) if known.kind == origin.kind => known.tables.extend(origin.tables),
                    Some(_) => return None,
                }
            }
            merged
        }
        LogicalPlan::TableScan(scan) => {
            let table = &scan.source.downcast_ref::<Stream>()?.table;
            let watermark = table.def.watermark.as_ref()?;
            let is_event_time = *plan.schema().field(index).name() == watermark.column.text;
            is_event_time.then(|| Origin { kind: Kind::EventTime, tables: vec![table.clone()] })
        }
        _ => None,
    }
}

/// Returns the column that an expression maps one to one (itself, an alias, an injective cast); `None` for others.
pub fn one_to_one<'a>(expr: &'a Expr, input: &LogicalPlan) -> Option<&'a Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => one_to_one(&alias.expr, input),
        Expr::Cast(cast) => {
            let column = one_to_one(&cast.expr, input)?;
            let from = input.schema().field(position(input, column)?).data_type();
            injective(from, cast.field.data_type()).then_some(column)
        }
        _ => None,
    }
}

/// True if a cast maps different values to different values.
pub fn injective(from: &DataType, to: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes = |t: &DataType| matches!(t, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let finer = |from: &TimeUnit, to: &TimeUnit| *from as u8 <= *to as u8;
    match (from, to) {
        (from, to) if from == to => true,
        (from, to) if text(from) && text(to) || bytes(from) && bytes(to) => true,
        (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) => finer(from, to),
        (DataType::Date32, DataType::Timestamp(_, _)) => true,
        (from, to) if from.is_integer() && to.is_integer() => true,
        (from, DataType::Utf8) => from.is_integer() || matches!(from, DataType::Boolean | DataType::Date32),
        _ => false,
    }
}
