//! What to do about an error: the one classification every crate's error type answers.

use serde::{Deserialize, Serialize};

/// What the caller should do. Every error type of Highwater has a `kind()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Passing trouble: a broker away, an executor gone. The attempt is dropped and tried again.
    Retry,
    /// The user's input, SQL, options or data are at fault; trying again changes nothing.
    Fix,
    /// A promise cannot be kept (digest mismatch, damaged checkpoint, offset regress): stop at once.
    Fatal,
    /// A newer owner exists: this process must stop acting, silently for the data.
    Fenced,
}
