//! The driver's errors, and the one place that maps them to gRPC status codes.

use highwater_protocol::error::ErrorKind;
use thiserror::Error;

/// Why a call to the driver failed. Every text names the cause and the remedy.
#[derive(Debug, Error)]
pub enum DriverError {
    #[error("{0}")]
    Sql(#[from] highwater_sql::SqlError),
    #[error("{0}")]
    Invalid(String),
    #[error("there is no query named `{name}`{hint}")]
    NotFound { name: String, hint: String },
    #[error("a query named `{0}` exists already; choose another --name, or replace it with --replace")]
    Exists(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Connector(#[from] highwater_connector_api::error::ConnectorError),
    #[error("{0}")]
    Checkpoint(#[from] highwater_checkpoint::CheckpointError),
    #[error("cannot listen on {address}: {source}; choose another with --listen or --http")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("{0}")]
    Security(#[from] highwater_security::SecurityError),
    #[error("the server ended: {0}")]
    Server(String),
    #[error("internal: a task of the driver ended: {0}")]
    Join(#[from] tokio::task::JoinError),
}

impl DriverError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Sql(_) | Self::Invalid(_) | Self::NotFound { .. } | Self::Exists(_) | Self::Refused(_) => {
                ErrorKind::Fix
            }
            Self::Connector(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::Listen { .. } | Self::Security(_) => ErrorKind::Fix,
            Self::Server(_) | Self::Join(_) => ErrorKind::Fatal,
        }
    }
}

impl From<DriverError> for tonic::Status {
    fn from(error: DriverError) -> Self {
        let message = error.to_string();
        match &error {
            DriverError::Sql(_) | DriverError::Invalid(_) => Self::invalid_argument(message),
            DriverError::NotFound { .. } => Self::not_found(message),
            DriverError::Exists(_) => Self::already_exists(message),
            DriverError::Refused(_) | DriverError::Connector(_) => Self::failed_precondition(message),
            DriverError::Checkpoint(_)
            | DriverError::Listen { .. }
            | DriverError::Security(_)
            | DriverError::Server(_)
            | DriverError::Join(_) => Self::internal(message),
        }
    }
}
