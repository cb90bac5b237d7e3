//! The dataflow that a script compiles to: stages of pipelines, connected by exchanges.
//!
//! Owns: the types that the SQL frontend builds and the runtime executes. Does not own: either.
//! Invariants: stages come before the stages they feed; a pipeline ends in exactly one exchange or sink; every
//! stateful operator has an entry in `operators` and runs in a shards stage.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod changelog;
pub mod error;
pub mod runtime;
pub mod state;
mod times;
pub mod words;

pub use runtime::operator;
pub use runtime::operator::{Op, OperatorSpec};
pub use times::*;

use crate::error::EngineError;
use crate::state::closes_at;
use arrow::datatypes::SchemaRef;
use highwater_protocol::ids::{EdgeId, OperatorId, SinkId, SourceId, StageId};
use highwater_protocol::query::{ClockWindow, StageInput as CoreInput, StageTopology};

/// All INSERTs of a script. Indexes of `stages` and `edges` are their ids.
#[derive(Clone, Debug, Default)]
pub struct Dataflow {
    pub stages: Vec<Stage>,
    pub edges: Vec<Edge>,
    pub operators: Vec<OperatorInfo>,
}

/// A stateful operator, for progress and explain.
#[derive(Clone, Debug)]
pub struct OperatorInfo {
    pub id: OperatorId,
    /// Short name, as Spark has them: `aggregate`, `keyed sink`.
    pub name: String,
    /// Its state, in words.
    pub description: String,
    /// Sources whose rows reach it. Its watermark is the lowest of theirs.
    pub sources: Vec<SourceId>,
    /// The bound of its state, in words; `None` = it has none.
    pub bounded_by: Option<String>,
    /// True if it closes windows as the watermark passes them.
    pub closes_windows: bool,
    /// The windows over the batch clock whose rows it emits when they close; `None` = it has none.
    pub clock_window: Option<ClockWindow>,
    /// Milliseconds after its last write at which state expires (`state_ttl`). `None` = never, or something else bounds it.
    pub ttl_ms: Option<i64>,
}

/// Tasks of one kind: over partitions of a source, or over shards.
#[derive(Clone, Debug)]
pub struct Stage {
    pub id: StageId,
    pub input: StageInput,
    pub pipelines: Vec<Pipeline>,
    /// Sinks this stage's pipelines write, each once.
    pub sinks: Vec<SinkId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageInput {
    Source(SourceId),
    /// Shards, whose rows come over the edges that its pipelines name.
    Shards,
}

/// A chain of operators to one output. Its inputs are those of the first operator, in order; only joins have two.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub inputs: Vec<PipelineInput>,
    /// For each input, the sink of rows that an operator drops as late; `None`, or an empty list, = they are only counted.
    pub late: Vec<Option<SinkId>>,
    pub ops: Vec<Op>,
    pub output: PipelineOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineInput {
    /// Decoded batches of the stage's source, with the columns of its layout.
    Source,
    Edge(EdgeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineOutput {
    Exchange(EdgeId),
    Sink(SinkId),
}

/// When an aggregate emits rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitMode {
    /// At every change of a group: the old row with weight −1, the new one with +1.
    Updates,
    /// Once for a group, when its window closes.
    OnClose,
    /// Once for a group, when it is first seen; for aggregates without functions (DISTINCT).
    OnFirst,
}

/// A hash exchange between two stages.
#[derive(Clone, Debug)]
pub struct Edge {
    pub id: EdgeId,
    pub schema: SchemaRef,
    /// Columns whose hash determines the shard; empty = all rows go to one shard.
    pub key: Vec<usize>,
    /// True if rows have weights.
    pub weighted: bool,
}

/// How the close time of a group follows from one of its columns, a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseKey {
    pub group_index: usize,
    pub kind: CloseKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseKind {
    /// The column is the exclusive end of the window.
    WindowEnd,
    /// The column is the start of a window of this size.
    WindowStart { size_ms: i64 },
    /// The column is the event time itself.
    EventTime,
}

impl CloseKind {
    /// Returns the watermark at which the group closes, in milliseconds, given the column's value in milliseconds.
    pub fn closes_at_ms(self, value_ms: i64) -> i64 {
        closes_at(match self {
            CloseKind::WindowEnd => value_ms,
            CloseKind::WindowStart { size_ms } => value_ms.saturating_add(size_ms),
            CloseKind::EventTime => value_ms.saturating_add(1),
        })
    }
}

impl Dataflow {
    /// Returns the stages in the form that the driver plans batches with.
    pub fn topology(&self) -> Vec<StageTopology> {
        let input = |stage: &Stage| match stage.input {
            StageInput::Source(source) => CoreInput::Source(source),
            StageInput::Shards => CoreInput::Shards,
        };
        self.stages
            .iter()
            .map(|stage| StageTopology { id: stage.id, input: input(stage), sinks: stage.sinks.clone() })
            .collect()
    }

    /// True if any operator closes windows.
    pub fn closes_windows(&self) -> bool {
        self.operators.iter().any(|operator| operator.closes_windows)
    }

    /// Returns the windows that the batch clock closes, even without records.
    pub fn clock_windows(&self) -> Vec<(OperatorId, ClockWindow)> {
        self.operators.iter().filter_map(|operator| Some((operator.id, operator.clock_window?))).collect()
    }

    /// Returns the edge with this id.
    ///
    /// # Errors
    /// If there is none.
    pub fn edge(&self, id: EdgeId) -> Result<&Edge, EngineError> {
        self.edges.get(id.0 as usize).ok_or(EngineError::UnknownEdge(id))
    }

    /// Returns the stage that consumes an edge.
    pub fn consumer(&self, edge: EdgeId) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.reads(edge))
    }

    /// Returns the stages that feed an edge, in order.
    pub fn producers(&self, edge: EdgeId) -> impl Iterator<Item = &Stage> {
        self.stages
            .iter()
            .filter(move |stage| stage.pipelines.iter().any(|p| p.output == PipelineOutput::Exchange(edge)))
    }
}

impl Stage {
    /// True if any pipeline of the stage has this edge as an input.
    pub fn reads(&self, edge: EdgeId) -> bool {
        self.pipelines.iter().any(|pipeline| pipeline.inputs.contains(&PipelineInput::Edge(edge)))
    }

    /// Returns the edges that feed the stage, each once, in the order of its pipelines.
    pub fn input_edges(&self) -> Vec<EdgeId> {
        let inputs = self.pipelines.iter().flat_map(|pipeline| &pipeline.inputs);
        let edges = inputs.filter_map(|input| match input {
            PipelineInput::Edge(edge) => Some(*edge),
            PipelineInput::Source => None,
        });
        let mut distinct: Vec<EdgeId> = Vec::new();
        for edge in edges {
            if !distinct.contains(&edge) {
                distinct.push(edge);
            }
        }
        distinct
    }
}
