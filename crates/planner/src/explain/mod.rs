//! Describes a compiled query for people, as text and as JSON.
//!
//! Owns: the words for stages and tables, and the JSON. Does not own: descriptions of operators (crate `operators`), the
//! drawing (`draw`).
//! Invariant: no connector property is shown, since any of them may be a secret.

mod draw;
mod steps;

pub use steps::StepText;

use crate::query::CompiledQuery;
use arrow::datatypes::Schema;
use highwater_dataflow::{Edge, OperatorInfo, Pipeline, PipelineInput, PipelineOutput, Stage, StageInput, words};
use highwater_protocol::options::OutputMode;
use highwater_sql::tables::{SinkTable, SourceTable};
use highwater_sql::types::type_name;
use highwater_sql::values::duration_text;
use regex::{Captures, Regex};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

impl CompiledQuery {
    /// Draws the plan from its sources to its sinks.
    pub fn explain_text(&self) -> String {
        let mut out = String::new();
        // Writing into a string never fails.
        let _ = draw::draw(self, &mut out);
        intervals_in_words(&out)
    }

    /// Returns the plan as JSON, names in camelCase.
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

fn sink_text(sink: &SinkTable) -> String {
    match sink.primary_key.is_empty() {
        true if sink.mode == OutputMode::Complete => "the whole result at every batch".into(),
        true => "appended".into(),
        false => format!("keyed by {}", words::names(&sink.schema, &sink.primary_key)),
    }
}

/// Names the sink or the exchange that a pipeline sends to.
pub fn output_text(query: &CompiledQuery, output: PipelineOutput) -> String {
    match output {
        PipelineOutput::Sink(id) => match query.sinks.iter().find(|sink| sink.id == id) {
            Some(sink) => format!("sink {}", sink.name),
            None => format!("sink {id}"),
        },
        PipelineOutput::Exchange(id) => match query.dataflow.edges.iter().find(|edge| edge.id == id) {
            Some(edge) => {
                let rows = if edge.weighted { "with retractions" } else { "append-only" };
                match edge.key.is_empty() {
                    true => format!("exchange {id}, all to one shard, {rows}"),
                    false => format!("exchange {id} by hash of {}, {rows}", words::names(&edge.schema, &edge.key)),
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

fn source_json(source: &SourceTable) -> Value {
    json!({
        "table": source.name,
        "connector": source.connector.name(),
        "topic": source.connector.place(),
        "columnsRead": columns_read(source),
        "watermark": source.watermark.as_ref().map(|watermark| watermark.to_string()),
    })
}

fn sink_json(sink: &SinkTable) -> Value {
    let key: Vec<&str> = sink.primary_key.iter().map(|column| sink.schema.field(*column).name().as_str()).collect();
    json!({
        "table": sink.name,
        "connector": sink.connector.name(),
        "topic": sink.connector.place(),
        "columns": columns_json(&sink.schema),
        "primaryKey": key,
        "outputMode": sink.mode,
    })
}

/// Describes an exchange between stages.
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
    let keeper = ops.into_iter().find(|(_, op)| op.state().is_some_and(|state| state.operator == operator.id));
    json!({
        "stage": keeper.map(|(stage, _)| stage),
        "keeps": keeper.and_then(|(_, op)| op.state()).map(|state| state.keeps),
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
            "operators": pipeline.ops.iter().map(|op| op.describe()).collect::<Vec<_>>(),
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

/// Replaces intervals as DataFusion shows them, by their fields, with `INTERVAL '5 seconds'`. Intervals with months stay.
fn intervals_in_words(text: &str) -> String {
    // The pattern is a constant that compiles.
    static FIELDS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"IntervalMonthDayNano \{ months: 0, days: (-?\d+), nanoseconds: (-?\d+) \}").ok());
    let Some(fields) = FIELDS.as_ref() else { return text.to_string() };
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
