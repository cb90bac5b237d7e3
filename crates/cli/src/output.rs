//! What commands write to stdout, and the few messages for the user on stderr.
//!
//! Owns: the writes. Invariant: a closed stdout ends the command silently; nothing panics.

use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Writes one line to stdout, at once.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Writes one JSON document on one line to stdout.
pub fn json(value: &Value) -> Result<(), Failure> {
    line(&value.to_string())
}

/// Writes a message for the user to stderr.
pub fn note(text: &str) {
    // Stderr is closed, so there is nowhere to report that.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Shows the warnings of a script.
pub fn warnings(warnings: &[String]) {
    for warning in warnings {
        note(&format!("warning: {warning}"));
    }
}

/// A line on stderr that is shown while the user waits; invisible unless stderr is a terminal.
pub fn spinner(message: impl Into<String>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(message.into());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
