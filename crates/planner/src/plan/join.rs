//! Plans a join as two exchanges by its key, and a stage that joins.
//!
//! Owns: the time after which rows of a side match nothing any more, and when a join's rows are final. Does not own: joining
//! (`operators::join`). Invariants: both sides are exchanged by keys of the same types; a join that may retract rows never
//! reaches a sink that cannot.

use super::builder::{Builder, Flow, Target, merge_upstream, project, refuse_clock};
use super::errors::sql_error;
use super::lineage::{Kind, trace};
use super::physical;
use super::sides::Sides;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{JoinType, NullEquality, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Join, LogicalPlan, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use highwater_dataflow::{CloseKind, Expiry, JoinOutput, OperatorInfo, PipelineInput, PipelineOutput, Upstream};
use highwater_functions::windows::tumble::Part;
use highwater_operators::join::JoinOperator;
use highwater_operators::join::{JoinSide, JoinSpec};
use highwater_protocol::options::OutputMode;
use highwater_sql::error::{Result, SqlError};
use std::sync::Arc;

/// Plans a join; returns the flows of its output.
pub fn build(builder: &mut Builder<'_>, join: &Join, target: Target<'_>) -> Result<Vec<Flow>> {
    let sides = Sides::of(join);
    if join.null_aware {
        if let Some(plan) = super::not_in::rewrite(join).map_err(|error| sql_error(error, target.at))? {
            return builder.build(&plan, target);
        }
        return Err(SqlError::at(
            target.at,
            "a correlated NOT IN over values that may be NULL is not supported in streaming yet",
        )
        .hint("write NOT EXISTS (SELECT 1 FROM … WHERE …), or filter NULLs out of both sides (IS NOT NULL)"));
    }
    if let Some(side) = beside_unit(&sides, join) {
        return builder.build(sides.inputs[side], target);
    }
    if let Some(flows) = super::lookup::build(builder, join, &sides, target)? {
        return Ok(flows);
    }
    for expr in join.on.iter().flat_map(|(left, right)| [left, right]).chain(&join.filter) {
        refuse_clock(expr, "the condition of a join", target)?;
    }
    let expiries = expiries(&sides, join);
    let mut edges = Vec::new();
    let mut specs = Vec::new();
    let mut upstream: Vec<Upstream> = Vec::new();
    let mut retracts = false;
    for side in 0..2 {
        let mut flows = builder.build(sides.inputs[side], target.inner())?;
        retracts |= flows.iter().any(|flow| flow.retracts);
        upstream = merge_upstream(upstream.iter().copied().chain(flows.iter().flat_map(|flow| flow.upstream.clone())));
        let exprs: Vec<&Expr> = sides.on.iter().map(|pair| pair[side]).collect();
        let spec = side_spec(sides.inputs[side], &exprs, &mut flows, expiries[side], target)?;
        let edge = builder.add_edge(spec.schema.clone(), spec.key.clone(), retracts);
        flows.into_iter().for_each(|flow| builder.route(flow, PipelineOutput::Exchange(edge)));
        edges.push(edge);
        specs.push(spec);
    }
    let spec = spec(&sides, join, [specs.remove(0), specs.remove(0)], &upstream, retracts, target)?;
    let output_schema = spec.output_schema.clone();
    let gives_back = spec.retracts;
    // When a row is emitted with a later match, its time may be that far behind the watermark.
    let wait = expiries.iter().flatten().map(|expiry| expiry.later_ms).max().unwrap_or(0).max(0);
    let op = add_operator(builder, &spec, &upstream);
    let stage = builder.add_shards();
    let upstream = upstream.into_iter().map(|one| Upstream { delay_ms: one.delay_ms + wait, ..one }).collect();
    Ok(vec![Flow {
        stage,
        inputs: edges.into_iter().map(PipelineInput::Edge).collect(),
        ops: vec![Arc::new(JoinOperator { op, spec: Arc::new(spec) })],
        schema: output_schema,
        retracts: gives_back,
        upstream,
    }])
}

/// Returns the side that is the join's whole output, if the other one is a single row without columns, as it is if its only
/// column is not used. `None` otherwise.
fn beside_unit(sides: &Sides<'_>, join: &Join) -> Option<usize> {
    let kept: &[usize] = match join.join_type {
        JoinType::Inner => &[0, 1],
        JoinType::Left => &[0],
        JoinType::Right => &[1],
        _ => &[],
    };
    let always = |filter: &Expr| matches!(filter, Expr::Literal(ScalarValue::Boolean(Some(true)), _));
    let is_bare = join.on.is_empty() && join.filter.as_ref().is_none_or(always);
    kept.iter().copied().find(|side| is_bare && is_unit(sides.inputs[1 - side]))
}

/// True if the plan is one row without columns.
fn is_unit(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => is_unit(&alias.input),
        LogicalPlan::Projection(projection) => projection.expr.is_empty() && is_unit(&projection.input),
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row && plan.schema().fields().is_empty(),
        // An aggregate whose functions are not used.
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty() && aggregate.aggr_expr.is_empty(),
        _ => false,
    }
}

