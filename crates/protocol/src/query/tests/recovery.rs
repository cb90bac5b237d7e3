//! Runs that begin with a checkpoint, sinks that are ahead of it, and how runs are stopped.

use super::*;
use crate::error::ErrorKind;
use crate::query::{Resolution, RunState};

/// A new driver finds the prepared batch of an earlier one.
fn recovered() -> (Query, Arc<PrepareRecord>, Vec<Action>) {
    let (_, record) = Query::preparing();
    let config = QueryConfig { epoch: Epoch(4), ..config() };
    let (machine, actions) = QueryMachine::recover(config, Some((*record).clone()), 5_000);
    (Query { machine, now_ms: 5_000, running: None, asked: 1, skew_ms: 0 }, record, actions)
}

fn both(resolutions: [Resolution; 2]) -> [(WriterPlan, Resolution); 2] {
    [(w(0), resolutions[0]), (w(1), resolutions[1])]
}

#[test]
fn after_a_restart_the_writers_are_fenced_and_asked_before_anything_else() {
    // given, when
    let (mut query, record, actions) = recovered();
    // then
    let writers = record.writers.clone();
    assert_eq!(actions, [Action::Resolve { number: 1, batch: Some(BatchId(0)), writers, whole: true }]);
    let actions = query.tell(executors(&[(1, 1)]));
    assert_eq!(actions, [Action::Open { executor: e(1) }], "no partition and no task before the sinks have answered");
    assert_eq!(query.machine.state(), RunState::Starting);
}

#[test]
fn a_batch_that_every_writer_holds_is_adopted_and_the_next_one_planned() {
    // given
    let (mut query, record, _) = recovered();
    query.tell(executors(&[(1, 1)]));
    // when
    let actions = query.resolved(both([Resolution::Published; 2]));
    // then
    assert_eq!(names(&actions), ["committed", "assign"]);
    assert!(committed(&actions).executors.is_empty(), "no executor holds an overlay of it");
    let partitions = vec![(p(0), 3, None), (p(1), 0, None)];
    assert_eq!(actions[1], assign(1, partitions));
    assert_eq!(query.machine.last_committed(), Some(BatchId(0)));
    assert_eq!(query.machine.totals(), &record.totals);
    query.tell(available(1, &[(0, 4)]));
    let next = query.run();
    assert_eq!((next.plan.batch, next.base, next.attempt.epoch), (BatchId(1), Some(BatchId(0)), Epoch(4)));
}

#[test]
fn a_batch_that_some_writers_lack_is_finished_with_its_own_plan() {
    // given
    let (mut query, record, _) = recovered();
    // when
    let without_executors = query.resolved(both([Resolution::Published, Resolution::NotPublished]));
    let actions = query.tell(executors(&[(7, 1)]));
    // then
    assert_eq!(without_executors, vec![]);
    assert_eq!(names(&actions), ["open", "assign", "run"]);
    let ranges = vec![(p(0), 0, None)];
    assert_eq!(actions[1], assign(7, ranges), "exactly what the plan reads");
    let run = query.run();
    assert_eq!((*run.plan).clone(), record.plan);
    assert_eq!((run.base, run.published.clone()), (None, [w(0)].into()));
    // when
    let actions = query.finish_tasks();
    // then
    assert_eq!(names(&actions), ["publish"], "it is durable already");
    let actions = query.published(w(1), true);
    assert_eq!(names(&actions), ["committed", "assign"], "afterwards partitions are spread as usual");
}

#[test]
fn finishing_survives_the_loss_of_executors_and_asks_again() {
    // given
    let (mut query, record, _) = recovered();
    query.tell(executors(&[(7, 1)]));
    query.resolved(both([Resolution::NotPublished; 2]));
    let first = query.run();
    // when
    let actions = query.tell(executors(&[(8, 1)]));
    // then
    assert_eq!(names(&actions), ["open", "abort", "resolve"]);
    let writers = record.writers.clone();
    assert_eq!(actions[2], Action::Resolve { number: 2, batch: Some(BatchId(0)), writers, whole: false });
    query.resolved(both([Resolution::NotPublished; 2]));
    assert!(query.run().attempt > first.attempt);
    assert_eq!(*query.run().plan, record.plan);
}

#[test]
fn a_recovered_query_whose_sink_is_ahead_fails() {
    // given
    let (mut query, ..) = recovered();
    // when
    let actions = query.resolved(both([Resolution::Published, Resolution::Ahead { batch: BatchId(9) }]));
    // then
    assert!(failure(&actions).contains("batch 9"));
}

#[test]
fn progress_of_a_writer_missing_from_the_newest_record_stops_the_query() {
    for (held, batch) in
        [(Resolution::Ahead { batch: BatchId(2) }, "batch 2"), (Resolution::Published, "a different one")]
    {
        // given
        let (mut query, ..) = recovered();
        // when
        let found = [(w(0), Resolution::Published), (w(1), Resolution::Published), (w(7), held)];
        let actions = query.resolved(found);
        // then
        let message = failure(&actions);
        assert!(message.contains("writer 7") && message.contains(batch), "{message}");
    }
    // given
    let (mut query, ..) = recovered();
    // when
    let behind = [(w(0), Resolution::Published), (w(1), Resolution::Published), (w(7), Resolution::NotPublished)];
    // then
    assert_eq!(names(&query.resolved(behind)), ["committed"]);
}

