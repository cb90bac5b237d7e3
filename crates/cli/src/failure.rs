//! How a command fails: one error type, with an exit code for each kind.
//!
//! Owns: the exit codes of the contract and the mapping of gRPC status codes to them.
//! Invariant: 0 success, 1 failure, 2 usage or invalid SQL, 3 driver unreachable, 130 interrupted.

use highwater_checkpoint::CheckpointError;
use highwater_protocol::error::ErrorKind;
use thiserror::Error;
use tonic::{Code, Status};

/// Why a command ends without success.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// The command was understood and failed.
    #[error("error: {0}")]
    Failed(String),
    /// Usage, configuration or SQL is at fault; nothing was stored.
    #[error("error: {0}")]
    Invalid(String),
    /// No driver answered in time.
    #[error("error: {0}")]
    Unreachable(String),
    /// The user pressed ^C; the text says what keeps running.
    #[error("{0}")]
    Interrupted(String),
    /// The reader of stdout has closed it (`… | head`): nothing is reported.
    #[error("stdout is closed")]
    OutputClosed,
}

impl Failure {
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Invalid(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Interrupted(_) => 130,
            Self::OutputClosed => 0,
        }
    }

    /// Returns the message for stderr; `None` if nothing is to be reported.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::OutputClosed => None,
            Self::Interrupted(text) if text.is_empty() => None,
            other => Some(other.to_string()),
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable(_) => ErrorKind::Retry,
            Self::Failed(_) | Self::Invalid(_) | Self::Interrupted(_) | Self::OutputClosed => ErrorKind::Fix,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message();
        match status.code() {
            Code::InvalidArgument => Self::invalid(message),
            Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => Self::failed(message),
            Code::Unauthenticated | Code::PermissionDenied => {
                Self::failed(format!("the driver refused the call: {message}"))
            }
            Code::Unavailable => Self::Unreachable(format!("the driver does not answer: {message}")),
            Code::DeadlineExceeded | Code::Cancelled => {
                Self::failed(format!("the driver did not answer in time: {message}; see its log, then try again"))
            }
            code => Self::failed(format!("{message} ({})", code.description())),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_map_to_exit_codes() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 1),
            (Code::AlreadyExists, 1),
            (Code::FailedPrecondition, 1),
            (Code::Internal, 1),
            (Code::Unauthenticated, 1),
            (Code::PermissionDenied, 1),
            (Code::DeadlineExceeded, 1),
            (Code::Unavailable, 3),
        ] {
            assert_eq!(Failure::from(Status::new(code, "x")).exit_code(), exit, "{code:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_silent_success() {
        let failure = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit_code(), failure.message()), (0, None));
    }

    #[test]
    fn the_drivers_text_is_kept_word_for_word() {
        let failure = Failure::from(Status::invalid_argument("line 3, column 7: expected FROM"));
        assert_eq!(failure.message().as_deref(), Some("error: line 3, column 7: expected FROM"));
    }
}
