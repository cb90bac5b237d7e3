//! Logs on stderr, as text or as JSON lines.
//!
//! Owns: the subscriber. `RUST_LOG` selects; without it servers log at info, commands at warn.

use crate::cli::LogFormat;
use crate::context::Context;
use crate::failure::Failure;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What servers log if RUST_LOG is not set: their own events, and problems of libraries. librdkafka is silent, since it
/// reports every failed connection of every client; the connectors report broker problems once, with its reason.
const SERVER_FILTER: &str = "info,rdkafka=off,librdkafka=off,sled=warn,h2=warn,tower=warn";
const COMMAND_FILTER: &str = "warn,rdkafka=error,librdkafka=error,sled=error";

/// Applied whatever RUST_LOG is: the parser logs whole scripts, which may contain secrets.
const SILENCED: [&str; 1] = ["sqlparser=info"];

/// Installs the subscriber of this process.
pub fn init(context: &Context, server: bool) -> Result<(), Failure> {
    let default = if server { SERVER_FILTER } else { COMMAND_FILTER };
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(&text)
            .map_err(|error| Failure::invalid(format!("RUST_LOG={text}: {error}; try RUST_LOG=info")))?,
        _ => EnvFilter::new(default),
    };
    let filter = SILENCED.iter().fold(filter, |filter, directive| match directive.parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match context.log_format() {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
