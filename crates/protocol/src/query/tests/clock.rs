//! Wall clocks that jump.

use super::*;
use crate::query::ClockWindow;

const HOUR: i64 = 3_600_000;

/// Runs an endless query whose wall clock is off by `skew` of the second. Returns real time and batch time of each
/// batch.
fn batches_while(trigger: Trigger, options: SourceOptions, skew: impl Fn(i64) -> i64) -> Vec<(i64, i64)> {
    let config = QueryConfig { trigger, ..with_options(options) };
    let mut query = Query::new(config);
    query.tell(executors(&[(1, 1)]));
    let mut batches = Vec::new();
    for ms in (1_000..100_000).step_by(100) {
        query.skew_ms = skew(ms / 1_000);
        query.now_ms = ms;
        query.tell(available(1, &[(0, ms), (1, ms)]));
        if let Some(run) = query.running.take() {
            query.running = Some(run.clone());
            query.complete();
            query.running = None;
            batches.push((ms, run.plan.timestamp_ms));
        }
    }
    batches
}

fn largest_gap(batches: &[(i64, i64)]) -> i64 {
    batches.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or(i64::MAX)
}

#[test]
fn triggers_and_rates_keep_working_while_the_wall_clock_jumps() {
    let jumps = |second: i64| match second {
        0..20 => 0,
        20..40 => -HOUR,
        40..60 => HOUR,
        _ => 0,
    };
    let every = batches_while(Trigger::Every { interval_ms: 1_000 }, SourceOptions::default(), jumps);
    assert!(largest_gap(&every) <= 2_100, "half as often at worst: {every:?}");
    assert!(every.len() >= 60 && every.len() <= 160, "{}", every.len());
    let limited = SourceOptions { max_records_per_second: Some(100), ..SourceOptions::default() };
    let rate = batches_while(Trigger::Asap, limited, jumps);
    assert!(largest_gap(&rate) <= 300, "{rate:?}");
    for batches in [every, rate] {
        for pair in batches.windows(2) {
            let (passed, advanced) = (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1);
            assert!(advanced >= passed / 2 - 2 && advanced <= passed * 2 + 2, "{advanced} in {passed} ms");
        }
    }
}

#[test]
fn no_partition_is_idle_because_the_clock_was_set_forward() {
    // given
    let mut config = with_options(SourceOptions { idle_timeout_ms: Some(60_000), ..SourceOptions::default() });
    config.sources[0].has_watermark = true;
    config.windowed = true;
    let mut query = Query::new(config);
    query.tell(executors(&[(1, 1)]));
    query.tell(available(1, &[(0, 3)]));
    query.finish_tasks_with(|task| {
        let mut report = report(task);
        report.partitions.values_mut().for_each(|read| read.max_watermark_ms = Some(500));
        report
    });
    let batch = query.run().plan.batch;
    query.tell(Event::Persisted { batch });
    query.publish_all();
    // when
    query.skew_ms = HOUR;
    let jumped = query.tell(topic("", &[(1, 0, 0)]));
    // then
    assert_eq!(jumped, vec![], "the other partition is at its end only since now");
    let told = (0..60).flat_map(|_| {
        query.now_ms += 1_000;
        names(&query.tell(topic("", &[(1, 0, 0)])))
    });
    assert_eq!(told.collect::<Vec<_>>(), ["run"], "a minute later it is idle");
}

#[test]
fn a_window_over_the_time_of_batches_ends_although_the_clock_was_set_back() {
    // given
    let window = ClockWindow { size_ms: 10_000, begin_every_ms: 10_000, end_every_ms: 10_000, offset_ms: 0 };
    let mut query = Query::new(QueryConfig { clock_windows: vec![(OperatorId(0), window)], ..config() });
    query.tell(executors(&[(1, 1)]));
    query.tell(available(1, &[(0, 3)]));
    query.complete();
    // when
    query.skew_ms = -HOUR;
    query.tell(Event::Tick);
    let mut wakes = 0;
    while query.running.as_ref().is_none_or(|run| run.plan.batch == BatchId(0)) {
        let wake = query.machine.next_wake_ms().expect("the window ends");
        query.tick_at(wake);
        wakes += 1;
        assert!(wakes < 50, "each wake comes closer to the end");
    }
    // then
    assert!(query.now_ms <= 21_000, "at half speed at worst: {}", query.now_ms);
    assert!(query.run().plan.timestamp_ms >= 10_000);
}
