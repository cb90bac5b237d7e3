//! When a batch is planned, and how much it reads.

use super::*;
use crate::offsets::OffsetRange;
use crate::query::ClockWindow;
use crate::report::OperatorMetrics;

fn ranges(query: &Query) -> Vec<(i32, i64, i64)> {
    query.run().plan.ranges.iter().map(|(partition, range)| (partition.tp.partition, range.start, range.end)).collect()
}

/// One executor reads both partitions.
fn alone(config: QueryConfig) -> Query {
    let mut query = Query::new(config);
    query.tell(executors(&[(1, 1)]));
    query
}

#[test]
fn max_offsets_per_trigger_bounds_a_batch_over_all_partitions() {
    // given
    let options = SourceOptions { max_offsets_per_trigger: Some(6), ..SourceOptions::default() };
    let mut query = alone(with_options(options));
    // when
    query.tell(available(1, &[(0, 8), (1, 4)]));
    // then
    assert_eq!(ranges(&query), [(0, 0, 4), (1, 0, 2)], "in proportion to what there is");
    query.complete();
    assert_eq!(ranges(&query), [(0, 4, 8), (1, 2, 4)]);
}

#[test]
fn a_rate_limit_bounds_batches_by_the_time_that_has_passed() {
    // given
    let options = SourceOptions { max_records_per_second: Some(1_000), ..SourceOptions::default() };
    let mut query = alone(with_options(options));
    query.now_ms = 50;
    // when
    query.tell(available(1, &[(0, 500)]));
    // then
    assert_eq!(ranges(&query), [(0, 0, 51)], "51 ms are worth 51 records");
    // when
    let actions = query.complete();
    // then
    assert_eq!(names(&actions), ["committed"], "too little time has passed");
    let wake = query.machine.next_wake_ms().unwrap();
    assert!(wake > query.now_ms && wake <= query.now_ms + 10, "{wake}");
    assert_eq!(names(&query.tick_at(wake)), ["run"]);
    let (_, start, end) = ranges(&query)[0];
    assert!(start == 51 && end - start >= 10 && end <= wake, "{start}..{end} at {wake} ms");
}

#[test]
fn min_offsets_per_trigger_holds_a_batch_back_until_the_delay_is_over() {
    // given
    let options = SourceOptions {
        min_offsets_per_trigger: Some(10),
        max_trigger_delay_ms: Some(500),
        ..SourceOptions::default()
    };
    let mut query = alone(with_options(options));
    // when
    let too_few = query.tell(available(1, &[(0, 3)]));
    let since = query.now_ms;
    // then
    assert_eq!(too_few, vec![]);
    assert_eq!(query.machine.next_wake_ms(), Some(since + 500));
    assert_eq!(query.tick_at(since + 499), vec![]);
    assert_eq!(names(&query.tick_at(since + 500)), ["run"]);
    query.complete();
    assert_eq!(names(&query.tell(available(1, &[(0, 13)]))), ["run"], "enough is there: no delay");
}

#[test]
fn the_trigger_every_plans_at_multiples_of_its_interval() {
    // given
    let mut query = alone(QueryConfig { trigger: Trigger::Every { interval_ms: 100 }, ..config() });
    // when
    let early = query.tell(available(1, &[(0, 3)]));
    // then
    assert_eq!(early, vec![]);
    assert_eq!(query.machine.next_wake_ms(), Some(100));
    assert_eq!(query.tick_at(99), vec![]);
    assert_eq!(names(&query.tick_at(100)), ["run"]);
    query.tell(available(1, &[(0, 9)]));
    assert_eq!(names(&query.complete()), ["committed"], "the next boundary has not come");
    assert_eq!(query.machine.next_wake_ms(), Some(200));
    assert_eq!(names(&query.tick_at(250)), ["run"], "a late tick plans it, too");
    assert_eq!(ranges(&query), [(0, 3, 9)]);
}

#[test]
fn a_batch_that_fell_due_between_steps_is_planned() {
    // given a rate whose records are all there
    let options = SourceOptions { max_records_per_second: Some(100), ..SourceOptions::default() };
    let mut query = alone(with_options(options));
    query.tell(available(1, &[(0, 1_000)]));
    // when the next step comes long after the wake that the last one asked for
    let wake = query.machine.next_wake_ms().expect("tokens gather");
    // then that wake is still asked for, though its time has passed
    assert_eq!(query.machine.next_wake_ms(), Some(wake));
    assert_eq!(names(&query.tick_at(wake + 50)), ["run"]);
}

