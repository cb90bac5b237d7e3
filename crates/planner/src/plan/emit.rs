//! When a GROUP BY emits rows: at every change, when its window closes, or never.
//!
//! Owns: emit modes and the refusals of aggregates whose rows a sink cannot take. Does not own: what closes
//! a group (`aggregate`). Invariant: a flow that may retract never reaches a sink without PRIMARY KEY.

use super::aggregate::{clock_window, closing};
use super::builder::Target;
use super::lineage::{Kind, part_of};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use highwater_dataflow::EmitMode;
use highwater_functions::windows::tumble::Tumble;
use highwater_protocol::options::OutputMode;
use highwater_sql::error::{Result, SqlError};

/// Returns when the aggregate emits rows, or the refusal if the sink cannot take them.
pub fn emit_mode(node: &Aggregate, closes: bool, target: Target<'_>) -> Result<EmitMode> {
    // A row of DISTINCT never changes, so it is final when it first appears. Appended rows of windows wait for the window.
    let by_watermark = || closing(node).is_some_and(|(_, origin)| matches!(origin.kind, Kind::Window(..)));
    let is_window = || by_watermark() || clock_window(node).is_some();
    if node.aggr_expr.is_empty() && !(target.mode == OutputMode::Append && is_window()) {
        return Ok(EmitMode::OnFirst);
    }
    match (target.mode, closes) {
        (OutputMode::Update, _) if target.keyed => Ok(EmitMode::Updates),
        (OutputMode::Append | OutputMode::Complete, true) => Ok(EmitMode::OnClose),
        (OutputMode::Update, _) => Err(SqlError::at(
            target.at,
            format!(
                "output_mode 'update' rewrites rows of '{}', which has no PRIMARY KEY to find them by",
                target.sink
            ),
        )
        .hint("add PRIMARY KEY (…) NOT ENFORCED to it, or use output_mode 'append' over a window")),
        (OutputMode::Append | OutputMode::Complete, false) => Err(refuse_append(node, target)),
    }
}

fn refuse_append(node: &Aggregate, target: Target<'_>) -> SqlError {
    let is_windowed = node.group_expr.iter().any(|key| mentions_window(key, &node.input));
    let why = if is_windowed {
        "no watermark ever closes its windows"
    } else {
        "every new record may change a row written before"
    };
    let out = if is_windowed {
        "declare WATERMARK FOR the window's time column on the table it comes from"
    } else {
        "group by window_start and window_end of a window (TUMBLE, HOP, …) over a table with WATERMARK"
    };
    let first = match target.keyed {
        true => "use output_mode 'update'",
        false => "add PRIMARY KEY (…) NOT ENFORCED to the sink",
    };
    SqlError::at(target.at, format!("'{}' takes appended, final rows, and this GROUP BY has none: {why}", target.sink))
        .hint(format!("{first}; or {out}"))
}

/// True if an expression is a time of a window, even of one whose time column has no watermark.
fn mentions_window(expr: &Expr, input: &LogicalPlan) -> bool {
    if Tumble::recognize(expr).is_some() || part_of(expr).is_some() {
        return true;
    }
    match (expr, input) {
        (Expr::Alias(alias), _) => mentions_window(&alias.expr, input),
        (Expr::Column(column), LogicalPlan::Projection(projection)) => {
            let found = projection.schema.maybe_index_of_column(column).and_then(|index| projection.expr.get(index));
            found.is_some_and(|inner| mentions_window(inner, &projection.input))
        }
        (Expr::Column(column), LogicalPlan::SubqueryAlias(alias)) => {
            let found = alias.schema.maybe_index_of_column(column);
            found.is_some_and(|index| {
                mentions_window(&Expr::from(alias.input.schema().qualified_field(index)), &alias.input)
            })
        }
        (Expr::Column(_), LogicalPlan::Filter(filter)) => mentions_window(expr, &filter.input),
        _ => false,
    }
}
