//! Plans `OVER`, ranks with a limit, and `ORDER BY … LIMIT` as partitions that are kept in order.
//!
//! Owns: recognizing limits on ranks; grouping functions that share a partition and an order. Does not own: keeping
//! partitions (`operators::over`).

use super::builder::{Builder, Flow, Target, merge_flows, project, refuse_clock};
use super::computed::Computed;
use super::errors::sql_error;
use super::first_row;
use super::lineage::trace_output;
use super::partitioning::Parts;
use super::physical;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::{Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, FetchType, Filter, Limit, LogicalPlan, LogicalPlanBuilder, Operator, Projection, SkipType,
    Window, WindowFunctionDefinition,
};
use datafusion::physical_expr::window::WindowExpr;
use highwater_dataflow::Op;
use highwater_dataflow::{Expiry, OperatorInfo, PipelineInput, PipelineOutput};
use highwater_expressions::can_fail;
use highwater_functions::ranks::is_signed;
use highwater_functions::windows::session::Session;
use highwater_operators::first_row::FirstRowSpec;
use highwater_operators::over::OverOperator;
use highwater_operators::over::{OverSpec, Rank, RankLimit};
use highwater_protocol::options::OutputMode;
use highwater_sql::error::{Result, SqlError};
use std::sync::Arc;

/// Returns the limit that a filter sets on a rank; `None` if it sets none, or if another function needs all rows.
pub fn rank_limit(filter: &Filter, window: &Window) -> Option<RankLimit> {
    let width = window.input.schema().fields().len();
    let ranks = ranks(window);
    // Functions other than ranks also need the rows after the limit.
    if ranks.iter().any(Option::is_none) {
        return None;
    }
    let limit = |conjunct: &&Expr| {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = conjunct else { return None };
        let (column, op, value) = match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
            (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
            _ => return None,
        };
        let index = window.schema.maybe_index_of_column(column)?;
        let rank = (*ranks.get(index.checked_sub(width)?)?)?;
        let ScalarValue::UInt64(Some(value)) = value.cast_to(&datafusion::arrow::datatypes::DataType::UInt64).ok()?
        else {
            return None;
        };
        let most = match op {
            Operator::LtEq | Operator::Eq => value,
            Operator::Lt => value.saturating_sub(1),
            _ => return None,
        };
        Some(RankLimit { rank, most, skip: 0 })
    };
    split_conjunction(&filter.predicate).iter().filter_map(limit).min_by_key(|limit| limit.most)
}

/// Returns the rank that each function of `window` is; `None` for other functions.
pub fn ranks(window: &Window) -> Vec<Option<Rank>> {
    window.window_expr.iter().map(rank_of).collect()
}

/// Returns the partition keys of all functions of `window`; `None` if functions differ in partition or order.
pub fn partition(window: &Window) -> Option<&[Expr]> {
    let mut functions = window.window_expr.iter().map(window_function);
    let first = &functions.next()??.params;
    let is_same = |function: &WindowFunction| {
        function.params.partition_by == first.partition_by && function.params.order_by == first.order_by
    };
    functions.all(|function| function.is_some_and(is_same)).then_some(first.partition_by.as_slice())
}

fn rank_of(expr: &Expr) -> Option<Rank> {
    let function = window_function(expr)?;
    let WindowFunctionDefinition::WindowUDF(udf) = &function.fun else { return None };
    match udf.name() {
        "row_number" => Some(Rank::RowNumber),
        "rank" => Some(Rank::Rank),
        "dense_rank" => Some(Rank::DenseRank),
        _ => None,
    }
}

fn window_function(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => window_function(&alias.expr),
        Expr::WindowFunction(function) => Some(function),
        _ => None,
    }
}

/// Plans a window node; returns its flows, with one more column for each function.
pub fn window(
    builder: &mut Builder<'_>,
    node: &Window,
    limit: Option<RankLimit>,
    target: Target<'_>,
) -> Result<Vec<Flow>> {
    if let [one] = node.window_expr.as_slice()
        && let Some((call, time, session)) = Session::recognize(one)
    {
        return super::session_windows::build(builder, node, call, time, session, target);
    }
    let mut functions = Vec::with_capacity(node.window_expr.len());
    for expr in &node.window_expr {
        refuse_clock(expr, "OVER", target)?;
        functions.push(window_function(expr).ok_or_else(|| SqlError::at(target.at, format!("{expr} has no OVER")))?);
    }
    let first = functions.first().map(|function| &function.params);
    if partition(node).is_none() {
        let plan = one_by_one(node).map_err(|error| sql_error(error, target.at))?;
        return builder.build(&plan, target);
    }
    if let Some(plan) = arguments_first(node).map_err(|error| sql_error(error, target.at))? {
        return builder.build(&plan, target);
    }
    let mut flows = builder.build(&node.input, target.inner())?;
    let Some(params) = first else { return Ok(flows) };
    let schema = Arc::new(Schema::new(node.schema.as_arrow().fields().clone()));
    let mut compiled: Vec<Arc<dyn WindowExpr>> = Vec::with_capacity(functions.len());
    for expr in &node.window_expr {
        compiled.push(physical::window(expr, node.input.schema(), target.at)?);
    }
    let parts = Parts { input: &node.input, partition: &params.partition_by, order: &params.order_by };
    let width = node.input.schema().fields().len();
    let is_rank = |function: &&WindowFunction| matches!(&function.fun, WindowFunctionDefinition::WindowUDF(function) if is_signed(function));
    let ranks = functions.iter().zip(width..).filter(|(function, _)| is_rank(function)).map(|(_, column)| column);
    let output = Output { schema, ranks: ranks.collect() };
    let flow = partitions(builder, &mut flows, parts, compiled, output, limit, target)?;
    Ok(vec![flow])
}

