//! Plans `SESSION` as an operator that keeps sessions.
//!
//! Owns: its exchange, and what closes it. Does not own: keeping sessions (`operators::session_window`).

use super::builder::{Builder, Flow, Target, merge_flows, project};
use super::computed::Computed;
use super::lineage::{Kind, trace};
use super::physical;
use datafusion::arrow::datatypes::Schema;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, Window as WindowNode};
use highwater_dataflow::Op;
use highwater_dataflow::{OperatorInfo, PipelineInput, PipelineOutput};
use highwater_functions::windows::session::Session;
use highwater_functions::windows::tumble::{Part, Window};
use highwater_operators::session_window::SessionOperator;
use highwater_operators::session_window::SessionSpec;
use highwater_protocol::options::OutputMode;
use highwater_sql::error::{Result, SqlError};
use std::sync::Arc;

/// Plans a session window; returns one flow, with one more column for the session's times.
pub fn build(
    builder: &mut Builder<'_>,
    node: &WindowNode,
    call: &WindowFunction,
    time: &Expr,
    session: Window,
    target: Target<'_>,
) -> Result<Vec<Flow>> {
    let mut flows = builder.build(&node.input, target.inner())?;
    let merged = merge_flows(&flows);
    let schema = node.input.schema();
    let closes = is_event_time(time, node);
    let on_close = target.mode == OutputMode::Append;
    if on_close && !closes {
        return Err(SqlError::at(
            target.at,
            format!("'{}' takes appended, final rows, and no watermark ever closes these sessions", target.sink),
        )
        .hint("declare WATERMARK FOR the sessions' time column on the table it comes from, or add PRIMARY KEY (…) NOT ENFORCED to the sink"));
    }
    if merged.retracts && closes {
        return Err(SqlError::at(
            target.at,
            "SESSION over rows that later records correct is not supported in streaming yet",
        )
        .hint("a correction may shorten a session the watermark has passed: use output_mode 'append', so that only final rows reach it"));
    }
    let mut columns = Computed::new(schema.as_arrow());
    let mut partition = Vec::with_capacity(call.params.partition_by.len());
    for expr in &call.params.partition_by {
        partition.push(columns.place(
            physical::expr(expr, schema, target.at)?,
            &highwater_expressions::arithmetic::text(expr),
            target,
        )?);
    }
    let time = columns.place(physical::expr(time, schema, target.at)?, &time.to_string(), target)?;
    let input_schema = Arc::new(Schema::new(columns.fields));
    flows.iter_mut().for_each(|flow| project(flow, &columns.exprs, &input_schema));
    let (stage, edge) = builder.add_exchange(input_schema.clone(), partition.clone(), merged.retracts);
    flows.drain(..).for_each(|flow| builder.route(flow, PipelineOutput::Exchange(edge)));
    let output_schema = Arc::new(Schema::new(node.schema.as_arrow().fields().clone()));
    let spec = SessionSpec {
        input_schema,
        partition,
        time,
        gap_ms: session.size_ms,
        width: schema.fields().len(),
        output_schema: output_schema.clone(),
        closes,
        on_close,
        watermark: merged.upstream.clone(),
    };
    let description = spec.text();
    let info = |id| OperatorInfo {
        id,
        name: "session".into(),
        description,
        sources: merged.upstream.iter().map(|one| one.source).collect(),
        bounded_by: closes.then(|| "the end of its sessions, by the watermark".into()),
        closes_windows: closes,
        clock_window: None,
        ttl_ms: None,
    };
    let op = builder.add_operator(info, "it keeps every row; declare WATERMARK FOR the sessions' time column");
    let ops: Vec<Op> = vec![Arc::new(SessionOperator { op, spec: Arc::new(spec) })];
    let inputs = vec![PipelineInput::Edge(edge)];
    Ok(vec![Flow { stage, inputs, ops, schema: output_schema, retracts: !on_close, upstream: merged.upstream }])
}

fn is_event_time(time: &Expr, node: &WindowNode) -> bool {
    let origin = trace(time, &node.input);
    origin.is_some_and(|origin| matches!(origin.kind, Kind::EventTime | Kind::Window(Part::Time, _)))
}

/// Returns the tables whose watermarks close these sessions.
pub fn closing_tables(node: &WindowNode) -> Vec<Arc<super::table::Table>> {
    let sessions = node.window_expr.iter().filter_map(Session::recognize);
    let origins = sessions.filter(|(_, time, _)| is_event_time(time, node));
    origins.filter_map(|(_, time, _)| trace(time, &node.input)).flat_map(|origin| origin.tables).collect()
}
