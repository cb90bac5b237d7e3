//! A compiled query for people: as text, and as JSON.
//!
//! Owns: the words for operators, stages and tables, and the JSON. Does not own: what they do, the drawing (`draw`).
//! Invariant: no connector property is shown, since any of them may be a secret.

mod draw;

use crate::dataflow::{
    AggregateSpec, CallSpec, Edge, EmitMode, GeneralSpec, JoinOutput, JoinSpec, Keeps, LookupSpec, OpSpec,
    OperatorInfo, OverSpec, Pipeline, PipelineInput, PipelineOutput, Rank, RankLimit, SessionSpec, Stage, StageInput,
    TemporalSpec, TimedSide, UpsertSpec,
};
use crate::query::{CompiledQuery, ConnectorOptions, SinkTable, SourceTable};
use crate::sql::types::type_name;
use crate::sql::values::duration_text;
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use highwater_core::options::OutputMode;
use regex::{Captures, Regex};
use serde_json::{Value, json};
use std::sync::Arc;

impl CompiledQuery {
    /// The plan, drawn from its sources to its sinks.
    pub fn explain_text(&self) -> String {
        let mut out = String::new();
        // Writing into a string never fails.
        let _ = draw::draw(self, &mut out);
        intervals_in_words(&out)
    }

    /// The plan as JSON, names in camelCase.
    pub fn explain_json(&self) -> Value {
        json!({
            "shards": self.options.shards,
            "trigger": self.options.trigger,
            "sources": self.sources.iter().map(source_json).collect::<Vec<_>>(),
            "stages": self.dataflow.stages.iter().map(|stage| stage_json(self, stage)).collect::<Vec<_>>(),
            "exchanges": self.dataflow.edges.iter().map(|edge| edge_json(self, edge)).collect::<Vec<_>>(),
            "operators": self.dataflow.operators.iter().map(|info| operator_json(self, info)).collect::<Vec<_>>(),
            "sinks": self.sinks.iter().map(sink_json).collect::<Vec<_>>(),
            "warnings": self.warnings,
            "fingerprint": self.fingerprint(),
        })
    }
}

fn columns_read(source: &SourceTable) -> Vec<&str> {
    source.columns_used.iter().map(|column| source.schema.field(*column).name().as_str()).collect()
}

fn connector_text(connector: &ConnectorOptions) -> String {
    match connector {
        ConnectorOptions::Console => "console".into(),
        ConnectorOptions::File(file) => format!("file {}", file.path),
        ConnectorOptions::Kafka(kafka) => match &kafka.topic {
            Some(topic) => format!("kafka topic {topic}"),
            None => "kafka topic by _topic".into(),
        },
    }
}

fn sink_text(sink: &SinkTable) -> String {
    match sink.primary_key.is_empty() {
        true if sink.mode == OutputMode::Complete => "the whole result at every batch".into(),
        true => "appended".into(),
        false => format!("keyed by {}", names(&sink.schema, &sink.primary_key)),
    }
}