/// Appends computed keys to the columns of a side's flows.
fn side_spec(
    input: &LogicalPlan,
    keys: &[&Expr],
    flows: &mut [Flow],
    expiry: Option<Expiry>,
    target: Target<'_>,
) -> Result<JoinSide> {
    let schema = input.schema();
    let width = schema.fields().len();
    let mut fields: Vec<Field> = schema.as_arrow().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut exprs: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        exprs.push(Arc::new(Column::new(field.name(), index)));
    }
    let mut key = Vec::with_capacity(keys.len());
    for expr in keys {
        let physical = physical::expr(expr, schema, target.at)?;
        if let Some(column) = physical.downcast_ref::<Column>() {
            key.push(column.index());
            continue;
        }
        let data_type = physical.data_type(schema.as_arrow()).map_err(|error| sql_error(error, target.at))?;
        fields.push(Field::new(highwater_expressions::arithmetic::text(expr), data_type, true));
        key.push(exprs.len());
        exprs.push(physical);
    }
    let with_keys: SchemaRef = Arc::new(Schema::new(fields));
    flows.iter_mut().for_each(|flow| project(flow, &exprs, &with_keys));
    Ok(JoinSide { schema: with_keys, key, width, expiry })
}

fn spec(
    sides: &Sides<'_>,
    join: &Join,
    specs: [JoinSide; 2],
    upstream: &[Upstream],
    retracts: bool,
    target: Target<'_>,
) -> Result<JoinSpec> {
    let pair = sides.inputs[0].schema().join(sides.inputs[1].schema()).map_err(|error| sql_error(error, target.at))?;
    let filter = match &join.filter {
        Some(filter) => Some(physical::expr(filter, &pair, target.at)?),
        None => None,
    };
    let is_outer = (0..2).any(|side| sides.output.shows_unmatched(side));
    let on_close = is_outer && target.mode == OutputMode::Append;
    let closes = (0..2).all(|side| !sides.output.shows_unmatched(side) || specs[side].expiry.is_some());
    if on_close && (!closes || sides.output == JoinOutput::Mark) {
        return Err(SqlError::at(
            target.at,
            format!(
                "'{}' takes appended, final rows, but rows of this join that match nothing are never final",
                target.sink
            ),
        )
        .hint(
            "add PRIMARY KEY (…) NOT ENFORCED to it; or join on a time: both sides with WATERMARK, and a condition \
             such as a.ts BETWEEN b.ts - INTERVAL '1' HOUR AND b.ts, or equal window_start and window_end",
        ));
    }
    let output_schema = Arc::new(Schema::new(join.schema.as_arrow().fields().clone()));
    Ok(JoinSpec {
        sides: specs,
        null_equal: join.null_equality == NullEquality::NullEqualsNull,
        filter,
        pair_schema: Arc::new(pair.as_arrow().clone()),
        output: sides.output,
        output_schema,
        retracts: retracts || is_outer && !on_close,
        on_close,
        watermark: upstream.to_vec(),
    })
}

fn add_operator(
    builder: &mut Builder<'_>,
    spec: &JoinSpec,
    upstream: &[Upstream],
) -> highwater_protocol::ids::OperatorId {
    let bounded = spec.sides.iter().all(|side| side.expiry.is_some());
    let description = spec.text();
    let name = spec.name();
    let sources = upstream.iter().map(|one| one.source).collect();
    let info = |id| OperatorInfo {
        id,
        name: name.into(),
        description,
        sources,
        bounded_by: bounded.then(|| "the time of its rows".into()),
        closes_windows: spec.sides.iter().any(|side| side.expiry.is_some()),
        clock_window: None,
        ttl_ms: None,
    };
    let keeps = "it keeps every row of both sides; join on equal windows, or on a range of time between columns with \
                 WATERMARK, to bound it";
    builder.add_operator(info, keeps)
}

/// Returns the tables whose watermarks free rows of this join.
pub fn closing_tables(join: &Join) -> Vec<Arc<super::table::Table>> {
    let sides = Sides::of(join);
    let mut tables = Vec::new();
    for (side, expiry) in expiries(&sides, join).into_iter().enumerate() {
        let origin = expiry.and_then(|expiry| super::lineage::trace_output(sides.inputs[side], expiry.column));
        tables.extend(origin.into_iter().flat_map(|origin| origin.tables));
    }
    tables
}

