//! The arguments of every command, as clap parses them.
//!
//! Owns: names, defaults that do not depend on configuration, help texts. Does not own: configuration (`config` sets
//! what the command line leaves open).

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Exactly-once micro-batch SQL for Kafka.
#[derive(Debug, Parser)]
#[command(name = "highwater", version, propagate_version = true)]
#[command(
    after_help = "HIGHWATER_TOKEN: the token shown to the driver.\nExit codes: 0 success, 1 failure, 2 usage or invalid SQL, 3 driver unreachable, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Write only JSON to stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Configuration file (TOML); flags and environment take precedence
    #[arg(long, global = true, value_name = "F.toml", env = "HIGHWATER_CONFIG")]
    pub config: Option<PathBuf>,
    /// URL of the driver, http:// or https:// [default: http://127.0.0.1:7070]
    #[arg(long, global = true, value_name = "URL", env = "HIGHWATER_DRIVER")]
    pub driver: Option<String>,
    /// CA (PEM) that signed the certificates of driver and executors, for https://
    #[arg(long, global = true, value_name = "F", env = "HIGHWATER_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// Certificate (PEM) that a server serves with, and an executor or client shows
    #[arg(long, global = true, value_name = "F", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert
    #[arg(long, global = true, value_name = "F", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Format of the logs on stderr; RUST_LOG selects what is logged [default: text]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the driver: plans batches, writes checkpoints, serves gRPC and HTTP
    Driver(DriverArgs),
    /// Run an executor: reads partitions, keeps shards of state, writes sinks
    Executor(ExecutorArgs),
    /// Store a query and run it
    Submit(SubmitArgs),
    /// Run one script in this process, without a cluster
    Run(RunArgs),
    /// Compile a script and report what is wrong with it; needs no driver
    Validate(ScriptArgs),
    /// Show the dataflow a script compiles to; needs no driver
    Explain(ScriptArgs),
    /// List all queries
    Ls,
    /// Show what one query is doing
    Status(NameArgs),
    /// Show the last micro-batches of a query
    Progress(ProgressArgs),
    /// Show how far a query is behind, per partition
    Lag(NameArgs),
    /// Stop a query after the batch in flight
    Stop(NameArgs),
    /// Resume a stopped, failed or finished query from its checkpoint
    Start(StartArgs),
    /// Remove a query and its checkpoint; its sinks keep their data
    Drop(DropArgs),
    /// Inspect checkpoints while no driver runs
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Run a whole cluster on generated card payments
    Demo(DemoArgs),
    /// Run known benchmarks
    #[command(subcommand)]
    Bench(BenchCommand),
}

impl Command {
    /// True for processes that log by default; the others log only if RUST_LOG asks for it.
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Driver(_) | Self::Executor(_))
    }
}

#[derive(Clone, Debug, Default, Args)]
pub struct DriverArgs {
    /// Address of the gRPC services [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of the HTTP endpoints [default: 127.0.0.1:7071]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Folder of the checkpoints, created if missing [default: ./highwater-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long an executor counts as alive without renewing its lease, milliseconds [default: 3000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub lease_ms: Option<u64>,
    /// CA (PEM) of client certificates; one it signed identifies an executor (without --tokens: any caller)
    #[arg(long, value_name = "F")]
    pub tls_client_ca: Option<PathBuf>,
    /// Tokens of clients and executors, with their roles
    #[arg(long, value_name = "F.toml")]
    pub tokens: Option<PathBuf>,
    #[command(flatten)]
    pub access: AccessArgs,
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// What scripts may refer to on the machine of a driver or an executor.
#[derive(Clone, Debug, Default, Args)]
pub struct AccessArgs {
    /// Environment variables that scripts may refer to [default: all on loopback without tokens, else none]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub allow_env: Option<Vec<String>>,
    /// Folders that scripts may refer to, read and write files in [default: all on loopback without tokens, else none]
    #[arg(long, value_name = "DIRS", value_delimiter = ',')]
    pub allow_path: Option<Vec<PathBuf>>,
}

/// A number of bytes above zero.
fn size(text: &str) -> Result<u64, String> {
    let bytes = text.trim().parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| "write a size, for example 512MB or 4GiB".to_string())
}