fn ending(trigger: Trigger) -> QueryConfig {
    let options = SourceOptions { max_offsets_per_trigger: Some(4), ..SourceOptions::default() };
    QueryConfig { trigger, end_positions: [(p(0), 5), (p(1), 3)].into(), ..with_options(options) }
}

#[test]
fn once_reads_everything_in_one_batch_and_finishes() {
    // given
    let mut query = Query::new(ending(Trigger::Once));
    // when
    let actions = query.tell(executors(&[(1, 1)]));
    // then
    assert_eq!(names(&actions), ["open", "assign", "run"]);
    assert_eq!(ranges(&query), [(0, 0, 5), (1, 0, 3)], "whatever the limits");
    let actions = query.complete();
    assert_eq!(names(&actions), ["committed", "ended"]);
    assert_eq!(end(&actions), &End::Finished);
}

#[test]
fn available_now_keeps_to_the_limits_and_finishes_at_its_ends() {
    // given
    let mut query = alone(ending(Trigger::AvailableNow));
    // when
    query.tell(available(1, &[(0, 50), (1, 50)]));
    let first = ranges(&query);
    query.complete();
    let second = ranges(&query);
    let actions = query.complete();
    // then
    let read = |ranges: &[(i32, i64, i64)]| ranges.iter().map(|(_, start, end)| end - start).sum::<i64>();
    assert_eq!((read(&first), read(&second)), (4, 4));
    assert_eq!(names(&actions), ["committed", "ended"], "nothing beyond the ends is read");
    assert_eq!(query.machine.positions(), &[(p(0), 5), (p(1), 3)].into());
}

#[test]
fn a_query_already_at_its_ends_finishes_without_a_batch() {
    // given
    let mut query = Query::new(QueryConfig { end_positions: [(p(0), 0), (p(1), 0)].into(), ..config() });
    // when
    let actions = query.tell(executors(&[(1, 1)]));
    // then
    assert_eq!(names(&actions), ["open", "assign", "ended"]);
    assert_eq!(end(&actions), &End::Finished);
}

#[test]
fn a_bounded_query_ignores_partitions_that_appear_later() {
    // given
    let mut query = alone(ending(Trigger::AvailableNow));
    // when
    let actions = query.tell(topic("", &[(2, 0, 0)]));
    // then
    assert_eq!(actions, vec![]);
    assert!(!query.machine.positions().contains_key(&p(2)));
}

/// A report with this highest watermark value in each range.
fn report_at(task: &TaskPlan, watermark_ms: i64) -> TaskReport {
    let mut report = report(task);
    report.partitions.values_mut().for_each(|read| read.max_watermark_ms = Some(watermark_ms));
    report
}

#[test]
fn an_advancing_watermark_closes_windows_in_a_batch_without_records() {
    // given
    let mut config = with_options(SourceOptions { idle_timeout_ms: Some(1_000), ..SourceOptions::default() });
    config.windowed = true;
    config.sources[0].has_watermark = true;
    let mut query = alone(config);
    query.tell(available(1, &[(0, 3), (1, 0)]));
    assert_eq!(query.run().plan.close_before, BTreeMap::new(), "nothing is known of event time");
    query.finish_tasks_with(|task| report_at(task, 70));
    query.tell(Event::Persisted { batch: BatchId(0) });
    // when
    let actions = query.publish_all();
    // then
    assert_eq!(names(&actions), ["committed"], "the other partition, unread so far, holds the watermark");
    assert_eq!(query.machine.next_wake_ms(), None, "an executor's report that it is at the end is not enough");
    query.tell(topic("", &[(0, 0, 3), (1, 0, 0)]));
    // when
    query.now_ms += 990;
    assert_eq!(query.tell(topic("", &[(0, 0, 3), (1, 0, 0)])), []);
    query.now_ms += 10;
    query.tell(topic("", &[(0, 0, 3), (1, 0, 0)]));
    // then
    let run = query.run();
    assert_eq!((run.plan.batch, &run.plan.ranges), (BatchId(1), &BTreeMap::<_, OffsetRange>::new()));
    assert_eq!(run.plan.close_before, [(SourceId(0), 70)].into());
    assert_eq!(run.plan.late_before, BTreeMap::new(), "the batch before closed nothing");
    let actions = query.complete();
    assert_eq!(names(&actions), ["committed"], "closed once");
    query.tell(available(1, &[(0, 4), (1, 0)]));
    assert_eq!(query.run().plan.late_before, [(SourceId(0), 70)].into());
}

