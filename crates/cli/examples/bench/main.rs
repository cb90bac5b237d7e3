//! Throughput, latency, recovery time and memory of Highwater on a real Kafka, next to a plain consumer of the same
//! topic in the same run; large state; and Nexmark, with answers compared with DuckDB's. `make bench` runs it;
//! `--records`, `--seconds`, `--state-records`, `--state-keys`, `--nexmark-events` and `--only` make it smaller.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod latency;
mod nexmark;
#[path = "../../tests/it/nexmark_check.rs"]
mod nexmark_check;
mod recovery;
mod state;
mod throughput;
mod usage;

use clap::Parser;
use highwater_testkit::{Highwater, KafkaCluster};

/// Measures Highwater on a real Kafka.
#[derive(Parser, Clone, Debug)]
pub struct Args {
    /// Records of the throughput topic.
    #[arg(long, default_value_t = 4_000_000)]
    records: u64,
    /// Seconds of each latency measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Events of Nexmark.
    #[arg(long, default_value_t = 10_000_000)]
    nexmark_events: u64,
    /// Only these queries of Nexmark, for example `q5,q7`.
    #[arg(long, value_delimiter = ',')]
    nexmark_queries: Vec<String>,
    /// Records of the hour-long windows.
    #[arg(long, default_value_t = 10_000_000)]
    state_records: u64,
    /// Keys of the hour-long windows.
    #[arg(long, default_value_t = 2_000_000)]
    state_keys: u64,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', default_value = "throughput,latency,recovery,state,nexmark")]
    only: Vec<String>,
}

fn main() {
    let args = Args::parse();
    let kafka = KafkaCluster::start(1);
    let wanted = |part: &str| args.only.iter().any(|only| only == part);
    println!("Kafka at {}; {} cores", kafka.bootstrap_servers(), std::thread::available_parallelism().unwrap());
    if wanted("throughput") {
        throughput::measure(&kafka, args.records);
    }
    if wanted("latency") {
        latency::measure(&kafka, args.seconds);
    }
    if wanted("recovery") {
        recovery::measure(&kafka, args.seconds);
    }
    if wanted("state") {
        state::measure(&kafka, args.state_records, args.state_keys);
    }
    if wanted("nexmark") {
        nexmark::measure(&kafka, args.nexmark_events, &args.nexmark_queries);
    }
}

/// Starts a cluster of the release build; executors have one slot per core, the default.
pub fn start(executors: usize) -> Highwater {
    let mut cluster = Highwater::start(0);
    for _ in 0..executors {
        cluster.add_executor_with(&[], &[]);
    }
    cluster
}
