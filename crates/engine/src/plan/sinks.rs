//! The tables a query writes, and the ends of its flows.
//!
//! Owns: `SinkTable`s, metadata columns a sink takes, and what keeps a PRIMARY KEY: a proof, or state.
//! Does not own: writing. Invariants: all rows of one key of a sink meet in one shard; a sink without
//! PRIMARY KEY gets no row that may be taken back.

use super::build::{Builder, Flow, Merged, Target, merge_flows, rename};
use super::catalog::Table;
use super::lineage::{group_key, key_width};
use crate::dataflow::{OpSpec, OperatorInfo, PipelineInput, PipelineOutput, Upstream};
use crate::query::{ConnectorOptions, SinkTable};
use crate::sql::ddl::Column;
use crate::sql::error::{Result, SqlError};
use crate::sql::options::QueryOptions;
use crate::sql::star::{METADATA, metadata_field};
use crate::sql::types::type_name;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use highwater_core::ids::{OperatorId, SinkId};
use highwater_core::options::OutputMode;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Checks a table as a sink.
pub fn sink_table(id: SinkId, table: &Table, options: &QueryOptions) -> Result<SinkTable> {
    let def = &table.def;
    let columns = def.written();
    let fields: Vec<Field> =
        columns.iter().map(|column| Field::new(&column.name.text, column.data_type.clone(), column.nullable)).collect();
    let schema = Arc::new(Schema::new(fields));
    check_topic(table)?;
    for column in &columns {
        check_metadata(table, column)?;
    }
    let primary_key = primary_key(table, &schema)?;
    let mode = match primary_key.is_empty() {
        true if options.output_mode == Some(OutputMode::Complete) => OutputMode::Complete,
        true => OutputMode::Append,
        false => options.output_mode.unwrap_or(OutputMode::Update),
    };
    if let (OutputMode::Complete, Some(key)) =
        (mode, table.def.primary_key.as_ref().filter(|_| !primary_key.is_empty()))
    {
        return Err(SqlError::at(
            key.at,
            format!("output_mode 'complete' writes all rows again, and '{}' has a PRIMARY KEY", def.name.text),
        )
        .hint("use 'update': folded by key, the sink then holds the complete result; or drop the PRIMARY KEY"));
    }
    let connector = table.options.connector.clone();
    if let ConnectorOptions::File(_) = connector {
        return Err(SqlError::at(
            def.name.at,
            format!("table '{}' is a file, which rows look up: it cannot be written", def.name.text),
        )
        .hint("write to 'connector' = 'kafka' or 'console'"));
    }
    Ok(SinkTable { id, name: def.name.text.clone(), schema, primary_key, mode, connector })
}

fn is_declared(table: &Table, name: &str) -> bool {
    table.def.written().iter().any(|column| column.name.text == name)
}

fn check_topic(table: &Table) -> Result<()> {
    let def = &table.def;
    match &table.options.connector {
        ConnectorOptions::Kafka(kafka) if kafka.topic.is_none() && !is_declared(table, "_topic") => {
            Err(SqlError::at(def.name.at, format!("table '{}' lacks the option 'topic'", def.name.text))
                .hint("add 'topic' = '<topic>', or a column _topic STRING that names the topic of each row"))
        }
        _ => Ok(()),
    }
}

fn check_metadata(table: &Table, column: &Column) -> Result<()> {
    let name = column.name.text.as_str();
    let wrong = |message: String| SqlError::at(column.name.at, message);
    if !METADATA.contains(&name) || table.options.connector == ConnectorOptions::Console {
        return Ok(());
    }
    if matches!(name, "_partition" | "_offset") {
        return Err(wrong(format!("'{name}' cannot be written: Kafka decides it"))
            .hint("declare it METADATA VIRTUAL, or give the column another name"));
    }
    if matches!(name, "_key" | "_topic") && table.def.primary_key.is_some() {
        let why = if name == "_key" { "the PRIMARY KEY is the record's key" } else { "a key lives in one topic" };
        return Err(wrong(format!("'{name}' in a sink with PRIMARY KEY is not supported in streaming yet: {why}"))
            .hint("drop the column, or the PRIMARY KEY"));
    }
    let expected = metadata_field(name).map(|field| field.data_type().clone());
    let is_right = match (name, &column.data_type) {
        ("_key", DataType::Utf8) | ("_timestamp", DataType::Timestamp(_, _)) => true,
        (_, declared) => expected.as_ref() == Some(declared),
    };
    match (is_right, expected) {
        (false, Some(expected)) => {
            let message = format!(
                "'{name}' is a metadata column of a Kafka sink and is {}, not {}",
                type_name(&expected),
                type_name(&column.data_type)
            );
            Err(wrong(message)
                .hint(format!("declare it {name} {}, or give the column another name", type_name(&expected))))
        }
        _ => Ok(()),
    }
}

