//! Plans a GROUP BY as an aggregate, in plain or in retracting form.
//!
//! Owns: the choice of the form, and its stages. Does not own: the specs of either (`aggregate`, `retracting`).

use super::aggregate;
use super::builder::{Builder, Flow, Merged, Target, merge_flows, refuse_clock};
use super::emit::emit_mode;
use super::retracting::{self, RetractingPlan};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::Aggregate;
use highwater_dataflow::{CloseKey, EmitMode, Op, OperatorInfo, PipelineInput, PipelineOutput, Upstream};
use highwater_operators::aggregate::{FinalAggregateSpec, PartialAggregateSpec};
use highwater_operators::retracting::RetractingAggregateSpec;
use highwater_operators::rows::{Expand, Project};
use highwater_protocol::ids::{OperatorId, SourceId};
use highwater_sql::error::Result;
use highwater_sql::tables::SourceTable;
use std::sync::Arc;

/// Plans a GROUP BY; returns the flows of its groups.
pub fn build(builder: &mut Builder<'_>, node: &Aggregate, target: Target<'_>) -> Result<Vec<Flow>> {
    let mut flows = builder.build(&node.input, target.inner())?;
    let merged = merge_flows(&flows);
    // Over retracting input, now() is refused in keys, too, since a retraction would come at another time than the row.
    let timed = if merged.retracts { node.group_expr.as_slice() } else { &[] };
    for expr in timed.iter().chain(&node.aggr_expr) {
        refuse_clock(expr, "an aggregate", target)?;
    }
    let closes = aggregate::closing(node).is_some() || aggregate::clock_window(node).is_some();
    let emit = emit_mode(node, closes, target)?;
    // A subquery without GROUP BY has a row before any input; a sink gets its first row with the first input.
    let at_once = !target.is_last && node.group_expr.is_empty();
    if at_once || !retracting::is_plain(node, merged.retracts, target.at)? {
        return retracting_aggregate(builder, node, flows, merged, emit, target);
    }
    let upstream = merged.upstream;
    let spec = Arc::new(aggregate::compile(node, emit, upstream.clone(), target.at)?);
    let op = add_operator(builder, node, spec.close, emit, &upstream);
    let (stage, edge) = builder.add_exchange(spec.partial_schema.clone(), (0..spec.group.len()).collect(), false);
    for mut flow in flows.drain(..) {
        flow.ops.push(Arc::new(PartialAggregateSpec { op, spec: spec.clone() }));
        builder.route(flow, PipelineOutput::Exchange(edge));
    }
    let schema = spec.output_schema.clone();
    let ops: Vec<Op> = vec![Arc::new(FinalAggregateSpec { op, spec, emit })];
    let retracts = emit == EmitMode::Updates;
    Ok(vec![Flow { stage, inputs: vec![PipelineInput::Edge(edge)], ops, schema, retracts, upstream }])
}

fn retracting_aggregate(
    builder: &mut Builder<'_>,
    node: &Aggregate,
    flows: Vec<Flow>,
    merged: Merged,
    emit: EmitMode,
    target: Target<'_>,
) -> Result<Vec<Flow>> {
    // Over retracting input, a row of DISTINCT may be retracted as well.
    let emit = if emit == EmitMode::OnFirst && merged.retracts { EmitMode::Updates } else { emit };
    let RetractingPlan { lists, spec } =
        retracting::compile(node, emit, merged.retracts, merged.upstream.clone(), !target.is_last, target.at)?;
    let op = add_operator(builder, node, spec.close, emit, &merged.upstream);
    let key = (0..spec.group_width).collect();
    let (stage, edge) = builder.add_exchange(spec.input_schema.clone(), key, merged.retracts);
    for mut flow in flows {
        match lists.as_slice() {
            [exprs] => {
                let (exprs, schema) = (exprs.clone(), spec.input_schema.clone());
                flow.ops.push(Arc::new(Project { exprs, schema }));
            }
            _ => flow.ops.push(Arc::new(Expand { lists: lists.clone(), schema: spec.input_schema.clone() })),
        }
        flow.schema = spec.input_schema.clone();
        builder.route(flow, PipelineOutput::Exchange(edge));
    }
    let (schema, retracts) = (spec.output_schema.clone(), emit == EmitMode::Updates);
    let ops: Vec<Op> = vec![Arc::new(RetractingAggregateSpec { op, spec: Arc::new(spec) })];
    let inputs = vec![PipelineInput::Edge(edge)];
    Ok(vec![Flow { stage, inputs, ops, schema, retracts, upstream: merged.upstream }])
}

fn add_operator(
    builder: &mut Builder<'_>,
    node: &Aggregate,
    close: Option<CloseKey>,
    emit: EmitMode,
    upstream: &[Upstream],
) -> OperatorId {
    let description = aggregate::describe(node);
    let sources: Vec<SourceId> = upstream.iter().map(|one| one.source).collect();
    let schema: SchemaRef = Arc::new(node.schema.as_arrow().clone());
    let by_event_time = aggregate::closing(node).is_some();
    let bounded_by = match (close, node.group_expr.len()) {
        (Some(close), _) if !by_event_time => {
            Some(format!("{}, by the time of batches", schema.field(close.group_index).name()))
        }
        (Some(close), _) => Some(bound_text(&schema, close.group_index, &sources, builder.sources)),
        (None, 0) => Some("a single group".to_string()),
        (None, _) => None,
    };
    let name = if node.aggr_expr.is_empty() { "distinct" } else { "aggregate" };
    let info = |id| OperatorInfo {
        id,
        name: name.into(),
        description,
        sources,
        bounded_by,
        closes_windows: by_event_time,
        clock_window: aggregate::clock_window(node).filter(|_| emit == EmitMode::OnClose),
        ttl_ms: None,
    };
    let keeps = "it keeps every group ever seen; group by a window (TUMBLE, HOP, …) over a table with WATERMARK to \
                 bound it";
    builder.add_operator(info, keeps)
}

fn bound_text(schema: &SchemaRef, group_index: usize, closing: &[SourceId], sources: &[SourceTable]) -> String {
    let names: Vec<&str> =
        sources.iter().filter(|source| closing.contains(&source.id)).map(|source| source.name.as_str()).collect();
    format!("{}, by the watermark of {}", schema.field(group_index).name(), names.join(" and "))
}