/// Splits functions OVER different partitions or orders into one window node for each kind.
fn one_by_one(node: &Window) -> datafusion::common::Result<LogicalPlan> {
    let mut groups: Vec<Vec<Expr>> = Vec::new();
    let kind = |expr: &Expr| {
        window_function(expr).map(|call| (call.params.partition_by.clone(), call.params.order_by.clone()))
    };
    for expr in &node.window_expr {
        match groups.iter_mut().find(|group| kind(&group[0]) == kind(expr)) {
            Some(group) => group.push(expr.clone()),
            None => groups.push(vec![expr.clone()]),
        }
    }
    let mut plan = LogicalPlanBuilder::from(node.input.as_ref().clone());
    for group in groups {
        plan = plan.window(group)?;
    }
    plan.project(node.schema.iter().map(Expr::from))?.build()
}

/// Moves arguments that may fail to columns of a projection below, where expressions guard and name their errors. `None` if
/// no argument may fail.
fn arguments_first(node: &Window) -> datafusion::common::Result<Option<LogicalPlan>> {
    let input = node.input.schema();
    let mut columns: Vec<Expr> = input.iter().map(Expr::from).collect();
    let width = columns.len();
    let mut calls = node.window_expr.clone();
    for call in &mut calls {
        let name_of_call = call.schema_name().to_string();
        let Some(inner) = window_function_mut(call) else { continue };
        let mut changed = false;
        for argument in inner.params.args.iter_mut().chain(inner.params.filter.as_deref_mut()) {
            if can_fail(argument, input) {
                let name = format!("__hw_argument_{}", columns.len() - width);
                columns.push(std::mem::replace(argument, Expr::Column(Column::from_name(&name))).alias(name));
                changed = true;
            }
        }
        if changed {
            *call = call.clone().alias_if_changed(name_of_call)?;
        }
    }
    if columns.len() == width {
        return Ok(None);
    }
    let rows = LogicalPlanBuilder::from(node.input.as_ref().clone()).project(columns)?.window(calls)?;
    rows.project(node.schema.iter().map(Expr::from))?.build().map(Some)
}

fn window_function_mut(expr: &mut Expr) -> Option<&mut WindowFunction> {
    match expr {
        Expr::Alias(alias) => window_function_mut(&mut alias.expr),
        Expr::WindowFunction(function) => Some(function),
        _ => None,
    }
}

/// Plans `ORDER BY … LIMIT`, which keeps the first of all rows.
pub fn limit(builder: &mut Builder<'_>, node: &Limit, target: Target<'_>) -> Result<Vec<Flow>> {
    // ORDER BY may be below a projection that drops its columns.
    if let LogicalPlan::Projection(projection) = node.input.as_ref() {
        let below = LogicalPlan::Limit(Limit { input: projection.input.clone(), ..node.clone() });
        let projection = Projection::try_new(projection.expr.clone(), Arc::new(below));
        let projection = projection.map_err(|error| sql_error(error, target.at))?;
        return builder.build(&LogicalPlan::Projection(projection), target);
    }
    let constant = || SqlError::at(target.at, "LIMIT and OFFSET must be constant numbers");
    let skip = match node.get_skip_type().map_err(|error| sql_error(error, target.at))? {
        SkipType::Literal(skip) => skip as u64,
        SkipType::UnsupportedExpr => return Err(constant()),
    };
    let fetch = match node.get_fetch_type().map_err(|error| sql_error(error, target.at))? {
        FetchType::Literal(Some(fetch)) => fetch as u64,
        FetchType::Literal(None) => {
            return Err(SqlError::at(target.at, "OFFSET without LIMIT is not supported in streaming yet")
                .hint("add a LIMIT, without which the state would have no bound"));
        }
        FetchType::UnsupportedExpr => return Err(constant()),
    };
    let (input, order): (&LogicalPlan, &[SortExpr]) = match node.input.as_ref() {
        LogicalPlan::Sort(sort) => (&sort.input, &sort.expr),
        other => (other, &[]),
    };
    let mut flows = builder.build(input, target.inner())?;
    let schema = Arc::new(Schema::new(input.schema().as_arrow().fields().clone()));
    let limit = RankLimit { rank: Rank::RowNumber, most: skip.saturating_add(fetch), skip };
    let parts = Parts { input, partition: &[], order };
    let output = Output { schema, ranks: Vec::new() };
    let flow = partitions(builder, &mut flows, parts, Vec::new(), output, Some(limit), target)?;
    Ok(vec![flow])
}

