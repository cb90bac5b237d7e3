//! What to do about an error: the classification that the error types of all crates share.

use serde::{Deserialize, Serialize};

/// What the caller should do. Every error type of Highwater has a `kind()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// A temporary failure: a broker is down, an executor is gone. The attempt is dropped and retried.
    Retry,
    /// The user's SQL, options or data are at fault; a retry would fail the same way.
    Fix,
    /// A guarantee is broken (digest mismatch, damaged checkpoint, offset regression): the query stops at once.
    Fatal,
    /// A newer owner exists: this process must stop without writing anything more.
    Fenced,
}
