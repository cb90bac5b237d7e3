//! Errors of a script: position, cause and remedy.
//!
//! Owns: [`SqlError`] and the translation of the parser's errors into it.
//! Does not own: planning errors of DataFusion (see `plan::errors`).
//! Invariant: every error names its cause; positions count from 1, and 0 means "no position known".

use datafusion::sql::sqlparser::ast::Spanned;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use highwater_protocol::error::ErrorKind;
use std::fmt;

/// An error of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// Line of the script, from 1; 0 if the error has no place.
    pub line: u64,
    /// Column of that line in characters, from 1; 0 if the error has no place.
    pub column: u64,
    /// The cause.
    pub message: String,
    /// The remedy, or the name that was probably meant.
    pub hint: Option<String>,
}

/// Shorthand of the frontend.
pub type Result<T, E = SqlError> = std::result::Result<T, E>;

impl SqlError {
    /// Returns an error at `location`; the empty location means that it has no place.
    pub fn at(location: Location, message: impl Into<String>) -> Self {
        Self { line: location.line, column: location.column, message: message.into(), hint: None }
    }

    /// Returns an error at the start of `span`.
    pub fn in_span(span: Span, message: impl Into<String>) -> Self {
        Self::at(span.start, message)
    }

    /// Returns an error at a piece of syntax.
    pub fn on(node: &impl Spanned, message: impl Into<String>) -> Self {
        Self::in_span(node.span(), message)
    }

    /// Adds the remedy.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the remedy, if there is one.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Gives the error a place if it has none yet.
    pub fn or_at(mut self, location: Location) -> Self {
        if self.line == 0 {
            self.line = location.line;
            self.column = location.column;
        }
        self
    }

    /// Returns the position in the parser's type.
    pub fn location(&self) -> Location {
        Location::new(self.line, self.column)
    }

    /// Always [`ErrorKind::Fix`]: only another script helps.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Fix
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SqlError {}

/// Takes the position from the parser's text, the only place that has it: `… at Line: 1, Column: 2`.
impl From<ParserError> for SqlError {
    fn from(error: ParserError) -> Self {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => {
                return Self::at(Location::empty(), "the statement is nested too deeply")
                    .hint("split it with CREATE VIEW");
            }
        };
        let (message, location) = split_location(&text);
        Self::at(location, soften(message))
    }
}

fn split_location(text: &str) -> (&str, Location) {
    let parsed = text.rfind(" at Line: ").and_then(|at| {
        let (line, column) = text[at + " at Line: ".len()..].split_once(", Column: ")?;
        Some((&text[..at], Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?)))
    });
    parsed.unwrap_or((text, Location::empty()))
}

/// Turns `Expected: X, found: Y` into a sentence.
fn soften(message: &str) -> String {
    match message.strip_prefix("Expected: ").and_then(|rest| rest.rsplit_once(", found: ")) {
        Some((expected, "EOF")) => format!("expected {expected}, but the script ends here"),
        Some((expected, found)) => format!("expected {expected}, found {found}"),
        None => message.trim().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_errors_become_sentences_with_a_place() {
        let error = SqlError::from(ParserError::ParserError("Expected: ), found: ; at Line: 3, Column: 14".into()));
        assert_eq!(error.to_string(), "line 3, column 14: expected ), found ;");
    }

    #[test]
    fn an_error_without_place_shows_none() {
        let error = SqlError::from(ParserError::ParserError("odd".into())).hint("even it");
        assert_eq!(error.to_string(), "odd\n  hint: even it");
        assert_eq!(error.kind(), ErrorKind::Fix);
    }
}
