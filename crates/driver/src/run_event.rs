//! What reaches a run from outside.

use highwater_protocol::ids::{AttemptId, SourceId, TaskId};
use highwater_protocol::offsets::Positions;
use highwater_protocol::query::Event;

/// What reaches a run from outside.
#[derive(Debug)]
pub(crate) enum RunnerEvent {
    Machine(Event),
    /// A state delta too large for a report, before the report itself.
    StateDelta {
        attempt: AttemptId,
        task: TaskId,
        index: u32,
        bytes: Vec<u8>,
    },
    /// Newest ends of one source known to the brokers, for progress and warnings.
    Latest {
        source: SourceId,
        ends: Positions,
        warnings: Vec<String>,
    },
    /// Why rows look up other files than there are; replaces those told before.
    FileWarnings(Vec<String>),
}