/// One operator in one line.
pub fn op_text(op: &OpSpec) -> String {
    match op {
        OpSpec::Filter(predicate) => format!("filter {predicate}"),
        OpSpec::Project { exprs, schema } => format!("project {}", named(exprs, schema)),
        OpSpec::PartialAggregate { op, spec } => format!("partial aggregate {op}: {}", aggregate_text(spec)),
        OpSpec::FinalAggregate { op, spec, emit } => {
            let when = when_text(*emit);
            let keys: Vec<&str> = spec.group_schema.fields().iter().map(|field| field.name().as_str()).collect();
            match keys.is_empty() {
                true => format!("final aggregate {op}: gives its row at {when}"),
                false => format!("final aggregate {op}: by {}, gives a group {when}", keys.join(", ")),
            }
        }
        OpSpec::Expand { lists, schema } => {
            let lists: Vec<String> = lists.iter().map(|list| format!("({})", named(list, schema))).collect();
            format!("expand to {}", lists.join(", "))
        }
        OpSpec::Session { op, spec } => format!("session {op}: {}", session_text(spec)),
        OpSpec::Upsert { op, spec } => format!("keyed source {op}: {}", upsert_text(spec)),
        OpSpec::Temporal { op, spec } => format!("temporal join {op}: {}", temporal_text(spec)),
        OpSpec::Lookup(spec) => format!("look up {}", lookup_text(spec)),
        OpSpec::Unnest(spec) => {
            format!("unnest to {}", names(&spec.schema, &(0..spec.columns.len()).collect::<Vec<_>>()))
        }
        OpSpec::GeneralAggregate { op, spec } => format!("aggregate {op}: {}", general_text(spec)),
        OpSpec::Join { op, spec } => format!("{} {op}: {}", join_name(spec), join_text(spec)),
        OpSpec::Over { op, spec } => format!("{} {op}: {}", over_name(spec), over_text(spec)),
        OpSpec::Complete { op, .. } => format!("complete result {op}: all rows at every batch"),
        OpSpec::KeyedSink { op, key, unique, schema, .. } => {
            let how = if *unique { "keys are unique" } else { "keeps the rows of each key" };
            format!("keyed sink {op}: by {}, {how}", names(schema, key))
        }
    }
}

fn when_text(emit: EmitMode) -> &'static str {
    match emit {
        EmitMode::Updates => "every change",
        EmitMode::OnClose => "when its window closes",
        EmitMode::OnFirst => "when first seen",
    }
}

fn general_text(spec: &GeneralSpec) -> String {
    let call = |call: &CallSpec| {
        let distinct = if call.distinct { "DISTINCT " } else { "" };
        let order = match call.order.is_empty() {
            true => String::new(),
            false => format!(" ORDER BY {}", order_text(&spec.input_schema, &call.order)),
        };
        let filter =
            call.filter.map_or(String::new(), |column| format!(" FILTER {}", names(&spec.input_schema, &[column])));
        let nulls = if call.function.ignore_nulls() { " IGNORE NULLS" } else { "" };
        let keeps = match call.keeps {
            Keeps::Nothing => "",
            Keeps::Distinct => " keeping distinct values",
            Keeps::Least | Keeps::Greatest | Keeps::All => " keeping all values",
        };
        let arguments = names(&spec.input_schema, &call.arguments);
        format!("{}({distinct}{arguments}{order}){nulls}{filter}{keeps}", call.function.fun().name())
    };
    let calls: Vec<String> = spec.calls.iter().map(call).collect();
    let calls = if calls.is_empty() { "distinct".to_string() } else { calls.join(", ") };
    let keys: Vec<usize> = (0..spec.group_width).collect();
    match keys.is_empty() {
        true => format!("{calls} over all rows, gives its row at {}", when_text(spec.emit)),
        false => format!("{calls} by {}, gives a group {}", names(&spec.input_schema, &keys), when_text(spec.emit)),
    }
}

/// What SQL calls this join.
pub fn join_name(spec: &JoinSpec) -> &'static str {
    match spec.output {
        JoinOutput::Pairs { unmatched: [false, false] } if spec.sides[0].key.is_empty() => "cross join",
        JoinOutput::Pairs { unmatched: [false, false] } => "inner join",
        JoinOutput::Pairs { unmatched: [true, false] } => "left join",
        JoinOutput::Pairs { unmatched: [false, true] } => "right join",
        JoinOutput::Pairs { unmatched: [true, true] } => "full join",
        JoinOutput::Semi => "semi join",
        JoinOutput::Anti => "anti join",
        JoinOutput::Mark => "mark join",
    }
}

/// The join's condition and what it keeps.
pub fn join_text(spec: &JoinSpec) -> String {
    let [left, right] = &spec.sides;
    let equal = if spec.null_equal { " IS NOT DISTINCT FROM " } else { " = " };
    let pairs = left.key.iter().zip(&right.key);
    let mut on: Vec<String> = pairs
        .map(|(l, r)| format!("{}{equal}{}", left.schema.field(*l).name(), right.schema.field(*r).name()))
        .collect();
    on.extend(spec.filter.as_ref().map(|filter| filter.to_string()));
    let on = if on.is_empty() { "all pairs".to_string() } else { format!("on {}", on.join(" AND ")) };
    let when = if spec.on_close { ", unmatched rows when their time is over" } else { "" };
    format!("{on}{when}")
}

