//! The driver's state machine of one query: which micro-batch is planned, executed, prepared and published.
//!
//! Owns: the life of a query's micro-batches and every decision about it. Does not own: executors, stores and brokers;
//! the machine reaches them through [`Action`]s and hears from them through [`Event`]s.
//!
//! Invariants:
//! - positions never go back, unless `on_data_loss` resets them; a record that would is refused before it is persisted;
//! - nothing is planned before the brokers confirm that the topics are those the positions belong to;
//! - nothing is planned before the content of the files that rows look up is known and durable;
//! - no writer is used before its number is durable, and none told to publish before its batch is persisted;
//! - batch N+1 is not dispatched before every writer of N is known to be published;
//! - once `Persist` was requested, batch N can only be finished, with the same plan and the same digests;
//! - events of an attempt that is not the current one have no effect.

mod action;
mod cuts;
mod deaths;
mod dispatch;
mod ending;
mod event;
mod execute;
mod file_state;
mod files;
mod lease;
mod loss;
mod machine;
mod membership;
mod pace;
mod publish;
mod reserve;
mod schedule;
#[cfg(test)]
mod tests;
mod topics;

pub use action::{Action, BatchTimings, CommittedBatch};
pub use event::{Event, ExecutorInfo, OutOfRange, PublishOutcome, Resolution, TopicLook};
pub use machine::{ClockWindow, QueryConfig, QueryMachine, StageInput, StageTopology};

use crate::options::DesiredState;

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Stopped,
    Finished,
    /// The message names the cause and the remedy.
    Failed(String),
    /// A newer driver owns the query: this one must not touch it again.
    Fenced,
}

impl End {
    /// Returns the durable state after this end; `None` if this driver must not write it.
    pub fn desired(&self) -> Option<DesiredState> {
        match self {
            End::Stopped => Some(DesiredState::Stopped),
            End::Finished => Some(DesiredState::Finished),
            End::Failed(_) => Some(DesiredState::Failed),
            End::Fenced => None,
        }
    }
}

/// What the run is doing, as shown to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    Starting,
    Running,
    /// The message names the reason.
    Waiting(String),
    Ended(End),
}
