//! The dataflow a script compiles to: stages of pipelines, joined by exchanges.
//!
//! Owns: the shape that the SQL frontend builds and the runtime executes. Does not own: either.
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
    /// Short, in Spark's manner: `aggregate`, `keyed sink`.
    pub name: String,
    /// What it keeps, for people.
    pub description: String,
    /// Sources whose rows reach it: its watermark is the least of theirs.
    pub sources: Vec<SourceId>,
    /// What bounds its state; `None` = nothing does.
    pub bounded_by: Option<String>,
    /// It closes windows as the watermark passes them.
    pub closes_windows: bool,
    /// The windows over the time of batches whose rows it gives when they close.
    pub clock_window: Option<ClockWindow>,
    /// What is not written for so long is forgotten: of operators that nothing else bounds, with `state_ttl`.
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
    /// Fed by the edges its pipelines name.
    Shards,
}

/// A chain of operators to one output. Its inputs are the first operator's, in order; only joins have two.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub inputs: Vec<PipelineInput>,
    /// Where rows of each input go that an operator drops as late, if not nowhere; empty: none of any.
    pub late: Vec<Option<SinkId>>,
    pub ops: Vec<Op>,
    pub output: PipelineOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineInput {
    /// Decoded batches of the stage's source, laid out as its `columns_used`.
    Source,
    Edge(EdgeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineOutput {
    Exchange(EdgeId),
    Sink(SinkId),
}

/// When an aggregate gives rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitMode {
    /// Every change of a group: the old row with weight −1, the new one with +1.
    Updates,
    /// A group once, when its window closes.
    OnClose,
    /// A group once, when it is first seen; for aggregates without functions (DISTINCT).
    OnFirst,
}

/// A hash exchange between two stages.
#[derive(Clone, Debug)]
pub struct Edge {
    pub id: EdgeId,
    pub schema: SchemaRef,
    /// Columns whose hash decides the shard; none = one shard for all.
    pub key: Vec<usize>,
    /// Rows carry weights.
    pub weighted: bool,
}

/// How a group's window end is known from one of its columns, a timestamp.
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
    /// The group is closed once the watermark reaches this, milliseconds.
    pub fn closes_at_ms(self, value_ms: i64) -> i64 {
        closes_at(match self {
            CloseKind::WindowEnd => value_ms,
            CloseKind::WindowStart { size_ms } => value_ms.saturating_add(size_ms),
            CloseKind::EventTime => value_ms.saturating_add(1),
        })
    }
}

impl Dataflow {
    /// The stages as the driver's planning sees them.
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

    /// Some operator closes windows.
    pub fn closes_windows(&self) -> bool {
        self.operators.iter().any(|operator| operator.closes_windows)
    }

    /// Windows that the clock closes, without records.
    pub fn clock_windows(&self) -> Vec<(OperatorId, ClockWindow)> {
        self.operators.iter().filter_map(|operator| Some((operator.id, operator.clock_window?))).collect()
    }

    /// The edge of this id.
    ///
    /// # Errors
    /// There is none.
    pub fn edge(&self, id: EdgeId) -> Result<&Edge, EngineError> {
        self.edges.get(id.0 as usize).ok_or(EngineError::UnknownEdge(id))
    }

    /// The stage that consumes an edge.
    pub fn consumer(&self, edge: EdgeId) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.reads(edge))
    }

    /// The stages that feed an edge, in order.
    pub fn producers(&self, edge: EdgeId) -> impl Iterator<Item = &Stage> {
        self.stages
            .iter()
            .filter(move |stage| stage.pipelines.iter().any(|p| p.output == PipelineOutput::Exchange(edge)))
    }
}

impl Stage {
    /// Some pipeline of the stage has this edge as its input.
    pub fn reads(&self, edge: EdgeId) -> bool {
        self.pipelines.iter().any(|pipeline| pipeline.inputs.contains(&PipelineInput::Edge(edge)))
    }

    /// Edges the stage is fed by, in order of their pipelines.
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
