//! An executor's side of one query's protocol: which attempt runs, on what state, and what may be published and
//! promoted.
//!
//! Owns: these decisions. Does not own: consumers, transactions, state maps, the wire.
//!
//! Invariants:
//! - at most one attempt is current; a command about another one changes no state;
//! - tasks start only on state as of their plan's base, for every shard they own;
//! - a writer publishes only the rows of the current attempt, only once all its tasks are flushed, and is asked to only
//!   once;
//! - only the overlay of the committed attempt becomes state; in every other case the state is dropped and fetched
//!   again.

#[cfg(test)]
mod tests;

use crate::ids::{AttemptId, BatchId, ShardId, TaskId};
use crate::plan::WriterPlan;
use std::collections::BTreeSet;

/// A command of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Run(RunCommand),
    Abort { attempt: AttemptId },
    Publish { attempt: AttemptId, writers: Vec<WriterPlan> },
    Committed { attempt: AttemptId },
}

/// This executor's share of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunCommand {
    pub attempt: AttemptId,
    pub batch: BatchId,
    /// Batch whose state the tasks start from; `None` before the first batch.
    pub base: Option<BatchId>,
    pub tasks: BTreeSet<TaskId>,
    /// Shards that those tasks own.
    pub shards: BTreeSet<ShardId>,
}

/// An action for the caller to carry out, in the order returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Stop the attempt's tasks, drop its overlays, abort its transactions.
    Cancel { attempt: AttemptId },
    /// Drop the state of all shards.
    DropState,
    /// Load these shards as of `base` (`None`: they are empty), then call [`Participant::restored`].
    Restore { attempt: AttemptId, base: Option<BatchId>, shards: BTreeSet<ShardId> },
    /// Start the attempt's tasks.
    Start { attempt: AttemptId },
    /// Commit these writers' transactions and report the outcome of each.
    Publish { attempt: AttemptId, writers: Vec<WriterPlan> },
    /// Report that this executor does not know these writers' outcome.
    AnswerUnknown { attempt: AttemptId, writers: Vec<WriterPlan> },
    /// Turn the attempt's overlays into state and drop shards that are not in `keep`.
    Promote { attempt: AttemptId, keep: BTreeSet<ShardId> },
}

/// One query on one executor.
#[derive(Clone, Debug, Default)]
pub struct Participant {
    current: Option<Current>,
    /// Batch as of which the state is held. `None`: no state is held; `Some(None)`: the state before the first batch.
    state_at: Option<Option<BatchId>>,
    owned: BTreeSet<ShardId>,
    /// Highest attempt seen so far.
    highest: Option<AttemptId>,
}

#[derive(Clone, Debug)]
struct Current {
    run: RunCommand,
    started: bool,
    /// Tasks not yet flushed.
    unfinished: BTreeSet<TaskId>,
    /// Writers already asked to publish.
    publishing: BTreeSet<WriterPlan>,
}

impl Participant {
    /// Returns the attempt that is running or flushed.
    pub fn current(&self) -> Option<AttemptId> {
        self.current.as_ref().map(|current| current.run.attempt)
    }

    /// Handles one command of the driver.
    pub fn command(&mut self, command: Command) -> Vec<Effect> {
        match command {
            Command::Run(run) => self.run(run),
            Command::Abort { attempt } => self.abort(attempt),
            Command::Publish { attempt, writers } => self.publish(attempt, writers),
            Command::Committed { attempt } => self.committed(attempt),
        }
    }

    fn run(&mut self, run: RunCommand) -> Vec<Effect> {
        if self.highest.is_some_and(|highest| run.attempt <= highest) {
            return Vec::new();
        }
        let attempt = run.attempt;
        self.highest = Some(attempt);
        let mut effects = Vec::new();
        if let Some(old) = self.current.take() {
            effects.push(Effect::Cancel { attempt: old.run.attempt });
        }
        if self.state_at != Some(run.base) {
            effects.push(Effect::DropState);
            self.owned.clear();
            self.state_at = Some(run.base);
        }
        let missing: BTreeSet<ShardId> = run.shards.difference(&self.owned).copied().collect();
        let started = missing.is_empty();
        effects.push(match started {
            true => Effect::Start { attempt },
            false => Effect::Restore { attempt, base: run.base, shards: missing },
        });
        let unfinished = run.tasks.clone();
        self.current = Some(Current { run, started, unfinished, publishing: BTreeSet::new() });
        effects
    }

    /// Records that the shards of [`Effect::Restore`] are loaded. Returns false if their attempt is no longer current.
    pub fn restored(&mut self, attempt: AttemptId) -> bool {
        let Some(current) = self.current.as_mut().filter(|c| c.run.attempt == attempt && !c.started) else {
            return false;
        };
        current.started = true;
        self.owned.extend(current.run.shards.iter().copied());
        true
    }

    /// Records that a task's output is exchanged, or flushed into its writers.
    pub fn finished(&mut self, attempt: AttemptId, task: TaskId) {
        if let Some(current) = self.current.as_mut().filter(|current| current.run.attempt == attempt) {
            current.unfinished.remove(&task);
        }
    }

    fn abort(&mut self, attempt: AttemptId) -> Vec<Effect> {
        self.highest = self.highest.max(Some(attempt));
        if self.current() != Some(attempt) {
            return Vec::new();
        }
        self.current = None;
        vec![Effect::Cancel { attempt }]
    }

    fn publish(&mut self, attempt: AttemptId, writers: Vec<WriterPlan>) -> Vec<Effect> {
        let flushed =
            |current: &&mut Current| current.run.attempt == attempt && current.started && current.unfinished.is_empty();
        let Some(current) = self.current.as_mut().filter(flushed) else {
            return vec![Effect::AnswerUnknown { attempt, writers }];
        };
        let writers: Vec<WriterPlan> =
            writers.into_iter().filter(|writer| current.publishing.insert(*writer)).collect();
        vec![Effect::Publish { attempt, writers }]
    }

    fn committed(&mut self, attempt: AttemptId) -> Vec<Effect> {
        let complete =
            |current: &Current| current.run.attempt == attempt && current.started && current.unfinished.is_empty();
        match self.current.take() {
            Some(current) if complete(&current) => {
                self.owned = current.run.shards.clone();
                self.state_at = Some(Some(current.run.batch));
                vec![Effect::Promote { attempt, keep: current.run.shards }]
            }
            current => {
                // The batch is committed, but this executor does not hold its part of it.
                self.owned.clear();
                self.state_at = None;
                let cancel = current.map(|current| Effect::Cancel { attempt: current.run.attempt });
                cancel.into_iter().chain([Effect::DropState]).collect()
            }
        }
    }
}
