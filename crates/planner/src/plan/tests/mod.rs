//! Scripts through the whole frontend: the shapes they compile to, and the errors they get.

mod connectors;
mod errors;
mod failing;
mod formats;
mod forms;
mod keys;
mod late_rows;
mod limits;
mod lookups;
mod refusals;
mod runs;
mod shapes;
mod tables;
mod ttl;
mod versions;
mod windows;

use crate::compile;
use crate::query::CompiledQuery;
use highwater_dataflow::operator::StateSpec;
use highwater_dataflow::{Op, OperatorSpec, PipelineOutput};
use highwater_operators::aggregate::{FinalAggregateSpec, PartialAggregateSpec};
use highwater_operators::complete::CompleteSpec;
use highwater_operators::join::JoinOperator;
use highwater_operators::keyed_sink::KeyedSinkSpec;
use highwater_operators::keyed_source::UpsertOperator;
use highwater_operators::lookup::LookupOperator;
use highwater_operators::over::OverOperator;
use highwater_operators::retracting::RetractingAggregateSpec;
use highwater_operators::rows::{Expand, Filter, Project};
use highwater_operators::session_window::SessionOperator;
use highwater_operators::temporal::TemporalOperator;
use highwater_operators::timed::TimedSpec;
use highwater_operators::unnest::UnnestOperator;

/// Two sources, three sinks.
const TABLES: &str = "
CREATE TABLE pay (
  id BIGINT, card STRING, category STRING, amount DECIMAL(10, 2), score DOUBLE, ts TIMESTAMP(3),
  shop ROW<name STRING, address ROW<city STRING>>, tags ARRAY<STRING>, items ARRAY<ROW<sku STRING, n INT>>,
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'kafka', 'topic' = 'pay', 'bootstrap.servers' = 'h:9092', 'format' = 'json');
CREATE TABLE plain (id BIGINT, card STRING, amount DECIMAL(10, 2), ts TIMESTAMP(3))
  WITH ('connector' = 'kafka', 'topic' = 'plain', 'bootstrap.servers' = 'h:9092', 'format' = 'json');
CREATE TABLE rows_out (a STRING, b BIGINT)
  WITH ('connector' = 'kafka', 'topic' = 'rows_out', 'bootstrap.servers' = 'h:9092', 'format' = 'json');
CREATE TABLE rows_two (a STRING, b BIGINT)
  WITH ('connector' = 'kafka', 'topic' = 'rows_two', 'bootstrap.servers' = 'h:9092', 'format' = 'json');
CREATE TABLE keyed (a STRING, b BIGINT, PRIMARY KEY (a) NOT ENFORCED)
  WITH ('connector' = 'kafka', 'topic' = 'keyed', 'bootstrap.servers' = 'h:9092', 'format' = 'json');
CREATE TABLE windows (w TIMESTAMP(3), a STRING, b BIGINT)
  WITH ('connector' = 'kafka', 'topic' = 'windows', 'bootstrap.servers' = 'h:9092', 'format' = 'json');
CREATE TABLE keyed_windows (w TIMESTAMP(3), a STRING, b BIGINT, PRIMARY KEY (w, a) NOT ENFORCED)
  WITH ('connector' = 'kafka', 'topic' = 'keyed_windows', 'bootstrap.servers' = 'h:9092', 'format' = 'json');
";

/// A window over `pay`, for FROM.
const TUMBLE: &str = "TABLE(TUMBLE(TABLE pay, DESCRIPTOR(ts), INTERVAL '10' SECOND))";

/// Compiles statements over [`TABLES`].
#[track_caller]
fn good(statements: &str) -> CompiledQuery {
    match compile(&format!("{TABLES}{statements}")) {
        Ok(query) => {
            check(&query);
            query
        }
        Err(error) => panic!("{statements}: {error}"),
    }
}

/// The error of statements over [`TABLES`], line 1 being the statements' own first.
#[track_caller]
fn bad(statements: &str) -> String {
    match compile(&format!("{statements}{TABLES}")) {
        Ok(_) => panic!("compiles: {statements}"),
        Err(error) => error.to_string(),
    }
}

