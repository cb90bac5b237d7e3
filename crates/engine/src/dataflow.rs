//! The dataflow a script compiles to: stages of pipelines, joined by exchanges.
//!
//! Owns: the shape that the SQL frontend builds and the runtime executes. Does not own: either.
//! Invariants: stages come before the stages they feed; a pipeline ends in exactly one exchange or sink; every
//! stateful operator has an entry in `operators` and runs in a shards stage.

mod specs;

pub use specs::*;

use crate::state::{Layout, closes_at};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use highwater_core::ids::{EdgeId, OperatorId, SinkId, SourceId, StageId};
use highwater_core::query::{ClockWindow, StageInput as CoreInput, StageTopology};
use std::sync::Arc;

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
    pub ops: Vec<OpSpec>,
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

/// One operator. Expressions are over the rows the operator before gives.
#[derive(Clone, Debug)]
pub enum OpSpec {
    /// Keeps rows for which the expression is true.
    Filter(Arc<dyn PhysicalExpr>),
    Project {
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    },
    /// Aggregates what one task reads; gives `partial_schema` rows. Drops and counts late rows.
    PartialAggregate {
        op: OperatorId,
        spec: Arc<AggregateSpec>,
    },
    /// Merges partial rows into state; gives `output_schema` rows.
    FinalAggregate {
        op: OperatorId,
        spec: Arc<AggregateSpec>,
        emit: EmitMode,
    },
    /// Merges rows into state whatever they are: taken back, distinct, ordered; gives `output_schema` rows.
    GeneralAggregate {
        op: OperatorId,
        spec: Arc<GeneralSpec>,
    },
    /// Joins its two inputs.
    Join {
        op: OperatorId,
        spec: Arc<JoinSpec>,
    },
    /// Ranks, limits and computes over partitions in order.
    Over {
        op: OperatorId,
        spec: Arc<OverSpec>,
    },
    /// Rows of a key as long as they come without a gap.
    Session {
        op: OperatorId,
        spec: Arc<SessionSpec>,
    },
    /// Records of a keyed table as the rows they add up to.
    Upsert {
        op: OperatorId,
        spec: Arc<UpsertSpec>,
    },
    /// Each row of its first input with the version of its time in the second.
    Temporal {
        op: OperatorId,
        spec: Arc<TemporalSpec>,
    },
    /// Each row with what a file holds for it.
    Lookup(Arc<LookupSpec>),
    /// Each row once for every element of its lists.
    Unnest(Arc<UnnestSpec>),
    /// Each row once for every list of expressions.
    Expand {
        lists: Vec<Vec<Arc<dyn PhysicalExpr>>>,
        schema: SchemaRef,
    },
    /// Gives the whole result at every batch.
    Complete {
        op: OperatorId,
        schema: SchemaRef,
    },
    /// At most one row per key and batch. Without proof that keys are `unique`, rows per key are state.
    KeyedSink {
        op: OperatorId,
        key: Vec<usize>,
        unique: bool,
        /// Of the key's columns the one that frees its rows.
        close: Option<CloseKey>,
        watermark: Vec<Upstream>,
        schema: SchemaRef,
    },
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

impl OpSpec {
    /// The operator whose state it keeps, and how that is looked up.
    pub fn state(&self) -> Option<(OperatorId, Layout)> {
        match self {
            Self::FinalAggregate { op, .. } => Some((*op, Layout::Hashed)),
            Self::KeyedSink { op, unique: false, .. } | Self::Upsert { op, .. } => Some((*op, Layout::Hashed)),
            Self::GeneralAggregate { op, .. }
            | Self::Complete { op, .. }
            | Self::Join { op, .. }
            | Self::Session { op, .. }
            | Self::Temporal { op, .. }
            | Self::Over { op, .. } => Some((*op, Layout::Ordered)),
            _ => None,
        }
    }
}

impl OpSpec {
    /// The operator that goes by a watermark, and the sources it is the least of.
    pub fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        let (op, watermark, goes) = match self {
            Self::FinalAggregate { op, spec, .. } => (op, &spec.watermark, spec.close.is_some()),
            Self::GeneralAggregate { op, spec } => (op, &spec.watermark, spec.close.is_some()),
            Self::Join { op, spec } => (op, &spec.watermark, spec.sides.iter().any(|side| side.expiry.is_some())),
            Self::Over { op, spec } => (op, &spec.watermark, spec.expiry.is_some()),
            Self::Session { op, spec } => (op, &spec.watermark, spec.closes),
            Self::KeyedSink { op, watermark, close, .. } => (op, watermark, close.is_some()),
            _ => return None,
        };
        goes.then_some((*op, watermark.as_slice()))
    }
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
