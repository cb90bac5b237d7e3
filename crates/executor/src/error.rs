//! Errors of an executor, and what to do about them.

use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::source::BadRecord;
use highwater_dataflow::error::EngineError;
use highwater_proto::{MAX_DELTA_BYTES, MAX_MESSAGE_BYTES};
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{ExecutorId, TaskId};
use highwater_sql::SqlError;
use std::net::SocketAddr;
use thiserror::Error;

/// Why an executor process ends by itself.
#[derive(Debug, Error)]
pub enum ExecutorError {
    #[error("cannot listen on {address}: {source}; choose another --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    Security(#[from] highwater_security::SecurityError),
    #[error("'{url}' is not an address of a driver ({message}); write it as http://HOST:PORT or https://HOST:PORT")]
    DriverUrl { url: String, message: String },
    #[error("the driver refuses this executor: {0}")]
    Refused(String),
    #[error("exchange service: {0}")]
    Server(String),
    #[error("cannot use {} for scratch files: {source}; choose another --data-dir", path.display())]
    Scratch { path: std::path::PathBuf, source: std::io::Error },
}

/// Why a query could not be opened here.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error("this executor compiles the query to a different dataflow than the driver; run the same build on both")]
    AnotherPlan,
    #[error(transparent)]
    Join(#[from] tokio::task::JoinError),
}

impl OpenError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Sql(_) => ErrorKind::Fix,
            Self::Connector(error) => error.kind(),
            Self::AnotherPlan | Self::Join(_) => ErrorKind::Fatal,
        }
    }
}

/// Why a task attempt failed.
#[derive(Debug, Error)]
pub enum TaskError {
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An expression failed on a record, and `on_bad_record` is `fail`.
    #[error(
        "table '{table}': {} offset {}: {}; guard the expression (TRY_CAST, NULLIF, CASE), or set on_bad_record = 'skip' or \
         'dead_letter'",
        record.tp, record.offset, record.reason
    )]
    BadRecord { table: String, record: Box<BadRecord> },
    /// Another executor did not take or send its batches.
    #[error("exchange: {0}")]
    Exchange(String),
    /// This executor cannot connect to another one, though the driver may reach both.
    #[error("exchange: the executor at {address} cannot be reached from here: {message}")]
    Unreachable { peer: ExecutorId, address: String, message: String },
    /// The query has no memory left on the executor that receives its rows.
    #[error("executor at {address}: {message}")]
    NoMemoryThere { address: String, message: String },
    /// The row does not fit into a message.
    #[error(
        "a row of {bytes} bytes must go from one stage to another, but at most {MAX_MESSAGE_BYTES} bytes can: let the \
         query make smaller rows, with shorter arrays and texts"
    )]
    RowTooLarge { bytes: usize },
    #[error(
        "a batch changed {bytes} bytes of one operator's state on one executor, but at most {MAX_DELTA_BYTES} bytes \
         are allowed: set max_offsets_per_trigger, so that batches are smaller"
    )]
    DeltaTooLarge { bytes: usize },
    #[error("state could not be fetched from the driver: {0}")]
    State(String),
    /// The state in the checkpoint cannot be read.
    #[error("state could not be fetched from the driver: {0}")]
    DamagedState(String),
    #[error("content of a looked-up table could not be fetched from the driver: {0}")]
    Content(String),
    /// In the checkpoint it is missing or damaged.
    #[error("content of a looked-up table could not be fetched from the driver: {0}")]
    DamagedContent(String),
    #[error("the plan names {0}, which this query does not have")]
    NotInQuery(String),
    #[error("task {0} ended without a result: {1}")]
    Panicked(TaskId, String),
    /// The result is not needed.
    #[error("the attempt was dropped")]
    Cancelled,
}

impl TaskError {
    /// The error of a task that panicked, with the panic's message.
    pub fn panicked(task: TaskId, error: tokio::task::JoinError) -> Self {
        let said = error.try_into_panic().map_or_else(
            |cancelled| cancelled.to_string(),
            |panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_string()
            },
        );
        Self::Panicked(task, said)
    }

    /// The executor that could not be reached; `None` if the failure has another cause.
    pub fn unreachable(&self) -> Option<ExecutorId> {
        match self {
            Self::Unreachable { peer, .. } => Some(*peer),
            _ => None,
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            // A writer fenced by recovery is opened again in the next attempt.
            Self::Connector(error) if error.kind() == ErrorKind::Fenced => ErrorKind::Retry,
            // The source reports this to the driver, which knows `on_data_loss`; the task must not decide before that.
            Self::Connector(ConnectorError::OffsetOutOfRange { .. }) => ErrorKind::Retry,
            Self::Connector(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Exchange(_) | Self::Unreachable { .. } | Self::State(_) | Self::Content(_) | Self::Cancelled => {
                ErrorKind::Retry
            }
            Self::BadRecord { .. } | Self::DeltaTooLarge { .. } | Self::NoMemoryThere { .. } => ErrorKind::Fix,
            Self::DamagedState(_)
            | Self::DamagedContent(_)
            | Self::NotInQuery(_)
            | Self::Panicked(..)
            | Self::RowTooLarge { .. } => ErrorKind::Fatal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_protocol::offsets::TopicPartition;

    #[tokio::test]
    async fn a_panic_is_reported_with_its_message() {
        let panicked = tokio::task::spawn_blocking(|| panic!("{} over zero", 1)).await.unwrap_err();
        let told = TaskError::panicked(TaskId(3), panicked);
        assert_eq!(told.to_string(), "task 3 ended without a result: 1 over zero");
        assert_eq!(told.kind(), ErrorKind::Fatal);
    }

    #[test]
    fn a_record_on_which_an_expression_fails_is_named_with_the_remedies() {
        let record = BadRecord {
            tp: TopicPartition::new("orders", 0),
            offset: 17,
            reason: "division by zero: 100 / n".into(),
            key: None,
            payload: None,
            timestamp_ms: None,
        };
        let error = TaskError::BadRecord { table: "orders".into(), record: Box::new(record) };
        assert_eq!(
            error.to_string(),
            "table 'orders': orders-0 offset 17: division by zero: 100 / n; guard the expression (TRY_CAST, NULLIF, \
             CASE), or set on_bad_record = 'skip' or 'dead_letter'"
        );
        assert_eq!(error.kind(), ErrorKind::Fix);
    }

    #[test]
    fn a_task_leaves_lost_records_to_the_driver() {
        let lost =
            ConnectorError::OffsetOutOfRange { tp: TopicPartition::new("t", 0), position: 1, earliest: 5, latest: 9 };
        assert_eq!(TaskError::Connector(lost).kind(), ErrorKind::Retry);
    }
}
