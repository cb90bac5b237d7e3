//! Maps each command to the function that runs it.

use crate::cli::{BenchCommand, Command};
use crate::commands::{checkpoint, compile, control, inspect, progress, run, serve, submit};
use crate::context::Context;
use crate::failure::Failure;
use crate::{bench, demo};

/// Runs one command.
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
