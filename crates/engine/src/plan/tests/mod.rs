//! Scripts through the whole frontend: the shapes they compile to, and the errors they get.

mod errors;
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
use crate::dataflow::{OpSpec, PipelineOutput};
use crate::query::CompiledQuery;

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

fn op_name(op: &OpSpec) -> String {
    match op {
        OpSpec::Filter(_) => "filter".into(),
        OpSpec::Project { .. } => "project".into(),
        OpSpec::PartialAggregate { op, .. } => format!("partial{op}"),
        OpSpec::FinalAggregate { op, emit, .. } => format!("final{op}:{emit:?}"),
        OpSpec::GeneralAggregate { op, spec } => format!("aggregate{op}:{:?}", spec.emit),
        OpSpec::Join { op, spec } => format!("{}{op}", crate::explain::join_name(spec).replace(' ', "-")),
        OpSpec::Over { op, spec } => format!("{}{op}", crate::explain::over_name(spec)),
        OpSpec::Session { op, .. } => format!("session{op}"),
        OpSpec::Upsert { op, spec } => format!("upsert{op}{:?}", spec.key),
        OpSpec::Temporal { op, spec } => format!("temporal{op}:{}", if spec.on_close { "final" } else { "at-once" }),
        OpSpec::Lookup(_) => "lookup".into(),
        OpSpec::Complete { op, .. } => format!("complete{op}"),
        OpSpec::Unnest(_) => "unnest".into(),
        OpSpec::Expand { lists, .. } => format!("expand{}", lists.len()),
        OpSpec::KeyedSink { op, key, unique, .. } => format!("keyed{op}{key:?}{}", if *unique { "unique" } else { "" }),
    }
}

/// Every invariant the runtime counts on.
#[track_caller]
fn check(query: &CompiledQuery) {
    use crate::dataflow::{PipelineInput, StageInput};
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
                if let Some((op, _)) = op.state() {
                    assert_eq!(stage.input, StageInput::Shards);
                    assert!(flow.operators.iter().any(|info| info.id == op));
                }
            }
        }
    }
    check_types(query);
    for (index, operator) in flow.operators.iter().enumerate() {
        assert_eq!(operator.id.0 as usize, index);
        assert!(!operator.sources.is_empty());
    }
}

/// What each operator computes has the types its schema says, through all pipelines.
#[track_caller]
fn check_types(query: &CompiledQuery) {
    use crate::dataflow::{PipelineInput, StageInput, Unnested};
    use arrow::datatypes::{DataType, SchemaRef};
    let types = |schema: &SchemaRef| -> Vec<DataType> {
        schema.fields().iter().map(|field| field.data_type().clone()).collect()
    };
    for stage in &query.dataflow.stages {
        for pipeline in &stage.pipelines {
            let mut input: SchemaRef = match (pipeline.inputs[0], stage.input) {
                (PipelineInput::Edge(edge), _) => query.dataflow.edges[edge.0 as usize].schema.clone(),
                (PipelineInput::Source, StageInput::Source(id)) => {
                    let source = &query.sources[id.0 as usize];
                    source.layout()
                }
                (PipelineInput::Source, StageInput::Shards) => panic!("a shards stage has no source"),
            };
            for op in &pipeline.ops {
                match op {
                    OpSpec::Filter(predicate) => assert_eq!(predicate.data_type(&input).unwrap(), DataType::Boolean),
                    OpSpec::Project { exprs, schema } => {
                        let given: Vec<DataType> = exprs.iter().map(|expr| expr.data_type(&input).unwrap()).collect();
                        assert_eq!(given, types(schema));
                        input = schema.clone();
                    }
                    OpSpec::PartialAggregate { spec, .. } => {
                        let given: Vec<DataType> =
                            spec.group.iter().map(|expr| expr.data_type(&input).unwrap()).collect();
                        assert_eq!(given, types(&spec.group_schema));
                        assert_eq!(spec.filters.len(), spec.aggregates.len());
                        input = spec.partial_schema.clone();
                    }
                    OpSpec::FinalAggregate { spec, .. } => {
                        assert_eq!(types(&input), types(&spec.partial_schema));
                        let values = spec.aggregates.iter().map(|call| call.field().data_type().clone());
                        let given: Vec<DataType> = types(&spec.group_schema).into_iter().chain(values).collect();
                        assert_eq!(given, types(&spec.output_schema));
                        input = spec.output_schema.clone();
                    }
                    OpSpec::Expand { lists, schema } => {
                        for exprs in lists {
                            let given: Vec<DataType> =
                                exprs.iter().map(|expr| expr.data_type(&input).unwrap()).collect();
                            assert_eq!(given, types(schema));
                        }
                        input = schema.clone();
                    }
                    OpSpec::Session { spec, .. } => {
                        assert_eq!(types(&input), types(&spec.input_schema));
                        input = spec.output_schema.clone();
                    }
                    OpSpec::Lookup(spec) => input = spec.output_schema.clone(),
                    OpSpec::Upsert { spec, .. } => {
                        assert_eq!(types(&input), types(&spec.input_schema));
                        assert_eq!(types(&input)[..spec.width], types(&spec.output_schema));
                        input = spec.output_schema.clone();
                    }
                    OpSpec::Temporal { spec, .. } => {
                        let sides = [&spec.rows, &spec.versions.timed];
                        for (side, edge) in sides.into_iter().zip(&pipeline.inputs) {
                            let PipelineInput::Edge(edge) = edge else { panic!("a join reads exchanges") };
                            assert_eq!(types(&query.dataflow.edges[edge.0 as usize].schema), types(&side.schema));
                        }
                        input = spec.output_schema.clone();
                    }
                    OpSpec::Unnest(spec) => {
                        let whole = spec.columns.iter().zip(spec.schema.fields());
                        for ((column, _), field) in whole.filter(|((_, what), _)| *what == Unnested::Same) {
                            assert_eq!(input.field(*column).data_type(), field.data_type());
                        }
                        input = spec.schema.clone();
                    }
                    OpSpec::GeneralAggregate { spec, .. } => {
                        assert_eq!(types(&input), types(&spec.input_schema));
                        input = spec.output_schema.clone();
                    }
                    OpSpec::Join { spec, .. } => {
                        for (side, edge) in spec.sides.iter().zip(&pipeline.inputs) {
                            let PipelineInput::Edge(edge) = edge else { panic!("a join reads exchanges") };
                            assert_eq!(types(&query.dataflow.edges[edge.0 as usize].schema), types(&side.schema));
                        }
                        input = spec.output_schema.clone();
                    }
                    OpSpec::Over { spec, .. } => {
                        assert_eq!(types(&input), types(&spec.input_schema));
                        input = spec.output_schema.clone();
                    }
                    OpSpec::Complete { schema, .. } | OpSpec::KeyedSink { schema, .. } => {
                        assert_eq!(types(&input), types(schema))
                    }
                }
            }
            match pipeline.output {
                PipelineOutput::Exchange(edge) => {
                    assert_eq!(types(&input), types(&query.dataflow.edges[edge.0 as usize].schema))
                }
                PipelineOutput::Sink(sink) => assert_eq!(input, query.sinks[sink.0 as usize].schema),
            }
        }
    }
}