/// Each pipeline in one line: `stage: operators -> output`.
fn shape(query: &CompiledQuery) -> Vec<String> {
    let mut lines = Vec::new();
    for stage in &query.dataflow.stages {
        for pipeline in &stage.pipelines {
            let ops: Vec<String> = pipeline.ops.iter().map(op_name).collect();
            let output = match pipeline.output {
                PipelineOutput::Sink(id) => format!("sink {id}"),
                PipelineOutput::Exchange(id) => {
                    let edge = &query.dataflow.edges[id.0 as usize];
                    let weighted = if edge.weighted { " weighted" } else { "" };
                    format!("edge {id} {:?}{weighted}", edge.key)
                }
            };
            lines.push(format!("{}: {} -> {output}", stage.id, ops.join(" ")));
        }
    }
    lines
}

fn op_name(op: &Op) -> String {
    let names: [fn(&dyn OperatorSpec) -> Option<String>; 16] = [
        |op| op.downcast_ref::<Filter>().map(|_| "filter".into()),
        |op| op.downcast_ref::<TimedSpec>().map(|_| "timed".into()),
        |op| op.downcast_ref::<Project>().map(|_| "project".into()),
        |op| op.downcast_ref::<Expand>().map(|expand| format!("expand{}", expand.lists.len())),
        |op| op.downcast_ref::<UnnestOperator>().map(|_| "unnest".into()),
        |op| op.downcast_ref::<LookupOperator>().map(|_| "lookup".into()),
        |op| op.downcast_ref::<PartialAggregateSpec>().map(|half| format!("partial{}", half.op)),
        |op| op.downcast_ref::<FinalAggregateSpec>().map(|half| format!("final{}:{:?}", half.op, half.emit)),
        |op| op.downcast_ref::<RetractingAggregateSpec>().map(|all| format!("aggregate{}:{:?}", all.op, all.spec.emit)),
        |op| op.downcast_ref::<JoinOperator>().map(|join| format!("{}{}", join.spec.name().replace(' ', "-"), join.op)),
        |op| op.downcast_ref::<OverOperator>().map(|over| format!("{}{}", over.spec.name(), over.op)),
        |op| op.downcast_ref::<SessionOperator>().map(|session| format!("session{}", session.op)),
        |op| op.downcast_ref::<UpsertOperator>().map(|upsert| format!("upsert{}{:?}", upsert.op, upsert.spec.key)),
        |op| {
            let when = |on_close| if on_close { "final" } else { "at-once" };
            op.downcast_ref::<TemporalOperator>()
                .map(|join| format!("temporal{}:{}", join.op, when(join.spec.on_close)))
        },
        |op| op.downcast_ref::<CompleteSpec>().map(|complete| format!("complete{}", complete.op)),
        |op| {
            let unique = |unique| if unique { "unique" } else { "" };
            op.downcast_ref::<KeyedSinkSpec>()
                .map(|keyed| format!("keyed{}{:?}{}", keyed.op, keyed.key, unique(keyed.unique)))
        },
    ];
    names.iter().find_map(|name| name(op.as_ref())).unwrap_or_else(|| panic!("no name for {op:?}"))
}

/// Checks every invariant that the runtime relies on.
#[track_caller]
fn check(query: &CompiledQuery) {
    use highwater_dataflow::{PipelineInput, StageInput};
    let flow = &query.dataflow;
    for (index, stage) in flow.stages.iter().enumerate() {
        assert_eq!(stage.id.0 as usize, index);
        assert!(!stage.pipelines.is_empty(), "stage {index} does nothing");
        for pipeline in &stage.pipelines {
            for input in &pipeline.inputs {
                assert_eq!(*input == PipelineInput::Source, matches!(stage.input, StageInput::Source(_)));
            }
            match pipeline.output {
                PipelineOutput::Exchange(edge) => assert!(flow.consumer(edge).is_some_and(|next| next.id > stage.id)),
                PipelineOutput::Sink(sink) => assert!(stage.sinks.contains(&sink)),
            }
            for op in &pipeline.ops {
                if let Some(StateSpec { operator: op, .. }) = op.state() {
                    assert_eq!(stage.input, StageInput::Shards);
                    assert!(flow.operators.iter().any(|info| info.id == op));
                }
            }
        }
    }
    query.check_schemas().unwrap();
    for (index, operator) in flow.operators.iter().enumerate() {
        assert_eq!(operator.id.0 as usize, index);
        assert!(!operator.sources.is_empty());
    }
}
