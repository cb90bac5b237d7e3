//! The options of how records are read, which the driver plans.
//!
//! Owns: which there are, and their values for people. Does not own: their names, defaults and docs (each connector's
//! declaration), typing their values (crate `sql`, by an exhaustive match), planning by them (crate `protocol`).

/// What an option of how records are read decides. A connector declares those that it offers, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Where the first batch begins.
    StartingOffsets,
    /// Where the query finishes.
    EndingOffsets,
    /// Most offsets of a batch.
    MaxOffsetsPerTrigger,
    /// Fewest offsets of a batch.
    MinOffsetsPerTrigger,
    /// The longest wait for the fewest offsets.
    MaxTriggerDelay,
    MaxRecordsPerSecond,
    /// What happens when records are gone before they were read.
    OnDataLoss,
    /// What happens to records that do not decode.
    OnBadRecord,
    /// Where records go that do not decode.
    DeadLetterTopic,
    /// Where rows go that are late.
    LateTopic,
    /// After which a partition without records does not hold back the watermark.
    IdleTimeout,
    /// Whether records of open and aborted transactions are read.
    IsolationLevel,
}

impl Reading {
    /// Its values, for people.
    pub fn values(self) -> &'static str {
        match self {
            Self::StartingOffsets => {
                "`earliest`, `latest`, `{\"topic\":{\"0\":100}}` (−2 earliest, −1 latest), an ISO timestamp"
            }
            Self::EndingOffsets => "`latest`, offsets, an ISO timestamp",
            Self::MaxOffsetsPerTrigger | Self::MinOffsetsPerTrigger | Self::MaxRecordsPerSecond => {
                "a whole number above 0"
            }
            Self::MaxTriggerDelay => "a duration, `10 seconds`",
            Self::OnDataLoss => "`fail`, `earliest`, `latest`",
            Self::OnBadRecord => "`fail`, `skip`, `dead_letter`",
            Self::DeadLetterTopic | Self::LateTopic => "text",
            Self::IdleTimeout => "a duration, `never`",
            Self::IsolationLevel => "`read_committed`, `read_uncommitted`",
        }
    }
}