/// The rows of an OVER.
struct Output {
    schema: SchemaRef,
    /// Columns that are ranks of BIGINT.
    ranks: Vec<usize>,
}

fn partitions(
    builder: &mut Builder<'_>,
    flows: &mut Vec<Flow>,
    parts: Parts<'_>,
    functions: Vec<Arc<dyn WindowExpr>>,
    output: Output,
    limit: Option<RankLimit>,
    target: Target<'_>,
) -> Result<Flow> {
    let Output { schema: output_schema, ranks } = output;
    let schema = parts.input.schema();
    let width = schema.fields().len();
    let mut columns = Computed::new(schema.as_arrow());
    let mut partition = Vec::with_capacity(parts.partition.len());
    for expr in parts.partition {
        partition.push(columns.place(
            physical::expr(expr, schema, target.at)?,
            &highwater_expressions::arithmetic::text(expr),
            target,
        )?);
    }
    let mut order = Vec::with_capacity(parts.order.len());
    for sort in parts.order {
        let place = columns.place(
            physical::expr(&sort.expr, schema, target.at)?,
            &highwater_expressions::arithmetic::text(&sort.expr),
            target,
        )?;
        order.push((place, SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first }));
    }
    let expiry = partition.iter().find_map(|column| expiry(parts.input, *column));
    let on_close = target.mode == OutputMode::Append;
    let merged = merge_flows(flows);
    let by_clock = on_close && expiry.is_none() && first_row::is_final(&parts, limit, merged.retracts);
    if on_close && expiry.is_none() && !by_clock {
        return Err(SqlError::at(
            target.at,
            format!("'{}' takes appended, final rows, and a later record may change these ranks", target.sink),
        )
        .hint("add PRIMARY KEY (…) NOT ENFORCED to it; or partition by window_start and window_end of a window over a table with WATERMARK; or, for the first row of each to come, order by a column that is proctime()"));
    }
    let input_schema: SchemaRef = Arc::new(Schema::new(columns.fields));
    flows.iter_mut().for_each(|flow| project(flow, &columns.exprs, &input_schema));
    let (stage, edge) = builder.add_exchange(input_schema.clone(), partition.clone(), merged.retracts);
    flows.drain(..).for_each(|flow| builder.route(flow, PipelineOutput::Exchange(edge)));
    if by_clock {
        let spec = FirstRowSpec { input_schema, key: partition, order, width, output_schema };
        return Ok(first_row::build(builder, stage, edge, spec, merged));
    }
    let spec = OverSpec {
        input_schema,
        partition,
        order,
        functions,
        width,
        output_schema: output_schema.clone(),
        ranks,
        limit,
        input_retracts: merged.retracts,
        expiry,
        on_close,
        watermark: merged.upstream.clone(),
    };
    let op = add_operator(builder, &spec);
    let ops: Vec<Op> = vec![Arc::new(OverOperator { op, spec: Arc::new(spec) })];
    let inputs = vec![PipelineInput::Edge(edge)];
    Ok(Flow { stage, inputs, ops, schema: output_schema, retracts: !on_close, upstream: merged.upstream })
}

fn add_operator(builder: &mut Builder<'_>, spec: &OverSpec) -> highwater_protocol::ids::OperatorId {
    let (name, description) = (spec.name(), spec.text());
    let bounded_by = match (spec.expiry, spec.limit, spec.partition.is_empty()) {
        (Some(expiry), _, _) => Some(format!("{}, by the watermark", spec.input_schema.field(expiry.column).name())),
        (None, Some(limit), true) if !spec.input_retracts => Some(format!("its limit of {} rows", limit.most)),
        _ => None,
    };
    let what = match spec.limit.is_some() && !spec.input_retracts {
        true => "it keeps the first rows of every partition ever seen",
        false => "it keeps every row",
    };
    let keeps = format!("{what}; partition by a window over a table with WATERMARK to bound it");
    let sources = spec.watermark.iter().map(|one| one.source).collect();
    let info = |id| OperatorInfo {
        id,
        name: name.into(),
        description,
        sources,
        bounded_by,
        closes_windows: spec.expiry.is_some(),
        clock_window: None,
        ttl_ms: None,
    };
    builder.add_operator(info, &keeps)
}

/// Returns when partitions by this column close; `None` = never.
pub fn expiry(input: &LogicalPlan, column: usize) -> Option<Expiry> {
    if column >= input.schema().fields().len() {
        return None;
    }
    let kind = trace_output(input, column)?.kind.close()?;
    Some(Expiry { column, kind, later_ms: 0 })
}

/// Returns the tables whose watermarks close partitions of this OVER.
pub fn closing_tables(node: &Window) -> Vec<Arc<super::table::Table>> {
    let first = node.window_expr.first().and_then(window_function);
    let keys = first.map(|function| function.params.partition_by.as_slice()).unwrap_or_default();
    keys.iter().filter_map(|key| super::lineage::trace(key, &node.input)).flat_map(|origin| origin.tables).collect()
}
