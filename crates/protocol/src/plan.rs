//! The plan of one micro-batch: everything a task needs to produce the same rows again.
//!
//! Owns: the plan's shape. Does not own: making it (`query`, `ranges`), or where tasks run: placement is not part of
//! the plan, since whole tasks move between executors and are never split again.

use crate::files::FileVersions;
use crate::ids::{BatchId, ShardId, SinkId, SourceId, StageId, TaskId, WriterId};
use crate::offsets::{Ranges, as_pairs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The plan of micro-batch `batch`. Replaying it over the state of `batch - 1` produces the same output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPlan {
    pub batch: BatchId,
    /// What `now()` returns, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    #[serde(with = "as_pairs")]
    pub ranges: Ranges,
    /// Windows ending at or before this were closed by an earlier batch: their rows are late.
    /// Milliseconds per source; a source without a watermark is absent.
    pub late_before: BTreeMap<SourceId, i64>,
    /// Windows ending at or before this close at the end of this batch.
    pub close_before: BTreeMap<SourceId, i64>,
    /// The files that rows look up in this batch: the same for all tasks and for every replay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: FileVersions,
    /// Tasks in id order; a task's id is its position.
    pub tasks: Vec<TaskPlan>,
}

/// One task: a stage over some partitions or some shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPlan {
    pub id: TaskId,
    pub stage: StageId,
    pub work: TaskWork,
    /// One writer for each sink this stage writes.
    pub writers: Vec<WriterPlan>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskWork {
    /// Read these ranges of one source.
    Source {
        source: SourceId,
        #[serde(with = "as_pairs")]
        ranges: Ranges,
    },
    /// Own the shards `first..end`.
    Shards { first: ShardId, end: ShardId },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WriterPlan {
    pub sink: SinkId,
    pub writer: WriterId,
}

impl BatchPlan {
    /// Returns the tasks of one stage, in id order.
    pub fn tasks_of(&self, stage: StageId) -> impl Iterator<Item = &TaskPlan> {
        self.tasks.iter().filter(move |task| task.stage == stage)
    }

    /// Returns every writer of the plan.
    pub fn writers(&self) -> impl Iterator<Item = WriterPlan> + '_ {
        self.tasks.iter().flat_map(|task| task.writers.iter().copied())
    }
}
