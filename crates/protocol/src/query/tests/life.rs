//! A micro-batch from its plan to its commit, without failures.

use super::*;
use crate::ids::ShardId;
use crate::offsets::OffsetRange;
use crate::query::RunState;

#[test]
fn stages_that_write_the_same_sink_have_their_own_writers() {
    // given: the source stage writes the sink of the shards' stage as well
    let mut config = config();
    config.stages[0].sinks = vec![SinkId(0)];
    let mut query = Query::new(config);
    let actions = query.tell(executors(&[(1, 1), (2, 2)]));
    let counts: BTreeMap<SinkId, u32> = [(SinkId(0), 4)].into();
    assert_eq!(actions.last(), Some(&Action::ReserveWriters { counts: counts.clone() }));
    query.tell(Event::WritersReserved(counts));
    // when
    query.tell(available(1, &[(0, 3)]));
    // then
    let plan = query.run().plan;
    let writers: Vec<u32> = plan.tasks.iter().flat_map(|task| &task.writers).map(|plan| plan.writer.0).collect();
    assert_eq!(writers, [0, 1, 3], "two for each executor; the second reads nothing");
}

#[test]
fn without_executors_it_waits_and_says_so() {
    // given
    let mut query = Query::new(config());
    // when
    let actions = query.tell(Event::Tick);
    // then
    assert_eq!(actions, vec![]);
    assert!(matches!(query.machine.state(), RunState::Waiting(why) if why.contains("highwater executor")));
    assert_eq!(query.machine.next_wake_ms(), None);
}

#[test]
fn executors_are_opened_then_given_their_partitions() {
    // given
    let mut query = Query::new(config());
    // when
    let actions = query.tell(executors(&[(1, 1), (2, 2)]));
    // then
    assert_eq!(names(&actions), ["open", "open", "assign", "assign"]);
    assert_eq!(actions[2], assign(1, vec![(p(0), 0, None)]));
    assert_eq!(actions[3], assign(2, vec![(p(1), 0, None)]));
    assert_eq!(query.machine.state(), RunState::Running);
}

#[test]
fn the_first_batch_is_planned_over_the_records_read() {
    // given
    let mut query = Query::new(config());
    query.tell(executors(&[(1, 1), (2, 2)]));
    // when
    let actions = query.tell(available(1, &[(0, 3)]));
    // then
    assert_eq!(names(&actions), ["run"]);
    let run = query.run();
    assert_eq!((run.plan.batch, run.base, run.published.len()), (BatchId(0), None, 0));
    assert_eq!(run.plan.ranges, [(p(0), OffsetRange { start: 0, end: 3 })].into());
    let stages: Vec<u32> = run.plan.tasks.iter().map(|task| task.stage.0).collect();
    assert_eq!(stages, [0, 1, 1], "an executor without records has no source task; every one has shards");
    let shards: Vec<_> = run.plan.tasks_of(StageId(1)).map(|task| task.work.clone()).collect();
    assert_eq!(shards[0], TaskWork::Shards { first: ShardId(0), end: ShardId(2) });
    assert_eq!(shards[1], TaskWork::Shards { first: ShardId(2), end: ShardId(4) });
    assert_eq!(run.plan.writers().collect::<Vec<_>>(), [w(0), w(1)]);
    assert_eq!(run.placement.values().copied().collect::<Vec<_>>(), [e(1), e(1), e(2)]);
}

#[test]
fn availability_of_an_unassigned_partition_is_ignored() {
    // given
    let mut query = Query::new(config());
    query.tell(executors(&[(1, 1), (2, 2)]));
    // when
    let actions = query.tell(available(2, &[(0, 3)]));
    // then
    assert_eq!(actions, vec![]);
}

#[test]
fn when_all_tasks_are_done_the_checkpoint_is_written_and_nothing_else() {
    // given
    let mut query = Query::executing();
    // when
    let actions = query.finish_tasks();
    // then
    assert_eq!(names(&actions), ["persist"]);
    let Action::Persist { record } = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(record.positions, [(p(0), 3), (p(1), 0)].into());
    assert_eq!(record.plan, *query.run().plan);
    assert_eq!(record.writers.iter().map(|writer| writer.plan).collect::<Vec<_>>(), [w(0), w(1)]);
    assert_eq!((record.state.len(), record.totals.input_rows, record.totals.output_rows), (2, 3, 4));
    assert_eq!(query.machine.last_committed(), None);
    assert_eq!(query.machine.positions()[&p(0)], 0, "positions move with the commit");
}

