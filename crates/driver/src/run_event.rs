//! Events that reach a run from outside.

use highwater_protocol::ids::{AttemptId, SourceId, TaskId};
use highwater_protocol::offsets::Positions;
use highwater_protocol::query::Event;

/// An event that reaches a run from outside.
#[derive(Debug)]
pub(crate) enum RunnerEvent {
    Machine(Event),
    /// A state delta too large for a task report; it arrives before the report.
    StateDelta {
        attempt: AttemptId,
        task: TaskId,
        index: u32,
        bytes: Vec<u8>,
    },
    /// Newest ends of one source according to the brokers, for progress and warnings.
    Latest {
        source: SourceId,
        ends: Positions,
        warnings: Vec<String>,
    },
    /// Why rows look up older versions of tables than there are. Replaces earlier warnings.
    SnapshotWarnings(Vec<String>),
}
