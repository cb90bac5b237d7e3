//! The tables that a query writes, and the last operators before them.
//!
//! Owns: `SinkTable`s, metadata columns a sink takes, and how a PRIMARY KEY is kept unique: by proof, or by state.
//! Does not own: writing. Invariants: all rows of one key of a sink meet in one shard; a sink without
//! PRIMARY KEY gets no row that may be retracted.

use super::builder::{Builder, Flow, Merged, Target, merge_flows, rename};
use super::dependencies::Holds;
use super::formats;
use super::table::Table;
use super::unique::{proof, settles};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use highwater_connector_spec::{PlaceSpec, Use};
use highwater_dataflow::Op;
use highwater_dataflow::{CloseKey, OperatorInfo, PipelineInput, PipelineOutput, Upstream};
use highwater_operators::complete::CompleteSpec;
use highwater_operators::keyed_sink::KeyedSinkSpec;
use highwater_protocol::ids::{OperatorId, SinkId};
use highwater_protocol::options::OutputMode;
use highwater_sql::connectors::usable;
use highwater_sql::error::{Result, SqlError};
use highwater_sql::format_options::is_format_key;
use highwater_sql::metadata_columns::{METADATA, metadata_field};
use highwater_sql::options::QueryOptions;
use highwater_sql::table_def::Column;
use highwater_sql::tables::SinkTable;
use highwater_sql::types::type_name;
use highwater_sql::values::canonical;
use std::sync::Arc;

/// Checks a table that is written, and returns its sink.
pub fn sink_table(id: SinkId, table: &Table, options: &QueryOptions) -> Result<SinkTable> {
    let def = &table.def;
    let columns = def.written();
    let fields: Vec<Field> =
        columns.iter().map(|column| Field::new(&column.name.text, column.data_type.clone(), column.nullable)).collect();
    let schema = Arc::new(Schema::new(fields));
    check_place(table)?;
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
            format!("output_mode 'complete' rewrites all rows, and '{}' has a PRIMARY KEY", def.name.text),
        )
        .hint("use 'update': folded by key, the sink then holds the complete result; or drop the PRIMARY KEY"));
    }
    let connector = table.options.connector.clone();
    if !connector.is(Use::Sink) {
        return Err(SqlError::at(
            def.name.at,
            format!("table '{}' is {}: it cannot be written", def.name.text, connector.spec().title),
        )
        .hint(format!("write to {}", usable(Use::Sink))));
    }
    if let Some(key) = def.primary_key.as_ref().filter(|_| !connector.spec().takes_back) {
        let message =
            format!("'{}' has a PRIMARY KEY, and {} cannot retract rows", def.name.text, connector.spec().title);
        return Err(SqlError::at(key.at, message).hint("drop the PRIMARY KEY: rows are then appended once final"));
    }
    formats::check_written(table, &schema, &primary_key)?;
    Ok(SinkTable { id, name: def.name.text.clone(), schema, primary_key, mode, connector })
}

fn is_declared(table: &Table, name: &str) -> bool {
    table.def.written().iter().any(|column| column.name.text == name)
}

fn check_place(table: &Table) -> Result<()> {
    let def = &table.def;
    let connector = &table.options.connector;
    match &connector.spec().place {
        Some(PlaceSpec { option, column }) if connector.place().is_none() && !is_declared(table, column) => Err(
            SqlError::at(def.name.at, format!("table '{}' lacks the option '{option}'", def.name.text)).hint(format!(
                "add '{option}' = '<{option}>', or a column {column} STRING that names the {option} of each row"
            )),
        ),
        _ => Ok(()),
    }
}