/// Keys, condition and what is read.
fn lookup_text(spec: &LookupSpec) -> String {
    let exprs = |exprs: &[Arc<dyn PhysicalExpr>]| exprs.iter().map(|e| e.to_string()).collect::<Vec<_>>().join(", ");
    let filter = spec.filter.as_ref().map_or(String::new(), |filter| format!(" if {filter}"));
    let nulls = if spec.null_equal { " with NULLs" } else { "" };
    let (mine, theirs) = (exprs(&spec.stream_key), exprs(&spec.lookup_key));
    let plan = spec.lookup.plan().display_indent().to_string().replace("\n", ";");
    format!("({mine}) as ({theirs}){nulls}{filter}, {:?}, in {plan}", spec.output)
}

/// The key by which records replace one another, and what is kept of them.
pub fn upsert_text(spec: &UpsertSpec) -> String {
    let kept: Vec<usize> = (0..spec.width).collect();
    format!("by {}: the last {}", names(&spec.input_schema, &spec.key), names(&spec.input_schema, &kept))
}

/// Keys, times and conditions, and when rows go on.
pub fn temporal_text(spec: &TemporalSpec) -> String {
    let (rows, versions) = (&spec.rows, &spec.versions);
    let pairs = rows.key.iter().zip(&versions.timed.key);
    let on =
        pairs.map(|(l, r)| format!("{} = {}", rows.schema.field(*l).name(), versions.timed.schema.field(*r).name()));
    let on: Vec<String> = on.chain(spec.filter.as_ref().map(|filter| filter.to_string())).collect();
    let of = |side: &TimedSide| side.schema.field(side.time).name().clone();
    let ties = match versions.order.is_empty() {
        true => String::new(),
        false => format!(", ties by {}", order_text(&versions.timed.schema, &versions.order)),
    };
    let conditions: Vec<String> = versions.conditions.iter().map(|condition| condition.to_string()).collect();
    let there = if conditions.is_empty() { String::new() } else { format!(" if {}", conditions.join(" and ")) };
    let kind = if spec.keeps_unmatched { "left" } else { "inner" };
    let when = if spec.on_close { "when the watermark has passed them" } else { "at once, with corrections" };
    format!(
        "{kind} on {}, the version of {} by {}{ties}{there}, gives rows {when}",
        on.join(" AND "),
        of(rows),
        of(&versions.timed)
    )
}

/// Keys, gap, and when rows go on.
pub fn session_text(spec: &SessionSpec) -> String {
    let keys = match spec.partition.is_empty() {
        true => String::new(),
        false => format!("of each {}, ", names(&spec.input_schema, &spec.partition)),
    };
    let time = spec.input_schema.field(spec.time).name();
    let when = if spec.on_close { "when the session closes" } else { "every change" };
    format!("{keys}by {time} with a gap of {} ms, gives rows {when}", spec.gap_ms)
}

/// What SQL users call this use of OVER.
pub fn over_name(spec: &OverSpec) -> &'static str {
    match spec.limit {
        Some(RankLimit { rank: Rank::RowNumber, most: 1, .. }) => "deduplicate",
        Some(_) => "top-n",
        None => "over",
    }
}

/// Partitions, order and functions.
pub fn over_text(spec: &OverSpec) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(limit) = spec.limit {
        let rank = match limit.rank {
            Rank::RowNumber => "rows",
            Rank::Rank => "ranks",
            Rank::DenseRank => "dense ranks",
        };
        let skip = if limit.skip > 0 { format!(" without the first {}", limit.skip) } else { String::new() };
        parts.push(format!("first {} {rank}{skip}", limit.most));
    }
    let functions: Vec<&str> = spec.functions.iter().map(|function| function.name()).collect();
    if !functions.is_empty() && spec.limit.is_none() {
        parts.push(functions.join(", "));
    }
    if !spec.partition.is_empty() {
        parts.push(format!("of each {}", names(&spec.input_schema, &spec.partition)));
    }
    if !spec.order.is_empty() {
        parts.push(format!("by {}", order_text(&spec.input_schema, &spec.order)));
    }
    parts.join(" ")
}