/// Returns for each side when its rows match nothing any more, from equal windows or a range between event times; `None` =
/// never.
fn expiries(sides: &Sides<'_>, join: &Join) -> [Option<Expiry>; 2] {
    for [left, right] in &sides.on {
        let (Some(l), Some(r)) = (trace(left, sides.inputs[0]), trace(right, sides.inputs[1])) else { continue };
        let columns = [column_of(left, sides.inputs[0]), column_of(right, sides.inputs[1])];
        if let [Some(left), Some(right)] = columns {
            let expiry = |column, kind: Kind| Some(Expiry { column, kind: kind.close()?, later_ms: 0 });
            return [expiry(left, l.kind), expiry(right, r.kind)];
        }
    }
    interval(sides, join)
}

/// Finds bounds of `l.ts - r.ts`, in milliseconds, in the condition. Returns the expiries that follow from them.
fn interval(sides: &Sides<'_>, join: &Join) -> [Option<Expiry>; 2] {
    let Some(filter) = &join.filter else { return [None, None] };
    let (mut low, mut high): (Option<i64>, Option<i64>) = (None, None);
    let mut columns: Option<(usize, usize)> = None;
    for conjunct in split_conjunction(filter) {
        for (left, op, right) in comparisons(conjunct) {
            let (Some(a), Some(b)) = (time_side(left, sides), time_side(right, sides)) else { continue };
            // a.ts + a.offset  op  b.ts + b.offset
            let (l, r, op) = match (a.side, b.side) {
                (0, 1) => (a, b, op),
                (1, 0) => (b, a, op.swap().unwrap_or(op)),
                _ => continue,
            };
            if columns.is_some_and(|known| known != (l.column, r.column)) {
                continue;
            }
            columns = Some((l.column, r.column));
            let bound = r.offset_ms - l.offset_ms;
            match op {
                Operator::GtEq | Operator::Gt => low = Some(low.map_or(bound, |known| known.max(bound))),
                Operator::LtEq | Operator::Lt => high = Some(high.map_or(bound, |known| known.min(bound))),
                Operator::Eq => (low, high) = (Some(bound), Some(bound)),
                _ => {}
            }
        }
    }
    let Some((left, right)) = columns else { return [None, None] };
    let expiry = |column, later_ms| Expiry { column, kind: CloseKind::EventTime, later_ms };
    // A left row matches right rows up to l.ts − low, a right row left rows up to r.ts + high.
    [low.map(|low| expiry(left, low.saturating_neg())), high.map(|high| expiry(right, high))]
}

/// Returns the comparisons that a condition consists of; empty for other conditions.
fn comparisons(condition: &Expr) -> Vec<(&Expr, Operator, &Expr)> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => vec![(left, *op, right)],
        Expr::Between(between) if !between.negated => vec![
            (between.expr.as_ref(), Operator::GtEq, between.low.as_ref()),
            (between.expr.as_ref(), Operator::LtEq, between.high.as_ref()),
        ],
        _ => Vec::new(),
    }
}

/// An event time of one side, plus `offset_ms` milliseconds.
struct TimeSide {
    side: usize,
    column: usize,
    offset_ms: i64,
}

fn time_side(expr: &Expr, sides: &Sides<'_>) -> Option<TimeSide> {
    match expr {
        Expr::Column(_) => (0..2).find_map(|side| {
            let column = column_of(expr, sides.inputs[side])?;
            let origin = trace(expr, sides.inputs[side])?;
            // The row of a window is emitted once the watermark has reached its end, which thus is the row's time.
            let is_time = matches!(origin.kind, Kind::EventTime | Kind::Window(Part::Time | Part::End, _));
            is_time.then_some(TimeSide { side, column, offset_ms: 0 })
        }),
        Expr::Cast(cast) => time_side(&cast.expr, sides),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let sign = match op {
                Operator::Plus => 1,
                Operator::Minus => -1,
                _ => return None,
            };
            let (time, interval) = match (time_side(left, sides), time_side(right, sides)) {
                (Some(time), None) => (time, interval_ms(right)?),
                (None, Some(time)) if sign == 1 => (time, interval_ms(left)?),
                _ => return None,
            };
            Some(TimeSide { offset_ms: time.offset_ms + sign * interval, ..time })
        }
        _ => None,
    }
}

fn interval_ms(expr: &Expr) -> Option<i64> {
    const DAY_MS: i64 = 86_400_000;
    let Expr::Literal(value, _) = expr else { return None };
    match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            // Bounds are rounded up: a row is kept a little longer, never less.
            Some(
                i64::from(interval.days) * DAY_MS
                    + interval.nanoseconds.div_euclid(1_000_000)
                    + i64::from(interval.nanoseconds % 1_000_000 != 0),
            )
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            Some(i64::from(interval.days) * DAY_MS + i64::from(interval.milliseconds))
        }
        ScalarValue::DurationMillisecond(duration) => *duration,
        _ => None,
    }
}

/// Returns the column of `input` that this expression is; `None` for others.
fn column_of(expr: &Expr, input: &LogicalPlan) -> Option<usize> {
    let Expr::Column(column) = expr else { return None };
    input.schema().maybe_index_of_column(column)
}