fn check_metadata(table: &Table, column: &Column) -> Result<()> {
    let name = column.name.text.as_str();
    let wrong = |message: String| SqlError::at(column.name.at, message);
    if !METADATA.contains(&name) || !table.options.connector.spec().metadata {
        return Ok(());
    }
    if matches!(name, "_partition" | "_offset") {
        return Err(wrong(format!("'{name}' cannot be written: {} assigns it", table.options.connector.spec().title))
            .hint("declare it METADATA VIRTUAL, or give the column another name"));
    }
    if matches!(name, "_key" | "_topic") && table.def.primary_key.is_some() {
        let why = if name == "_key" { "the PRIMARY KEY is the record's key" } else { "a key has one topic" };
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
                "'{name}' is a metadata column of a {} sink and is {}, not {}",
                table.options.connector.spec().title,
                type_name(&expected),
                type_name(&column.data_type)
            );
            Err(wrong(message)
                .hint(format!("declare it {name} {}, or give the column another name", type_name(&expected))))
        }
        _ => Ok(()),
    }
}

/// Returns the columns of a table's PRIMARY KEY, in its order; empty without one.
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

/// Returns warnings for options and clauses that have no effect on a table that is only written.
pub fn idle_parts(table: &Table) -> Vec<String> {
    let name = &table.def.name.text;
    let spec = table.options.connector.spec();
    let is_sink = |key: &str| {
        let key = canonical(key);
        let of_sinks = spec.option(&key).is_some_and(|option| option.uses.contains(&Use::Sink));
        key == "connector" || is_format_key(&key) || of_sinks || spec.property(&key).is_some()
    };
    let options = table.def.options.iter().map(|entry| entry.key.as_str()).filter(|key| !is_sink(key));
    let mut idle: Vec<String> =
        options.map(|key| format!("option '{key}' of '{name}' does nothing: the table is only written")).collect();
    if table.def.watermark.is_some() {
        idle.push(format!("WATERMARK of '{name}' does nothing: the table is only written"));
    }
    idle
}

/// The flows of one INSERT.
pub struct Part<'a> {
    pub plan: &'a LogicalPlan,
    pub flows: Vec<Flow>,
    pub target: Target<'a>,
}

/// Connects the flows of all INSERTs into a sink with the sink.
pub fn connect(builder: &mut Builder<'_>, parts: Vec<Part<'_>>, sink: &SinkTable) -> Result<()> {
    if sink.mode != OutputMode::Complete && sink.primary_key.is_empty() {
        for part in &parts {
            check_final(part, sink)?;
        }
    }
    let keys = keys(builder, &parts, sink);
    let mut flows: Vec<Flow> = parts.into_iter().flat_map(|part| part.flows).collect();
    flows.iter_mut().for_each(|flow| rename(flow, &sink.schema));
    if sink.mode == OutputMode::Complete {
        complete(builder, flows, sink);
        return Ok(());
    }
    if sink.primary_key.is_empty() {
        flows.into_iter().for_each(|flow| builder.route(flow, PipelineOutput::Sink(sink.id)));
        return Ok(());
    }
    if keys != Keys::Together {
        consolidate(builder, flows, sink, keys);
        return Ok(());
    }
    let Merged { retracts, upstream } = merge_flows(&flows);
    let op = add_operator(builder, sink, upstream, keys);
    for mut flow in flows {
        flow.ops.push(keyed(builder, op, sink, keys, Merged { retracts, upstream: Vec::new() }));
        builder.route(flow, PipelineOutput::Sink(sink.id));
    }
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

/// What is proven about the keys of the rows of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// No two rows share a key, and all changes of a key come from one shard: needs no exchange and no state.
    Together,
    /// No two rows share a key at a commit: needs an exchange for the changes of a batch, but no state.
    Apart,
    /// Two rows may share a key, until the window in the key closes: needs an exchange, and state until then.
    SharedUntil(CloseKey),
    /// Two rows may share a key: needs an exchange and state.
    Shared,
}

fn keys(builder: &Builder<'_>, parts: &[Part<'_>], sink: &SinkTable) -> Keys {
    let proven = match parts {
        [part] if part.flows.len() == 1 => proof(part.plan, &sink.primary_key),
        _ => None,
    };
    match proven {
        Some(Holds::Always) => return Keys::Together,
        // A key that `state_ttl` has dropped retracts no row, so the old row may still be in the sink beside a new one.
        Some(Holds::AtCommits) if builder.ttl_ms.is_none() => return Keys::Apart,
        _ => {}
    }
    let close = |(group_index, column): (usize, &usize)| {
        let mut kinds = parts.iter().map(|part| settles(part.plan, *column));
        let kind = kinds.next()??;
        kinds.all(|other| other == Some(kind)).then_some(CloseKey { group_index, kind })
    };
    sink.primary_key.iter().enumerate().find_map(close).map_or(Keys::Shared, Keys::SharedUntil)
}