/// A report in which the windows get a row.
fn report_rows(task: &TaskPlan) -> TaskReport {
    let row = OperatorMetrics { operator: OperatorId(0), rows_updated: 1, ..OperatorMetrics::default() };
    TaskReport { operators: vec![row], ..report(task) }
}

fn tumble(size_ms: i64, offset_ms: i64) -> ClockWindow {
    ClockWindow { size_ms, begin_every_ms: size_ms, end_every_ms: size_ms, offset_ms }
}

#[test]
fn ends_of_the_windows_that_contain_a_row() {
    let all = |window: ClockWindow, rows: i64| {
        let ends = std::iter::successors(window.next_end_ms(rows, rows), |last| window.next_end_ms(rows, *last));
        ends.collect::<Vec<_>>()
    };
    assert_eq!((all(tumble(1_000, 300), 1_299), all(tumble(1_000, 300), 1_300)), (vec![1_300], vec![2_300]));
    assert_eq!(all(tumble(1_000, 0), -1), [0]);
    // [1000, 1500), [1200, 1700), [1400, 1900): 1450 is in all of them, 1500 no longer in the first.
    let hop = ClockWindow { size_ms: 500, begin_every_ms: 200, end_every_ms: 200, offset_ms: 0 };
    assert_eq!((all(hop, 1_450), all(hop, 1_500)), (vec![1_500, 1_700, 1_900], vec![1_700, 1_900]));
    // Windows with a pause after each.
    let paused = ClockWindow { size_ms: 100, begin_every_ms: 1_000, end_every_ms: 1_000, offset_ms: 0 };
    assert_eq!((all(paused, 2_050), all(paused, 2_500)), (vec![2_100], vec![]));
    let cumulate = ClockWindow { size_ms: 900, begin_every_ms: 900, end_every_ms: 300, offset_ms: 50 };
    assert_eq!((all(cumulate, 360), all(cumulate, 949)), (vec![650, 950], vec![950]));
    assert_eq!(cumulate.next_end_ms(360, 700), Some(950));
}

#[test]
fn the_clock_closes_windows_in_a_batch_without_records() {
    // given windows of a second, at 300 ms past each
    let window = tumble(1_000, 300);
    let mut query = alone(QueryConfig { clock_windows: vec![(OperatorId(0), window)], ..config() });
    let complete_with = |query: &mut Query, report: fn(&TaskPlan) -> TaskReport| {
        let batch = query.run().plan.batch;
        query.finish_tasks_with(report);
        query.tell(Event::Persisted { batch });
        assert_eq!(names(&query.publish_all()), ["committed"]);
    };
    assert_eq!(query.machine.next_wake_ms(), None, "no window has a row");
    query.tick_at(1_000);
    query.tell(available(1, &[(0, 3)]));
    let began = query.run().plan.timestamp_ms;
    complete_with(&mut query, report_rows);
    // when
    let end = query.machine.next_wake_ms().expect("the window ends");
    // then
    assert_eq!(Some(end), window.next_end_ms(began, began));
    assert_eq!(query.tick_at(end - 1), vec![], "it is not over yet");
    assert_eq!(names(&query.tick_at(end)), ["run"]);
    assert_eq!((&query.run().plan.ranges, query.run().plan.timestamp_ms), (&BTreeMap::new(), end));
    // when windows of an operator below close in that batch and emit a row into it
    complete_with(&mut query, report_rows);
    // then
    assert_eq!(query.machine.next_wake_ms(), Some(end + 1_000));
    query.tick_at(end + 1_000);
    complete_with(&mut query, report);
    assert_eq!(query.machine.next_wake_ms(), None, "all are closed, once");
    // when records come that no window gets
    query.tell(available(1, &[(0, 4)]));
    complete_with(&mut query, report);
    // then
    assert_eq!(query.machine.next_wake_ms(), None);
}
