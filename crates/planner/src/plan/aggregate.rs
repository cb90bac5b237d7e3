//! Plans a GROUP BY: its functions, its state, and the key that closes its groups.
//!
//! Owns: `AggregateSpec`s. Does not own: stages and edges (`build`), keeping state (the runtime).
//! Invariant: only a key that is derived from the watermark columns of all sources closes groups.

use super::errors::sql_error;
use super::lineage::{Kind, Origin, trace, trace_clock};
use super::physical;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, ExprSchemable};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_dataflow::{CLOCK, CloseKey, CloseKind, EmitMode, Upstream};
use highwater_operators::aggregate::AggregateSpec;
use highwater_operators::over::{Sum, SumKind};
use highwater_protocol::query::ClockWindow;
use highwater_sql::error::Result;
use std::sync::Arc;

/// Returns the group key that closes this aggregate's groups, and the tables whose watermarks it follows; `None` if no key
/// does.
pub fn closing(aggregate: &Aggregate) -> Option<(CloseKey, Origin)> {
    let candidates = aggregate.group_expr.iter().enumerate().filter_map(|(group_index, expr)| {
        let origin = trace(expr, &aggregate.input)?;
        let kind = origin.kind.close()?;
        Some((close_rank(kind, origin.kind), CloseKey { group_index, kind }, origin))
    });
    candidates.min_by_key(|(rank, close, _)| (*rank, close.group_index)).map(|(_, close, origin)| (close, origin))
}

/// Returns what frees the groups of this aggregate: a key of event time with `upstream`, or else a key of the batch clock,
/// which no later row is older than. `None`: nothing frees them.
pub fn freeing(aggregate: &Aggregate, upstream: Vec<Upstream>) -> (Option<CloseKey>, Vec<Upstream>) {
    if let Some((close, _)) = closing(aggregate) {
        return (Some(close), upstream);
    }
    match by_clock(aggregate) {
        Some((close, _)) => (Some(close), vec![Upstream { source: CLOCK, delay_ms: 0 }]),
        None => (None, upstream),
    }
}

fn by_clock(aggregate: &Aggregate) -> Option<(CloseKey, ClockWindow)> {
    let keys = aggregate.group_expr.iter().enumerate();
    let clock = keys.filter_map(|(group_index, expr)| {
        let kind = trace_clock(expr, &aggregate.input)?;
        let Kind::Window(_, window) = kind else { return None };
        let close = CloseKey { group_index, kind: kind.close()? };
        Some((close_rank(close.kind, kind), close, window.by_clock()?))
    });
    clock.min_by_key(|(rank, close, _)| (*rank, close.group_index)).map(|(_, close, window)| (close, window))
}

/// Ranks keys that could close a group; the lowest rank does.
fn close_rank(close: CloseKind, kind: Kind) -> u8 {
    match close {
        CloseKind::WindowEnd => 0,
        // The start of a cumulating window closes only when the longest window of its series ends.
        CloseKind::EventTime if matches!(kind, Kind::Window(..)) => 1,
        CloseKind::WindowStart { .. } => 2,
        CloseKind::EventTime => 3,
    }
}

/// Returns the windows over the batch clock that free the groups; `None` if there are none, or if a watermark closes groups.
pub fn clock_window(aggregate: &Aggregate) -> Option<ClockWindow> {
    if closing(aggregate).is_some() { None } else { by_clock(aggregate).map(|(_, window)| window) }
}

/// Compiles a GROUP BY.
pub fn compile(aggregate: &Aggregate, emit: EmitMode, watermark: Vec<Upstream>, at: Location) -> Result<AggregateSpec> {
    let input = aggregate.input.schema();
    let mut group = Vec::with_capacity(aggregate.group_expr.len());
    for key in &aggregate.group_expr {
        group.push(physical::expr(key, input, at)?);
    }
    let output = aggregate.schema.as_arrow();
    let groups: Vec<Arc<Field>> = output.fields().iter().take(group.len()).cloned().collect();
    let mut partial = groups.clone();
    let (mut aggregates, mut filters) = (Vec::new(), Vec::new());
    for call in &aggregate.aggr_expr {
        let call = &exactly(call, input).map_err(|error| sql_error(error, at))?;
        let lowered = physical::aggregate(call, input, at)?;
        // Some functions refuse unsupported types only here; the script should fail now, not in a batch.
        let checked = match lowered.aggregate.groups_accumulator_supported() {
            true => lowered.aggregate.create_groups_accumulator().map(drop),
            false => lowered.aggregate.create_accumulator().map(drop),
        };
        checked.map_err(|error| sql_error(error, at))?;
        partial.extend(lowered.aggregate.state_fields().map_err(|error| sql_error(error, at))?);
        aggregates.push(lowered.aggregate);
        filters.push(lowered.filter);
    }
    let (close, watermark) = freeing(aggregate, watermark);
    Ok(AggregateSpec {
        group,
        aggregates,
        filters,
        group_schema: Arc::new(Schema::new(groups)),
        partial_schema: Arc::new(Schema::new(partial)),
        output_schema: Arc::new(Schema::new(output.fields().clone())),
        close,
        keeps_untimed: emit != EmitMode::OnClose,
        watermark,
    })
}

/// Replaces SUM and AVG of floats by accumulators whose result does not depend on the order of rows, and SUM of whole
/// numbers by one that does not wrap.
fn exactly(call: &Expr, input: &DFSchema) -> datafusion::common::Result<Expr> {
    let replaced = |expr: Expr| {
        let Expr::AggregateFunction(mut call) = expr else { return Ok(Transformed::no(expr)) };
        let [argument] = call.params.args.as_slice() else { return Ok(Transformed::no(Expr::AggregateFunction(call))) };
        let argument = argument.get_type(input)?;
        let output = call.func.return_type(std::slice::from_ref(&argument))?;
        let kind = SumKind::of(call.func.name(), &argument, &output).filter(|_| !call.params.distinct);
        let Some(kind) = kind else { return Ok(Transformed::no(Expr::AggregateFunction(call))) };
        call.func = Arc::new(AggregateUDF::from(Sum::new(kind, argument, output)));
        Ok(Transformed::yes(Expr::AggregateFunction(call)))
    };
    call.clone().transform(replaced).map(|call| call.data)
}

/// Describes the grouping: `count(*), sum(amount) by user, window_start`.
pub fn describe(aggregate: &Aggregate) -> String {
    let names = aggregate.schema.fields();
    let width = names.len() - aggregate.aggr_expr.len();
    let keys: Vec<&str> = names.iter().take(width).map(|field| field.name().as_str()).collect();
    let calls: Vec<&str> = names.iter().skip(width).map(|field| field.name().as_str()).collect();
    let text = match (calls.is_empty(), keys.is_empty()) {
        (true, _) => format!("distinct {}", keys.join(", ")),
        (false, true) => format!("{} over all rows", calls.join(", ")),
        (false, false) => format!("{} by {}", calls.join(", "), keys.join(", ")),
    };
    // DataFusion counts rows by counting a constant.
    text.replace("count(Int64(1))", "count(*)")
}