#[test]
fn a_task_reported_twice_counts_once() {
    // given
    let mut query = Query::executing();
    let run = query.run();
    let task = &run.plan.tasks[1];
    let done = || Event::TaskDone { attempt: run.attempt, executor: e(1), report: Box::new(report(task)) };
    // when
    let (once, twice) = (query.tell(done()), query.tell(done()));
    // then
    assert_eq!((once, twice), (vec![], vec![]));
}

#[test]
fn writers_publish_only_after_the_checkpoint_is_durable() {
    // given
    let (mut query, record) = Query::preparing();
    // when
    let actions = query.tell(Event::Persisted { batch: record.batch() });
    // then
    assert_eq!(names(&actions), ["publish", "publish"]);
    let attempt = query.run().attempt;
    let expected = Action::Publish { attempt, batch: BatchId(0), executor: e(1), writers: vec![w(0)] };
    assert_eq!(actions[0], expected);
}

#[test]
fn an_answer_about_another_batch_is_ignored() {
    // given
    let (mut query, _) = Query::preparing();
    // when
    let actions = query.tell(Event::Persisted { batch: BatchId(7) });
    // then
    assert_eq!(actions, vec![]);
}

#[test]
fn writers_without_rows_are_not_told_to_publish() {
    // given
    let mut query = Query::executing();
    query.finish_tasks_with(|task| {
        let mut report = report(task);
        report.writers = task.writers.iter().map(|plan| writer_report(*plan, u64::from(plan.writer.0 == 1))).collect();
        report
    });
    // when
    let actions = query.tell(Event::Persisted { batch: BatchId(0) });
    // then
    let attempt = query.run().attempt;
    assert_eq!(actions, [Action::Publish { attempt, batch: BatchId(0), executor: e(2), writers: vec![w(1)] }]);
}

#[test]
fn a_batch_without_any_rows_is_committed_at_once() {
    // given
    let mut query = Query::executing();
    query.finish_tasks_with(|task| {
        let writers = task.writers.iter().map(|plan| writer_report(*plan, 0)).collect();
        TaskReport { writers, ..report(task) }
    });
    // when
    let actions = query.tell(Event::Persisted { batch: BatchId(0) });
    // then
    assert_eq!(names(&actions), ["committed"]);
}

#[test]
fn when_the_last_writer_has_published_the_batch_is_committed_and_the_next_planned() {
    // given
    let (mut query, record) = Query::publishing();
    query.tell(available(2, &[(1, 5)]));
    assert_eq!(query.published(w(0), true), vec![]);
    let attempt = query.run().attempt;
    // when
    let actions = query.published(w(1), true);
    // then
    assert_eq!(names(&actions), ["committed", "run"]);
    let batch = committed(&actions);
    assert_eq!((batch.attempt, batch.record.batch()), (attempt, BatchId(0)));
    assert_eq!(batch.executors, [e(1), e(2)].into());
    assert_eq!(batch.previous[&p(0)], 0);
    assert_eq!(query.machine.positions(), &record.positions);
    let next = query.run();
    assert_eq!((next.plan.batch, next.base), (BatchId(1), Some(BatchId(0))));
    assert_eq!(next.plan.ranges, [(p(1), OffsetRange { start: 0, end: 5 })].into());
    assert!(next.attempt > attempt);
}

#[test]
fn no_batch_is_dispatched_while_another_is_under_way() {
    // given
    let (mut query, _) = Query::preparing();
    // when
    let while_preparing = query.tell(available(1, &[(0, 9)]));
    query.tell(Event::Persisted { batch: BatchId(0) });
    let while_publishing = query.tell(available(2, &[(1, 9)]));
    // then
    assert_eq!((while_preparing, while_publishing), (vec![], vec![]));
}

#[test]
fn a_new_executor_is_opened_at_once_and_gets_its_share_with_the_next_batch() {
    // given
    let mut query = Query::executing();
    // when
    let joined = query.tell(executors(&[(1, 1), (2, 2), (3, 3)]));
    let actions = query.complete();
    // then
    assert_eq!(joined, [Action::Open { executor: e(3) }]);
    assert_eq!(names(&actions), ["committed", "assign", "assign", "assign", "reserve"]);
    query.tell(Event::WritersReserved([(SinkId(0), 3)].into()));
    query.tell(available(1, &[(0, 4)]));
    assert_eq!(query.run().plan.tasks_of(StageId(1)).count(), 3);
}

#[test]
fn a_partition_found_later_is_read_from_its_first_record() {
    // given
    let mut query = Query::new(config());
    query.tell(executors(&[(1, 1)]));
    // when
    let actions = query.tell(topic("", &[(0, 0, 99), (2, 0, 50)]));
    // then
    let partitions = vec![(p(0), 0, None), (p(1), 0, None), (p(2), 0, None)];
    assert_eq!(actions, [assign(1, partitions)], "known partitions keep their positions");
}
