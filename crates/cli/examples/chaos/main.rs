//! Random kills, hangs, restarts and new executors under load on a real Kafka; after every round the output must be
//! exact. `make chaos` runs it until it is stopped, or for `--minutes`. A seed repeats the choices, not the timing.

#![allow(clippy::print_stdout)]

use clap::Parser;
use highwater_testkit::{Highwater, KafkaCluster, Ledger, Payments};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};

const PARTITIONS: u64 = 10;
/// Records of one round.
const ROUND: u64 = 20_000;
/// Transfers of one round, until `--transfers` is reached.
const TRANSFERS: u64 = 250_000;

/// Kills processes at random and checks that the output stays exact.
#[derive(Parser, Clone, Debug)]
struct Args {
    /// End after this many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Repeats the choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Transfers between accounts whose total must be zero at every commit.
    #[arg(long, default_value_t = 10_000_000)]
    transfers: u64,
}

/// One kind of fault.
#[derive(Clone, Copy, Debug)]
enum Harm {
    KillExecutor,
    KillDriver,
    FreezeExecutor,
    AddExecutor,
    Nothing,
}

fn main() {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let kafka = KafkaCluster::start(1);
    let payments = Payments::new(&kafka, "chaos", PARTITIONS as i32);
    let mut cluster = Highwater::start(3);
    cluster.submit("chaos", &payments.sql("SET max_offsets_per_trigger = 2000;"));
    let mut ledger = Ledger::new(&kafka, "ledger");
    cluster.submit("ledger", &ledger.sql("SET max_offsets_per_trigger = 20000;"));
    let mut transfers = 0;
    let mut alive: Vec<usize> = vec![0, 1, 2];
    let began = Instant::now();
    let mut records = 0;
    while args.minutes.is_none_or(|minutes| began.elapsed() < Duration::from_secs(minutes * 60)) {
        let mut harms = Vec::new();
        let more = TRANSFERS.min(args.transfers - transfers);
        ledger.produce(more);
        transfers += more;
        for _ in 0..4 {
            payments.produce(records..records + ROUND / 4, PARTITIONS);
            records += ROUND / 4;
            std::thread::sleep(Duration::from_millis(random.random_range(0..700)));
            let harm = choose(&mut random, alive.len());
            harms.push(harm);
            inflict(harm, &mut cluster, &mut alive, &mut random);
        }
        cluster.wait_caught_up("chaos");
        payments.assert_exact(records);
        if more > 0 {
            cluster.wait_caught_up("ledger");
            ledger.assert_exact();
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("{seconds:>6.0} s: {records} records and {transfers} transfers exact after {harms:?}");
    }
}

fn choose(random: &mut StdRng, alive: usize) -> Harm {
    match random.random_range(0..6) {
        0 | 1 if alive > 1 => Harm::KillExecutor,
        2 => Harm::KillDriver,
        3 if alive > 1 => Harm::FreezeExecutor,
        4 if alive < 4 => Harm::AddExecutor,
        _ => Harm::Nothing,
    }
}

fn inflict(harm: Harm, cluster: &mut Highwater, alive: &mut Vec<usize>, random: &mut StdRng) {
    match harm {
        Harm::KillExecutor => {
            let victim = alive.remove(random.random_range(0..alive.len()));
            cluster.kill_executor(victim);
        }
        Harm::KillDriver => {
            cluster.kill_driver();
            cluster.start_driver(&[]);
        }
        Harm::FreezeExecutor => {
            let victim = alive[random.random_range(0..alive.len())];
            cluster.executor(victim).freeze();
            std::thread::sleep(Duration::from_millis(random.random_range(500..5_000)));
            cluster.executor(victim).thaw();
        }
        Harm::AddExecutor => alive.push(cluster.add_executor(&[])),
        Harm::Nothing => {}
    }
}
