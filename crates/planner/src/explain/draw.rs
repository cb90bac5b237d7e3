//! The dataflow as a drawing: a box for each stage, rows flowing down through its operators and over exchanges.
//!
//! Owns: lines and their order. Does not own: the words for operators (`explain`). Legend: `+` inserts only, `±` rows may be
//! retracted; the line below an operator with state names the state and its bound.

use super::{columns_read, output_text, sink_text};
use crate::query::CompiledQuery;
use highwater_dataflow::{OperatorInfo, Pipeline, PipelineInput, PipelineOutput, Stage, StageInput};
use highwater_protocol::ids::{EdgeId, OperatorId};
use highwater_sql::tables::SourceTable;
use std::fmt::{Result, Write};

/// Draws all stages, in the order in which rows go through them.
pub fn draw(query: &CompiledQuery, out: &mut String) -> Result {
    for (index, stage) in query.dataflow.stages.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "┌─ stage {}: {}", stage.id, place_text(query, stage))?;
        for (index, pipeline) in stage.pipelines.iter().enumerate() {
            if index > 0 {
                writeln!(out, "│")?;
            }
            draw_pipeline(query, stage, pipeline, out)?;
        }
        writeln!(out, "└─")?;
    }
    writeln!(out)?;
    for sink in &query.sinks {
        writeln!(out, "sink {}: {}, {}", sink.name, sink.connector.describe(), sink_text(sink))?;
    }
    writeln!(out, "─+▶ inserts only, ─±▶ inserts and retractions")
}

/// Describes where the stage runs, and how many tasks it has.
pub fn place_text(query: &CompiledQuery, stage: &Stage) -> String {
    match stage.input {
        StageInput::Source(_) => match source_of(query, stage) {
            Some(source) => format!("a task for each executor that reads partitions of {}", source.name),
            None => "a task for each executor that reads".into(),
        },
        StageInput::Shards => format!("{} shards, spread over all executors", query.options.shards),
    }
}

fn source_of<'a>(query: &'a CompiledQuery, stage: &Stage) -> Option<&'a SourceTable> {
    let StageInput::Source(id) = stage.input else { return None };
    query.sources.iter().find(|source| source.id == id)
}

fn draw_pipeline(query: &CompiledQuery, stage: &Stage, pipeline: &Pipeline, out: &mut String) -> Result {
    for (port, input) in pipeline.inputs.iter().enumerate() {
        let side = match (pipeline.inputs.len(), port) {
            (1, _) => "",
            (_, 0) => "left: ",
            _ => "right: ",
        };
        match input {
            PipelineInput::Source => writeln!(out, "│  {}", source_text(query, stage))?,
            PipelineInput::Edge(edge) => {
                let sign = sign(query, *edge);
                writeln!(out, "│  ─{sign}▶ {side}exchange {edge}, from {}", senders(query, *edge))?;
            }
        }
    }
    for op in &pipeline.ops {
        writeln!(out, "│    ▼ {}", op.describe())?;
        if let Some(state) = op.state()
            && let Some(info) = info(query, state.operator)
        {
            writeln!(out, "│        keeps {}", state_text(info, state.keeps))?;
        }
    }
    for sink in pipeline.late.iter().flatten() {
        writeln!(out, "│    late rows ─+▶ {}", output_text(query, PipelineOutput::Sink(*sink)))?;
    }
    let sign = match pipeline.output {
        PipelineOutput::Exchange(edge) => sign(query, edge),
        PipelineOutput::Sink(id) => match query.sinks.iter().find(|sink| sink.id == id) {
            Some(sink) if !sink.primary_key.is_empty() => '±',
            _ => '+',
        },
    };
    writeln!(out, "│  ─{sign}▶ {}", output_text(query, pipeline.output))
}

fn source_text(query: &CompiledQuery, stage: &Stage) -> String {
    let Some(source) = source_of(query, stage) else { return "source".into() };
    let watermark = source.watermark.as_ref().map_or(String::new(), |watermark| format!(", watermark {watermark}"));
    let reads = columns_read(source).join(", ");
    format!("source {}: {}, reads {reads}{watermark}", source.name, source.connector.describe())
}

fn sign(query: &CompiledQuery, edge: EdgeId) -> char {
    let weighted = query.dataflow.edges.iter().find(|one| one.id == edge).is_some_and(|edge| edge.weighted);
    if weighted { '±' } else { '+' }
}

/// Names the stages that send over an exchange.
fn senders(query: &CompiledQuery, edge: EdgeId) -> String {
    let stages: Vec<String> = query.dataflow.producers(edge).map(|stage| format!("stage {}", stage.id)).collect();
    stages.join(" and ")
}

fn info(query: &CompiledQuery, id: OperatorId) -> Option<&OperatorInfo> {
    query.dataflow.operators.iter().find(|info| info.id == id)
}

/// Describes the state of an operator, and its bound.
fn state_text(info: &OperatorInfo, keeps: &str) -> String {
    match &info.bounded_by {
        Some(bound) => format!("{keeps}, bounded by {bound}"),
        None => format!("{keeps}, UNBOUNDED: nothing ever frees them"),
    }
}
