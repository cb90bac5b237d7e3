//! The error type of all connectors.
//!
//! Owns: errors of external systems, and which of *retry, fix, fatal, fenced* each of them means.
//! Invariant: a message names the topic, partition or option at fault, and never holds a secret.

use highwater_protocol::error::ErrorKind;
use highwater_protocol::offsets::TopicPartition;

/// An error of a source or a sink.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectorError {
    /// An option, a secret or a property is wrong or missing.
    #[error("{0}")]
    Config(String),
    #[error("topic '{topic}' does not exist at {servers}; create it, or correct 'topic' or 'bootstrap.servers'")]
    MissingTopic { topic: String, servers: String },
    #[error("partition {tp} does not exist: topic '{}' has {count} partitions (0 to {})", tp.topic, count - 1)]
    MissingPartition { tp: TopicPartition, count: i32 },
    #[error("bad record in {tp} at offset {offset}: {reason}; set on_bad_record = 'skip' or 'dead_letter' to go on")]
    BadRecord { tp: TopicPartition, offset: i64, reason: String },
    #[error("{}", out_of_range(tp, *position, *earliest, *latest))]
    OffsetOutOfRange { tp: TopicPartition, position: i64, earliest: i64, latest: i64 },
    /// The external system refused a request, and would refuse it again (authorization, unknown topic).
    #[error("{context}: {message}")]
    Refused { context: String, message: String },
    /// A temporary problem with the external system or the network.
    #[error("{context}: {message}")]
    Unavailable { context: String, message: String },
    /// A newer owner of the same transactional id or partition exists.
    #[error("{context}: {message}")]
    Fenced { context: String, message: String },
    /// A guarantee cannot be kept.
    #[error("{0}")]
    Fatal(String),
    /// The reader or writer was shut down while in use, or a partition was unassigned.
    #[error("{0}")]
    Closed(String),
}

impl ConnectorError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(_)
            | Self::MissingTopic { .. }
            | Self::MissingPartition { .. }
            | Self::BadRecord { .. }
            | Self::OffsetOutOfRange { .. }
            | Self::Refused { .. } => ErrorKind::Fix,
            Self::Unavailable { .. } | Self::Closed(_) => ErrorKind::Retry,
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Fatal(_) => ErrorKind::Fatal,
        }
    }
}

fn out_of_range(tp: &TopicPartition, position: i64, earliest: i64, latest: i64) -> String {
    if position < earliest {
        format!(
            "offset {position} out of range for {tp}: earliest available is {earliest}; records below it were deleted \
             (retention). Set on_data_loss = 'earliest' or 'latest' to go on without them, or drop the query and submit it again"
        )
    } else {
        format!(
            "offset {position} out of range for {tp}: latest available is {latest}; the topic was truncated or recreated. \
             Set on_data_loss = 'earliest' or 'latest' to go on, or drop the query and submit it again"
        )
    }
}