/// The columns of a table's PRIMARY KEY, in its order; none without.
pub fn primary_key(table: &Table, schema: &Schema) -> Result<Vec<usize>> {
    let mut key = Vec::new();
    for name in table.def.primary_key.iter().flat_map(|key| &key.columns) {
        let Ok(index) = schema.index_of(&name.text) else {
            return Err(SqlError::at(
                name.at,
                format!("table '{}' has no column '{}'", table.def.name.text, name.text),
            ));
        };
        if METADATA.contains(&name.text.as_str()) {
            return Err(SqlError::at(
                name.at,
                format!("metadata column '{}' cannot be part of the PRIMARY KEY", name.text),
            ));
        }
        if key.contains(&index) {
            return Err(SqlError::at(name.at, format!("'{}' is in the PRIMARY KEY twice", name.text)));
        }
        key.push(index);
    }
    Ok(key)
}

/// What the WITH options and clauses of a table do nothing for, since it is only written.
pub fn idle_parts(table: &Table) -> Vec<String> {
    let name = &table.def.name.text;
    let is_sink = |key: &str| {
        matches!(key, "connector" | "format") || key.starts_with("kafka.") || key.eq_ignore_ascii_case("topic")
    };
    let is_servers = |key: &str| matches!(key, "bootstrap.servers" | "bootstrap_servers" | "bootstrapServers");
    let options =
        table.def.options.iter().map(|entry| entry.key.as_str()).filter(|key| !is_sink(key) && !is_servers(key));
    let mut idle: Vec<String> =
        options.map(|key| format!("option '{key}' of '{name}' does nothing: the table is only written")).collect();
    if table.def.watermark.is_some() {
        idle.push(format!("WATERMARK of '{name}' does nothing: the table is only written"));
    }
    idle
}

/// The rows of one INSERT.
pub struct Part<'a> {
    pub plan: &'a LogicalPlan,
    pub flows: Vec<Flow>,
    pub target: Target<'a>,
}

/// Leads the flows of all INSERTs into a sink to it.
pub fn connect(builder: &mut Builder<'_>, parts: Vec<Part<'_>>, sink: &SinkTable) -> Result<()> {
    if sink.mode != OutputMode::Complete && sink.primary_key.is_empty() {
        for part in &parts {
            check_final(part, sink)?;
        }
    }
    let is_unique =
        matches!(parts.as_slice(), [part] if part.flows.len() == 1 && is_unique(part.plan, &sink.primary_key));
    let mut flows: Vec<Flow> = parts.into_iter().flat_map(|part| part.flows).collect();
    flows.iter_mut().for_each(|flow| rename(flow, &sink.schema));
    if sink.mode == OutputMode::Complete {
        complete(builder, flows, sink);
        return Ok(());
    }
    if sink.primary_key.is_empty() {
        flows.into_iter().for_each(|flow| builder.lead(flow, PipelineOutput::Sink(sink.id)));
        return Ok(());
    }
    if is_unique {
        let op = add_operator(builder, sink, merge_flows(&flows).upstream, true);
        for mut flow in flows {
            flow.ops.push(keyed(op, sink, true));
            builder.lead(flow, PipelineOutput::Sink(sink.id));
        }
        return Ok(());
    }
    consolidate(builder, flows, sink);
    Ok(())
}