fn order_text(schema: &Schema, order: &[(usize, SortOptions)]) -> String {
    let one = |(column, options): &(usize, SortOptions)| {
        let direction = if options.descending { " DESC" } else { "" };
        format!("{}{direction}", schema.field(*column).name())
    };
    order.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn aggregate_text(spec: &AggregateSpec) -> String {
    let calls = spec.aggregates.iter().zip(&spec.filters).map(|(call, filter)| {
        let args: Vec<String> = call.expressions().iter().map(|expr| expr.to_string()).collect();
        let distinct = if call.is_distinct() { "DISTINCT " } else { "" };
        let nulls = if call.ignore_nulls() { " IGNORE NULLS" } else { "" };
        let filter = filter.as_ref().map_or(String::new(), |filter| format!(" FILTER {filter}"));
        format!("{}({distinct}{}){nulls}{filter}", call.fun().name(), args.join(", "))
    });
    let calls: Vec<String> = calls.collect();
    let calls = if calls.is_empty() { "distinct".to_string() } else { calls.join(", ") };
    match spec.group.is_empty() {
        true => format!("{calls} over all rows"),
        false => format!("{calls} by {}", named(&spec.group, &spec.group_schema)),
    }
}

fn named(exprs: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) -> String {
    let named = exprs.iter().zip(schema.fields()).map(|(expr, field)| format!("{expr} AS {}", field.name()));
    named.collect::<Vec<_>>().join(", ")
}

fn names(schema: &Schema, columns: &[usize]) -> String {
    columns.iter().map(|column| schema.field(*column).name().as_str()).collect::<Vec<_>>().join(", ")
}

/// Where a pipeline leads.
pub fn output_text(query: &CompiledQuery, output: PipelineOutput) -> String {
    match output {
        PipelineOutput::Sink(id) => match query.sinks.iter().find(|sink| sink.id == id) {
            Some(sink) => format!("sink {}", sink.name),
            None => format!("sink {id}"),
        },
        PipelineOutput::Exchange(id) => match query.dataflow.edges.iter().find(|edge| edge.id == id) {
            Some(edge) => {
                let rows = if edge.weighted { "rows may be taken back" } else { "append-only" };
                match edge.key.is_empty() {
                    true => format!("exchange {id}, all to one shard, {rows}"),
                    false => format!("exchange {id} by hash of {}, {rows}", names(&edge.schema, &edge.key)),
                }
            }
            None => format!("exchange {id}"),
        },
    }
}

fn columns_json(schema: &Schema) -> Vec<Value> {
    let column =
        |field: &Arc<arrow::datatypes::Field>| json!({"name": field.name(), "type": type_name(field.data_type())});
    schema.fields().iter().map(column).collect()
}

fn topic(connector: &ConnectorOptions) -> Option<&str> {
    match connector {
        ConnectorOptions::Kafka(kafka) => kafka.topic.as_deref(),
        ConnectorOptions::Console | ConnectorOptions::File(_) => None,
    }
}

fn connector_name(connector: &ConnectorOptions) -> &'static str {
    match connector {
        ConnectorOptions::Kafka(_) => "kafka",
        ConnectorOptions::Console => "console",
        ConnectorOptions::File(_) => "filesystem",
    }
}

fn source_json(source: &SourceTable) -> Value {
    json!({
        "table": source.name,
        "connector": connector_name(&source.connector),
        "topic": topic(&source.connector),
        "columnsRead": columns_read(source),
        "watermark": source.watermark.as_ref().map(|watermark| watermark.to_string()),
    })
}

fn sink_json(sink: &SinkTable) -> Value {
    let key: Vec<&str> = sink.primary_key.iter().map(|column| sink.schema.field(*column).name().as_str()).collect();
    json!({
        "table": sink.name,
        "connector": connector_name(&sink.connector),
        "topic": topic(&sink.connector),
        "columns": columns_json(&sink.schema),
        "primaryKey": key,
        "outputMode": sink.mode,
    })
}