#[derive(Clone, Debug, Default, Args)]
pub struct ExecutorArgs {
    /// Tasks that run at a time, of all queries together [default: cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: Option<u32>,
    /// Address for other executors; port 0 takes a free one [default: 127.0.0.1:0]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// HOST:PORT at which other executors reach this one; port 0 stands for the port in use
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Memory that the state of one query may take here, for example 4GiB [default: half of the machine's or
    /// container's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub query_memory: Option<u64>,
    /// Parent of the private scratch folder [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub access: AccessArgs,
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The script; - reads stdin
    #[arg(value_name = "FILE.sql")]
    pub file: String,
    /// Name of the query [default: the file's stem]
    #[arg(long)]
    pub name: Option<String>,
    /// Wait until the query ends
    #[arg(long)]
    pub wait: bool,
    /// Stop and replace a query of this name; the new one begins with a new checkpoint
    #[arg(long)]
    pub replace: bool,
    /// Accept that the sinks already hold output of another query
    #[arg(long)]
    pub new_output: bool,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The script; - reads stdin
    #[arg(value_name = "FILE.sql")]
    pub file: String,
    /// Name of the query [default: the file's stem]
    #[arg(long)]
    pub name: Option<String>,
    /// Folder of the checkpoint, created if missing [default: ./highwater-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ScriptArgs {
    /// The script; - reads stdin
    #[arg(value_name = "FILE.sql")]
    pub file: String,
}

#[derive(Debug, Args)]
pub struct NameArgs {
    /// Name of the query
    #[arg(value_name = "N")]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct ProgressArgs {
    /// Name of the query
    #[arg(value_name = "N")]
    pub name: String,
    /// How many past batches to show
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub last: u32,
    /// Keep printing each batch at its commit, until the query ends
    #[arg(long)]
    pub follow: bool,
    /// Show rows, retractions and time of every operator below each batch
    #[arg(long)]
    pub stages: bool,
}

#[derive(Debug, Args)]
pub struct StartArgs {
    /// Name of the query
    #[arg(value_name = "N")]
    pub name: String,
    /// Wait until the query ends
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Args)]
pub struct DropArgs {
    /// Name of the query
    #[arg(value_name = "N")]
    pub name: String,
    /// Stop it first if it runs
    #[arg(long)]
    pub force: bool,
    /// Also delete the progress topics of its sinks; a new query of this name then needs no --new-output
    #[arg(long)]
    pub delete_progress: bool,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// List the checkpoints of a query
    Ls(CheckpointArgs),
    /// Show the content of one checkpoint
    Show {
        #[command(flatten)]
        at: CheckpointArgs,
        /// Micro-batch [default: the newest]
        #[arg(long, value_name = "B")]
        batch: Option<u64>,
    },
    /// Show the rows that an operator keeps in a checkpoint, or list the operators with state
    State(StateArgs),
    /// Write offsets/N, commits/N and state/… in Spark's layout
    Export {
        #[command(flatten)]
        at: CheckpointArgs,
        /// Folder to write into; must be empty or new
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Read every checkpoint and blob and compare the checksums
    Verify(CheckpointArgs),
}

#[derive(Clone, Debug, Args)]
pub struct CheckpointArgs {
    /// Name of the query
    #[arg(value_name = "N")]
    pub name: String,
    /// Folder of the checkpoints [default: ./highwater-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct StateArgs {
    #[command(flatten)]
    pub at: CheckpointArgs,
    /// Number of the operator, as explain and progress name it [default: list those that keep state]
    #[arg(long, value_name = "N")]
    pub operator: Option<u32>,
    /// Micro-batch after which the state was so [default: the newest]
    #[arg(long, value_name = "B")]
    pub batch: Option<u64>,
    /// Only rows with this text in a column of their key
    #[arg(long, value_name = "TEXT", requires = "operator")]
    pub key: Option<String>,
    /// Most rows shown; 0 shows all [default: 100]
    #[arg(long, value_name = "K", requires = "operator")]
    pub limit: Option<u64>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after this many seconds
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Card payments generated per second
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub rate: u32,
    /// Second after which one executor is killed; 0 kills none
    #[arg(long, value_name = "S", default_value_t = 20)]
    pub kill_after: u64,
    /// Print lines even on a terminal
    #[arg(long)]
    pub plain: bool,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Run Nexmark queries on generated auctions, on a running Kafka and a cluster started for the run
    Nexmark(NexmarkArgs),
}

#[derive(Clone, Debug, Args)]
pub struct NexmarkArgs {
    /// Queries, separated by commas: q0 to q23, or all
    #[arg(long, value_name = "Q,…", value_delimiter = ',', default_value = "all")]
    pub query: Vec<String>,
    /// Events generated: persons, auctions and bids together
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: u64,
    /// Events per second of event time; they are written as fast as possible
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub events_per_second: u64,
    /// Partitions of each topic of events
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: u32,
    /// Executors started for the run [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub executors: Option<u32>,
    /// Slots of each executor [default: cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: Option<u32>,
    /// The Kafka to write to and to read from
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:9092")]
    pub bootstrap_servers: String,
    /// Maximum records of a table in one micro-batch [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub batch_records: Option<u64>,
    /// Keep the topics, and print their names
    #[arg(long)]
    pub keep: bool,
    /// Print the script of a query (or of all) without running it
    #[arg(long, value_name = "Q")]
    pub print_sql: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_line_of_the_contract_parses() {
        for line in [
            "highwater driver --listen 127.0.0.1:7070 --http 127.0.0.1:7071 --data-dir ./highwater-data --config F.toml",
            "highwater driver --tls-cert c --tls-key k --tls-client-ca ca --tokens F.toml",
            "highwater executor --driver https://h:1 --tls-ca ca --tls-cert c --tls-key k",
            "highwater ls --driver https://h:1 --tls-ca ca --tls-cert c --tls-key k",
            "highwater executor --driver http://h:1 --slots 4 --listen 127.0.0.1:0 --advertise host:7080 --data-dir D",
            "highwater driver --allow-env KAFKA_PASSWORD,USER --allow-path /etc/highwater,/data",
            "highwater executor --allow-env KAFKA_PASSWORD --allow-path /data",
            "highwater submit q.sql --name n --wait --replace --new-output",
            "highwater submit - --name n",
            "highwater run q.sql --data-dir D",
            "highwater validate q.sql",
            "highwater explain q.sql --json",
            "highwater --json ls",
            "highwater status n",
            "highwater progress n --last 5 --follow",
            "highwater lag n",
            "highwater stop n",
            "highwater start n --wait",
            "highwater drop n --force",
            "highwater checkpoint ls n --data-dir D",
            "highwater checkpoint show n",
            "highwater checkpoint state n --batch 7 --json",
            "highwater checkpoint state n --operator 0 --batch 7 --key k --limit 0 --data-dir D",
            "highwater checkpoint export n --to out",
            "highwater checkpoint verify n --json",
            "highwater demo --seconds 30",
            "highwater bench nexmark",
            "highwater bench nexmark --query q5,q7 --events 1000 --executors 3 --bootstrap-servers h:1 --keep --json",
            "highwater bench nexmark --print-sql q5",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in [
            "highwater",
            "highwater submti q.sql",
            "highwater status",
            "highwater executor --slots 0",
            "highwater ls --tls-cert c",
            "highwater checkpoint state n --key k",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn progress_shows_one_batch_by_default() {
        let Command::Progress(args) = parse("highwater progress n").unwrap().command else { panic!("not progress") };
        assert_eq!((args.last, args.follow), (1, false));
    }
}
