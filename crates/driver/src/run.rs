//! The types around a run of a query: what it needs, how to reach it, and what it shows.
//!
//! Owns: these types. Does not own: what a run does (`runner`).

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::inbox::Inbox;
use crate::progress_history::ProgressLog;
use highwater_checkpoint::CheckpointStore;
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{BatchId, ExecutorId, RunId, SinkId};
use highwater_protocol::offsets::{Positions, SourcePartition};
use highwater_protocol::options::QuerySpec;
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_protocol::query::RunState;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// What a run needs.
pub(crate) struct Run {
    pub spec: QuerySpec,
    pub run_id: RunId,
    pub compiled: Arc<CompiledQuery>,
    pub store: CheckpointStore,
    pub cluster: Cluster,
    pub progress: ProgressLog,
    pub clock: Clock,
    /// Number of this run among all runs of this driver.
    pub number: u64,
}

/// What the checkpoint holds of a query that is about to start.
#[derive(Default)]
pub(crate) struct Found {
    pub head: Option<PrepareRecord>,
    pub reserved_writers: BTreeMap<SinkId, u32>,
}

/// A handle to a run.
#[derive(Clone)]
pub(crate) struct RunHandle {
    pub run_id: RunId,
    pub events: Inbox,
    pub view: watch::Receiver<QueryView>,
    /// Wakes the watchers of the topics.
    pub look: Arc<Notify>,
}

/// The state of a run as others see it, replaced after every step.
#[derive(Clone, Debug)]
pub(crate) struct QueryView {
    pub state: RunState,
    pub last_batch: Option<BatchId>,
    pub positions: Positions,
    pub partitions: BTreeMap<ExecutorId, Vec<SourcePartition>>,
    pub shards: BTreeMap<ExecutorId, u32>,
    pub input_rows: BTreeMap<ExecutorId, u64>,
    pub warnings: Vec<String>,
}