fn check_final(part: &Part<'_>, sink: &SinkTable) -> Result<()> {
    if !part.flows.iter().any(|flow| flow.retracts) {
        return Ok(());
    }
    let message = format!("'{}' takes appended, final rows, and this query corrects rows it has written", sink.name);
    Err(SqlError::at(part.target.at, message).hint(
        "add PRIMARY KEY (…) NOT ENFORCED to it, or group by a window (TUMBLE, HOP, …) over a table with WATERMARK",
    ))
}

/// Each row is a group of one aggregate or a key of one table, and the sink's key shows all of its columns: then no two
/// rows share a key, and all changes of a key come from the shard that holds its group. No exchange is needed.
fn is_unique(plan: &LogicalPlan, key: &[usize]) -> bool {
    let Some(width) = key_width(plan) else { return false };
    let shown: BTreeSet<usize> = key.iter().filter_map(|column| group_key(plan, *column)).collect();
    shown.len() == width
}

/// Brings the rows of each key together, and keeps them.
fn consolidate(builder: &mut Builder<'_>, flows: Vec<Flow>, sink: &SinkTable) {
    let Merged { retracts: weighted, upstream } = merge_flows(&flows);
    let (stage, edge) = builder.add_exchange(sink.schema.clone(), sink.primary_key.clone(), weighted);
    flows.into_iter().for_each(|flow| builder.lead(flow, PipelineOutput::Exchange(edge)));
    let op = add_operator(builder, sink, upstream.clone(), false);
    let ops = vec![keyed(op, sink, false)];
    let schema: SchemaRef = sink.schema.clone();
    let inputs = vec![PipelineInput::Edge(edge)];
    let flow = Flow { stage, inputs, ops, schema, retracts: weighted, upstream };
    builder.lead(flow, PipelineOutput::Sink(sink.id));
}

/// Brings equal rows together, and keeps all.
fn complete(builder: &mut Builder<'_>, flows: Vec<Flow>, sink: &SinkTable) {
    let Merged { retracts, upstream } = merge_flows(&flows);
    let all = (0..sink.schema.fields().len()).collect();
    let (stage, edge) = builder.add_exchange(sink.schema.clone(), all, retracts);
    flows.into_iter().for_each(|flow| builder.lead(flow, PipelineOutput::Exchange(edge)));
    let info = |id| OperatorInfo {
        id,
        name: "complete result".into(),
        description: format!("all rows of {}", sink.name),
        sources: upstream.iter().map(|one| one.source).collect(),
        bounded_by: Some("the size of the result".into()),
        closes_windows: false,
        clock_window: None,
        ttl_ms: None,
    };
    let op = builder.add_operator(info, "it keeps the whole result");
    let ops = vec![OpSpec::Complete { op, schema: sink.schema.clone() }];
    let inputs = vec![PipelineInput::Edge(edge)];
    let flow = Flow { stage, inputs, ops, schema: sink.schema.clone(), retracts: false, upstream };
    builder.lead(flow, PipelineOutput::Sink(sink.id));
}

fn keyed(op: OperatorId, sink: &SinkTable, unique: bool) -> OpSpec {
    OpSpec::KeyedSink { op, key: sink.primary_key.clone(), unique, schema: sink.schema.clone() }
}

fn description(sink: &SinkTable) -> String {
    let names: Vec<&str> = sink.primary_key.iter().map(|column| sink.schema.field(*column).name().as_str()).collect();
    format!("rows of {} by {}", sink.name, names.join(", "))
}

fn add_operator(builder: &mut Builder<'_>, sink: &SinkTable, upstream: Vec<Upstream>, unique: bool) -> OperatorId {
    let sources = upstream.iter().map(|one| one.source).collect();
    let info = |id| OperatorInfo {
        id,
        name: "keyed sink".into(),
        description: description(sink),
        sources,
        bounded_by: unique.then(|| "its batch: a key has one row at most".to_string()),
        closes_windows: false,
        clock_window: None,
        ttl_ms: None,
    };
    let keeps = "it keeps every key ever written, to find two rows under one; a PRIMARY KEY of all columns of a GROUP BY \
                 needs none";
    builder.add_operator(info, keeps)
}
