//! One file per group of commands, and what they share.
//!
//! Owns: which function carries out which command. Does not own: their arguments (`cli`).

pub mod checkpoint;
pub mod compile;
pub mod control;
pub mod inspect;
pub mod progress;
pub mod run;
pub mod serve;
pub mod submit;

use crate::cli::{BenchCommand, Command, Global, LogFormat};
use crate::client::Driver;
use crate::config::Config;
use crate::failure::Failure;
use crate::{bench, demo, output};
use highwater_security::exposure;
use serde_json::Value;

/// What every command knows: global options and configuration.
#[derive(Clone, Debug)]
pub struct Context {
    pub global: Global,
    pub config: Config,
}

impl Context {
    pub fn new(global: &Global) -> Result<Self, Failure> {
        Ok(Self { global: global.clone(), config: Config::load(global.config.as_deref())? })
    }

    pub fn log_format(&self) -> LogFormat {
        self.global.log_format.or(self.config.log_format).unwrap_or(LogFormat::Text)
    }

    /// The driver this command talks to.
    pub fn driver(&self) -> Result<Driver, Failure> {
        let (url, security) = (self.config.driver_url(&self.global), self.config.client_security(&self.global)?);
        if exposure::shows_token(&url, &security) {
            output::note(&format!("warning: HIGHWATER_TOKEN travels to {url} in the clear; use https://"));
        }
        Driver::new(&url, &security)
    }

    /// Writes a result: the document for machines, or the text for eyes.
    pub fn show(&self, document: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.global.json { output::json(&document()) } else { output::line(&text()) }
    }

    /// The same, and then what to beware of: on stderr for people, for machines it is in the document.
    pub fn show_warned(
        &self,
        document: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
        warnings: &[String],
    ) -> Result<(), Failure> {
        self.show(document, text)?;
        if !self.global.json {
            output::warnings(warnings);
        }
        Ok(())
    }
}

/// Carries out one command.
pub async fn execute(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Driver(args) => serve::driver(&args, context).await,
        Command::Executor(args) => serve::executor(&args, context).await,
        Command::Submit(args) => submit::submit(args, context).await,
        Command::Run(args) => run::run(args, context).await,
        Command::Validate(args) => compile::validate(&args, context),
        Command::Explain(args) => compile::explain(&args, context),
        Command::Ls => inspect::ls(context).await,
        Command::Status(args) => inspect::status(args, context).await,
        Command::Progress(args) => progress::progress(args, context).await,
        Command::Lag(args) => inspect::lag(args, context).await,
        Command::Stop(args) => control::stop(args, context).await,
        Command::Start(args) => control::start(args, context).await,
        Command::Drop(args) => control::drop(args, context).await,
        Command::Checkpoint(command) => checkpoint::checkpoint(command, context),
        Command::Demo(args) => demo::demo(args, context).await,
        Command::Bench(BenchCommand::Nexmark(args)) => bench::nexmark::nexmark(args, context).await,
    }
}