/// Rows from some stages to another.
fn edge_json(query: &CompiledQuery, edge: &Edge) -> Value {
    json!({
        "id": edge.id,
        "from": query.dataflow.producers(edge.id).map(|stage| stage.id).collect::<Vec<_>>(),
        "to": query.dataflow.consumer(edge.id).map(|stage| stage.id),
        "key": edge.key.iter().map(|column| edge.schema.field(*column).name().as_str()).collect::<Vec<_>>(),
        "columns": columns_json(&edge.schema),
        "retracting": edge.weighted,
    })
}

fn operator_json(query: &CompiledQuery, operator: &OperatorInfo) -> Value {
    let ops = query
        .dataflow
        .stages
        .iter()
        .flat_map(|stage| stage.pipelines.iter().flat_map(|pipeline| &pipeline.ops).map(move |op| (stage.id, op)));
    let keeper = ops.into_iter().find(|(_, op)| op.state().is_some_and(|(id, _)| id == operator.id));
    json!({
        "stage": keeper.map(|(stage, _)| stage),
        "keeps": keeper.map(|(_, op)| draw::kept_text(operator, op)),
        "stateTtlMs": operator.ttl_ms,
        "id": operator.id,
        "name": operator.name,
        "description": operator.description,
        "boundedBy": operator.bounded_by,
        "closesWindows": operator.closes_windows,
    })
}

fn stage_json(query: &CompiledQuery, stage: &Stage) -> Value {
    let pipeline = |pipeline: &Pipeline| {
        let edges = pipeline.inputs.iter().filter_map(|input| match input {
            PipelineInput::Source => None,
            PipelineInput::Edge(edge) => Some(*edge),
        });
        json!({
            "exchanges": edges.collect::<Vec<_>>(),
            "operators": pipeline.ops.iter().map(op_text).collect::<Vec<_>>(),
            "output": output_text(query, pipeline.output),
            "lateRows": pipeline.late.iter().flatten().map(|sink| output_text(query, PipelineOutput::Sink(*sink))).collect::<Vec<_>>(),
        })
    };
    json!({
        "id": stage.id,
        "input": draw::place_text(query, stage),
        "shards": (stage.input == StageInput::Shards).then_some(query.options.shards),
        "pipelines": stage.pipelines.iter().map(pipeline).collect::<Vec<_>>(),
    })
}

/// DataFusion shows an interval as its fields; people read `INTERVAL '5 seconds'`. Those with months stay as they are.
fn intervals_in_words(text: &str) -> String {
    let fields = Regex::new(r"IntervalMonthDayNano \{ months: 0, days: (-?\d+), nanoseconds: (-?\d+) \}");
    // The pattern is a constant, and a good one.
    let Ok(fields) = fields else { return text.to_string() };
    let in_words = |found: &Captures<'_>| {
        let number = |place: usize| found[place].parse::<i64>().unwrap_or_default();
        let ms = number(1).saturating_mul(86_400_000).saturating_add(number(2) / 1_000_000);
        let sign = if ms < 0 { "-" } else { "" };
        format!("INTERVAL '{sign}{}'", duration_text(ms.unsigned_abs()))
    };
    fields.replace_all(text, in_words).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_told_in_words() {
        let fields = |days: i64, nanos: i64| {
            format!("ts@3 - IntervalMonthDayNano {{ months: 0, days: {days}, nanoseconds: {nanos} }}")
        };
        assert_eq!(intervals_in_words(&fields(0, 5_000_000_000)), "ts@3 - INTERVAL '5 seconds'");
        assert_eq!(intervals_in_words(&fields(1, 0)), "ts@3 - INTERVAL '1 day'");
        assert_eq!(intervals_in_words(&fields(0, -60_000_000_000)), "ts@3 - INTERVAL '-1 minute'");
        assert_eq!(intervals_in_words("no interval"), "no interval");
    }
}
