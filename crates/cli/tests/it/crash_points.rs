//! SIGKILL at every named step between planning and commit: the point is reached, and the output stays exact.

use highwater_testkit::highwater::DEADLINE;
use highwater_testkit::{Highwater, KafkaCluster, Payments};

const PARTITIONS: u64 = 4;
const RECORDS: u64 = 12_000;
const SETTINGS: &str = "SET max_offsets_per_trigger = 2000;";

/// The environment that arms a point, and the file that shows whether it was reached.
fn armed(cluster: &Highwater, point: &str) -> (Vec<(&'static str, String)>, std::path::PathBuf) {
    let log = cluster.path().join("crash.log");
    let env =
        vec![("HIGHWATER_CRASH_POINT", point.to_string()), ("HIGHWATER_CRASH_LOG", log.to_str().unwrap().to_string())];
    (env, log)
}

fn was_hit(log: &std::path::Path, point: &str) -> bool {
    let name = point.split(':').next().unwrap();
    std::fs::read_to_string(log).is_ok_and(|text| text.contains(name))
}

/// `point` is `name:nth`.
fn kill_driver_at(test: &str, point: &str) {
    let payments = Payments::new(KafkaCluster::shared(), test, PARTITIONS as i32);
    payments.produce(0..RECORDS, PARTITIONS);
    let mut cluster = Highwater::stopped();
    let (env, log) = armed(&cluster, point);
    cluster.start_driver(&env);
    cluster.add_executor(&[]);
    cluster.add_executor(&[]);
    cluster.submit("totals", &payments.sql(SETTINGS));
    cluster.driver().wait(DEADLINE);
    assert!(was_hit(&log, point), "the driver died elsewhere\n{}", cluster.logs());
    cluster.start_driver(&env);
    cluster.wait_caught_up("totals");
    payments.assert_exact(RECORDS);
    payments.produce(RECORDS..RECORDS + 1_000, PARTITIONS);
    cluster.wait_caught_up("totals");
    payments.assert_exact(RECORDS + 1_000);
}

fn kill_executor_at(test: &str, point: &str) {
    let payments = Payments::new(KafkaCluster::shared(), test, PARTITIONS as i32);
    payments.produce(0..RECORDS, PARTITIONS);
    let mut cluster = Highwater::start(1);
    let (env, log) = armed(&cluster, point);
    let doomed = cluster.add_executor(&env);
    cluster.submit("totals", &payments.sql(SETTINGS));
    cluster.executor(doomed).wait(DEADLINE);
    assert!(was_hit(&log, point), "the executor died elsewhere\n{}", cluster.logs());
    cluster.wait_caught_up("totals");
    payments.assert_exact(RECORDS);
    cluster.add_executor(&[]);
    payments.produce(RECORDS..RECORDS + 1_000, PARTITIONS);
    cluster.wait_caught_up("totals");
    payments.assert_exact(RECORDS + 1_000);
}

macro_rules! crash_tests {
    ($kill:ident: $($name:ident = $point:literal,)*) => {
        $(#[test]
        fn $name() {
            $kill(&stringify!($name).replace('_', "-"), $point);
        })*
    };
}

crash_tests! { kill_driver_at:
    driver_after_plan = "driver_after_plan:2",
    driver_after_dispatch = "driver_after_dispatch:2",
    driver_before_prepare = "driver_before_prepare:2",
    driver_after_prepare = "driver_after_prepare:2",
    driver_after_the_first_publish_command = "driver_between_publishes:3",
    driver_after_publish = "driver_after_publish:2",
    driver_after_commit = "driver_after_commit:2",
}

crash_tests! { kill_executor_at:
    executor_after_assign = "executor_after_assign",
    executor_mid_read = "executor_mid_read:3",
    executor_before_exchange_end = "executor_before_exchange_end:3",
    executor_before_flush = "executor_before_flush:3",
    executor_after_flush = "executor_after_flush:3",
    executor_before_task_done = "executor_before_task_done:3",
    executor_before_publish = "executor_before_publish:3",
    executor_between_publishes = "executor_before_publish:4",
    executor_after_publish = "executor_after_publish:3",
    executor_after_promote = "executor_after_promote:2",
}