/// Adds an exchange by key and the operator of the keyed sink, which has state if two rows may share a key.
fn consolidate(builder: &mut Builder<'_>, flows: Vec<Flow>, sink: &SinkTable, keys: Keys) {
    let Merged { retracts: weighted, upstream } = merge_flows(&flows);
    let (stage, edge) = builder.add_exchange(sink.schema.clone(), sink.primary_key.clone(), weighted);
    flows.into_iter().for_each(|flow| builder.route(flow, PipelineOutput::Exchange(edge)));
    let op = add_operator(builder, sink, upstream.clone(), keys);
    let ops = vec![keyed(builder, op, sink, keys, Merged { retracts: weighted, upstream: upstream.clone() })];
    let schema: SchemaRef = sink.schema.clone();
    let inputs = vec![PipelineInput::Edge(edge)];
    let flow = Flow { stage, inputs, ops, schema, retracts: weighted, upstream };
    builder.route(flow, PipelineOutput::Sink(sink.id));
}

/// Adds an exchange by whole rows and the operator that keeps the complete result.
fn complete(builder: &mut Builder<'_>, flows: Vec<Flow>, sink: &SinkTable) {
    let Merged { retracts, upstream } = merge_flows(&flows);
    let all = (0..sink.schema.fields().len()).collect();
    let (stage, edge) = builder.add_exchange(sink.schema.clone(), all, retracts);
    flows.into_iter().for_each(|flow| builder.route(flow, PipelineOutput::Exchange(edge)));
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
    let ops = vec![Arc::new(CompleteSpec { op, schema: sink.schema.clone() }) as Op];
    let inputs = vec![PipelineInput::Edge(edge)];
    let flow = Flow { stage, inputs, ops, schema: sink.schema.clone(), retracts: false, upstream };
    builder.route(flow, PipelineOutput::Sink(sink.id));
}

fn keyed(builder: &Builder<'_>, op: OperatorId, sink: &SinkTable, keys: Keys, input: Merged) -> Op {
    let Merged { retracts, upstream } = input;
    let unique = matches!(keys, Keys::Together | Keys::Apart);
    let (close, watermark) = match keys {
        Keys::SharedUntil(close) => (Some(close), upstream),
        _ => (None, Vec::new()),
    };
    let (key, schema) = (sink.primary_key.clone(), sink.schema.clone());
    let on_conflict = builder.on_key_conflict.unwrap_or_default();
    Arc::new(KeyedSinkSpec { op, key, unique, close, watermark, schema, retracts, on_conflict })
}

fn description(sink: &SinkTable) -> String {
    let names: Vec<&str> = sink.primary_key.iter().map(|column| sink.schema.field(*column).name().as_str()).collect();
    format!("rows of {} by {}", sink.name, names.join(", "))
}

fn add_operator(builder: &mut Builder<'_>, sink: &SinkTable, upstream: Vec<Upstream>, keys: Keys) -> OperatorId {
    let sources = upstream.iter().map(|one| one.source).collect();
    let name = |close: CloseKey| sink.schema.field(sink.primary_key[close.group_index]).name();
    let bounded_by = match keys {
        Keys::Together | Keys::Apart => Some("its batch: a key has one row at most".to_string()),
        Keys::SharedUntil(close) => Some(format!("{}, by the watermark", name(close))),
        Keys::Shared => None,
    };
    let info = |id| OperatorInfo {
        id,
        name: "keyed sink".into(),
        description: description(sink),
        sources,
        bounded_by,
        closes_windows: false,
        clock_window: None,
        ttl_ms: None,
    };
    let keeps = "it keeps every key ever written, to find rows that share one; a PRIMARY KEY that determines all columns of a \
                 GROUP BY needs no state";
    builder.add_operator(info, keeps)
}
