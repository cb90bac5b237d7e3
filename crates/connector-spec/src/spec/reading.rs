//! The options about reading, which the driver uses when it plans batches.
//!
//! Owns: the list of them, and their allowed values for the docs. Does not own: their names, defaults and docs (each
//! connector's declaration), parsing their values (crate `sql`, by an exhaustive match), planning by them (crate
//! `protocol`).

/// An option about reading. A connector declares those that it supports, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Where the first batch begins.
    StartingOffsets,
    /// Where the query finishes.
    EndingOffsets,
    /// Greatest number of offsets in a batch.
    MaxOffsetsPerTrigger,
    /// Smallest number of offsets in a batch.
    MinOffsetsPerTrigger,
    /// Longest wait for the smallest number of offsets.
    MaxTriggerDelay,
    MaxRecordsPerSecond,
    /// Where reading continues if records were deleted before they were read.
    OnDataLoss,
    /// How records are handled that do not decode.
    OnBadRecord,
    /// Topic of records that do not decode.
    DeadLetterTopic,
    /// Topic of late rows.
    LateTopic,
    /// Time after which a partition without records does not hold back the watermark.
    IdleTimeout,
    /// Whether records of open and aborted transactions are read.
    IsolationLevel,
}

impl Reading {
    /// Returns the allowed values, for the docs.
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
