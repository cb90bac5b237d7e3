//! Money is neither created nor lost: a million transfers between accounts through two aggregates, a full join and a
//! third aggregate, while processes die.

use highwater_testkit::{Highwater, KafkaCluster, Ledger};

/// Transfers per round.
const PART: u64 = 1_000_000 / 4;

#[test]
fn the_total_is_zero_at_every_commit_and_balances_are_exact() {
    let kafka = KafkaCluster::shared();
    let mut ledger = Ledger::new(kafka, "ledger");
    let mut cluster = Highwater::start(3);
    ledger.produce(PART);
    cluster.submit("ledger", &ledger.sql("SET max_offsets_per_trigger = 20000;"));
    cluster.wait("the first commits", || (!cluster.progress("ledger").is_empty()).then_some(()));
    cluster.kill_executor(1);
    ledger.produce(PART);
    cluster.wait_caught_up("ledger");
    ledger.assert_exact();
    cluster.kill_driver();
    cluster.start_driver(&[]);
    cluster.add_executor(&[]);
    ledger.produce(PART);
    ledger.produce(PART);
    cluster.wait_caught_up("ledger");
    assert!(cluster.progress("ledger").len() > 10, "all in few batches: it proves little");
    ledger.assert_exact();
}