#[test]
fn a_query_without_a_checkpoint_whose_sink_holds_its_rows_stops_and_names_the_remedies() {
    // given
    let (machine, actions) = QueryMachine::recover(config(), None, 0);
    let mut query = Query { machine, now_ms: 0, running: None, asked: 1, skew_ms: 0 };
    let writers = vec![unwritten(0), unwritten(1)];
    assert_eq!(
        actions,
        [Action::Resolve { number: 1, batch: None, writers, whole: true }],
        "all that may have been in use"
    );
    // when
    let actions = query.resolved([(w(1), Resolution::Ahead { batch: BatchId(5) })]);
    // then
    let message = failure(&actions);
    assert!(message.contains("batch 5") && message.contains("the checkpoint has no batch"), "{message}");
    assert!(message.contains("--new-output"), "{message}");
}

#[test]
fn writers_are_used_only_after_their_number_is_durable() {
    // given
    let mut query = Query::new(config());
    let three = executors(&[(1, 1), (2, 2), (3, 3)]);
    // when
    let actions = query.tell(three);
    query.tell(available(1, &[(0, 3)]));
    // then
    assert_eq!(names(&actions), ["open", "open", "open", "assign", "assign", "assign", "reserve"]);
    let counts: BTreeMap<SinkId, u32> = [(SinkId(0), 3)].into();
    assert_eq!(actions[6], Action::ReserveWriters { counts: counts.clone() });
    assert!(query.running.is_none());
    // when
    query.tell(Event::ReserveFailed { kind: ErrorKind::Retry, message: "no space".into() });
    // then
    assert!(matches!(query.machine.state(), RunState::Waiting(message) if message.contains("no space")));
    let again = query.machine.next_wake_ms().unwrap();
    assert_eq!(query.tick_at(again), [Action::ReserveWriters { counts: counts.clone() }]);
    let actions = query.tell(Event::WritersReserved(counts));
    assert_eq!(names(&actions), ["run"]);
    query.complete();
    let fewer_and_more_again =
        [executors(&[(1, 1)]), executors(&[(1, 1), (4, 4), (5, 5)])].map(|event| names(&query.tell(event)));
    assert!(!fewer_and_more_again.concat().contains(&"reserve"), "enough are reserved: {fewer_and_more_again:?}");
    // when, then
    let config = QueryConfig { reserved_writers: [(SinkId(0), 3)].into(), ..config() };
    let (_, actions) = QueryMachine::recover(config, None, 0);
    let writers = vec![unwritten(0), unwritten(1), unwritten(2)];
    assert_eq!(actions, [Action::Resolve { number: 1, batch: None, writers, whole: true }], "fenced by the next run");
}

#[test]
fn a_stop_between_batches_ends_at_once() {
    // given
    let mut query = Query::new(config());
    query.tell(executors(&[(1, 1)]));
    // when
    let actions = query.tell(Event::Stop);
    // then
    assert_eq!(actions, [Action::Ended(End::Stopped)]);
    assert_eq!(query.machine.state(), RunState::Ended(End::Stopped));
}

#[test]
fn a_run_after_a_stop_shares_no_attempt_with_the_run_before() {
    // given
    let mut query = Query::executing();
    let before = query.run().attempt;
    query.tell(Event::Stop);
    query.tell(executors(&[]));
    // when
    let config = QueryConfig { first_attempt: 1 << 32, ..config() };
    // The clock was set back meanwhile.
    let (machine, _) = QueryMachine::recover(config, None, 0);
    let mut again = Query { machine, now_ms: 0, running: None, asked: 1, skew_ms: 0 };
    again.tell(Event::Resolved { number: 1, found: BTreeMap::new() });
    again.tell(executors(&[(1, 1)]));
    again.tell(available(1, &[(0, 3)]));
    // then
    assert_eq!(again.run().attempt.epoch, before.epoch, "the same driver");
    assert!(again.run().attempt > before, "reports of the old run are told from those of the new one");
}

#[test]
fn a_stop_waits_for_the_batch_in_flight() {
    // given
    let mut query = Query::executing();
    // when
    let asked = query.tell(Event::Stop);
    let actions = query.complete();
    // then
    assert_eq!(asked, vec![]);
    assert_eq!(names(&actions), ["committed", "ended"]);
    assert_eq!(end(&actions), &End::Stopped);
}

#[test]
fn a_stop_that_waits_too_long_drops_an_attempt_and_leaves_a_prepared_batch_for_later() {
    // given
    let mut executing = Query::executing();
    let (mut publishing, _) = Query::publishing();
    for (query, expected) in [(&mut executing, vec!["abort", "ended"]), (&mut publishing, vec!["ended"])] {
        // when
        query.tell(Event::Stop);
        let due = query.machine.next_wake_ms().unwrap();
        assert_eq!(query.tick_at(due - 1), vec![]);
        let actions = query.tick_at(due);
        // then
        assert_eq!(names(&actions), expected);
        assert_eq!(end(&actions), &End::Stopped);
    }
}

#[test]
fn a_stop_does_not_wait_for_executors_that_are_all_gone() {
    // given
    let mut query = Query::executing();
    query.tell(Event::Stop);
    // when
    let actions = query.tell(executors(&[]));
    // then
    assert_eq!(names(&actions), ["abort", "resolve"], "their writers are fenced first");
    let actions = query.resolved([(w(0), Resolution::NotPublished)]);
    assert_eq!(actions, [Action::Ended(End::Stopped)]);
}
