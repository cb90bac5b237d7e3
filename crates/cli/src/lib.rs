//! The command line of Highwater: parses it, runs one command, and exits with the code of the contract.
//!
//! Owns: arguments, configuration, output for users and scripts. Does not own: the behaviour of queries (`driver`,
//! `executor`) or SQL (`sql`, `planner`).
//! Invariants: results go to stdout, everything else to stderr; with `--json` stdout is JSON only.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bench;
pub mod cli;
mod client;
mod cluster;
mod commands;
pub mod config;
mod context;
mod demo;
mod dispatch;
pub mod failure;
mod follow;
pub mod json;
mod logging;
mod output;
mod parent;
mod script;
mod status_page;
mod table;
mod totals;

use clap::Parser;
use cli::Cli;
use failure::Failure;
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                eprintln!("{message}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    let context = context::Context::new(&cli.global)?;
    logging::init(&context, cli.command.is_server())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("highwater")
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))?;
    let result = runtime.block_on(dispatch::execute(cli.command, &context));
    // A blocking call to a broker may outlast its query; the process does not wait for it.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}
