//! `driver`, `executor`: long-running processes, until SIGINT or SIGTERM.
//!
//! Owns: turning settings into options, and signals into a shutdown. Does not own: what the processes do.

use crate::cli::{DriverArgs, ExecutorArgs};
use crate::client;
use crate::config::{DriverSettings, ExecutorSettings};
use crate::context::Context;
use crate::failure::Failure;
use crate::parent;
use highwater_driver::{DriverError, DriverOptions};
use highwater_executor::{ExecutorError, ExecutorOptions};
use nix::sys::stat::{Mode, umask};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub async fn driver(args: &DriverArgs, context: &Context) -> Result<(), Failure> {
    keep_files_private();
    let stop = until_signalled(args.exit_with_parent)?;
    let options = driver_options(&context.config.driver(args, &context.global)?);
    highwater_driver::run(options, stop).await.map_err(|error| match error {
        DriverError::Security(error) => Failure::invalid(error.to_string()),
        error => Failure::failed(error.to_string()),
    })
}

pub async fn executor(args: &ExecutorArgs, context: &Context) -> Result<(), Failure> {
    keep_files_private();
    let settings = context.config.executor(args, &context.global)?;
    client::Driver::new(&settings.driver_url, &settings.security)?;
    let stop = until_signalled(args.exit_with_parent)?;
    highwater_executor::run(executor_options(settings), stop).await.map_err(|error| match error {
        ExecutorError::Security(error) => Failure::invalid(error.to_string()),
        error => Failure::failed(error.to_string()),
    })
}

pub fn driver_options(settings: &DriverSettings) -> DriverOptions {
    DriverOptions {
        listen: settings.listen,
        http: settings.http,
        data_dir: settings.data_dir.clone(),
        lease: Duration::from_millis(settings.lease_ms),
        access: settings.access.clone(),
        security: settings.security.clone(),
        ..DriverOptions::default()
    }
}

pub fn executor_options(settings: ExecutorSettings) -> ExecutorOptions {
    ExecutorOptions {
        driver_url: settings.driver_url,
        slots: settings.slots as usize,
        listen: settings.listen,
        advertise: settings.advertise,
        query_memory: settings.query_memory,
        data_dir: settings.data_dir,
        access: settings.access,
        security: settings.security,
    }
}

/// Makes files of this process readable by its user only: scripts may contain secrets, and state contains records.
pub fn keep_files_private() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

/// Returns a token that SIGINT or SIGTERM cancels; a second signal ends the process at once.
pub fn until_signalled(exit_with_parent: bool) -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    if exit_with_parent {
        parent::cancel_when_gone(stop.clone());
    }
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let cancelled = stop.clone();
    tokio::spawn(async move {
        let mut signals = 0;
        loop {
            let code = tokio::select! {
                _ = interrupts.recv() => 130,
                _ = terminations.recv() => 143,
            };
            signals += 1;
            if signals > 1 {
                std::process::exit(code);
            }
            tracing::info!("shutting down; a second signal ends the process at once");
            cancelled.cancel();
        }
    });
    Ok(stop)
}
