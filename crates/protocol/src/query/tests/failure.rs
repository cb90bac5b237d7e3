//! What can go wrong while a batch is under way, and what happens to the batch.

use super::*;
use crate::error::ErrorKind;
use crate::query::{Resolution, RunState};

fn failed(query: &Query, kind: ErrorKind) -> Event {
    let attempt = query.run().attempt;
    Event::TaskFailed { attempt, task: TaskId(0), kind, message: "disk full".into(), unreachable: None }
}

#[test]
fn an_executor_lost_before_prepare_drops_the_attempt_and_fences_its_writers() {
    // given
    let mut query = Query::executing();
    let first = query.run();
    // when
    let actions = query.tell(executors(&[(1, 1)]));
    // then
    let everyone = [e(1), e(2)].into();
    assert_eq!(
        actions[0],
        Action::Abort { attempt: first.attempt, batch: BatchId(0), executors: everyone, discard: true }
    );
    assert_eq!(actions[1], Action::Resolve { number: 2, batch: None, writers: vec![unwritten(1)], whole: false });
    assert_eq!(actions.len(), 2, "nothing is planned before the orphans are fenced: {actions:?}");
    // when
    let actions = query.resolved([(w(1), Resolution::NotPublished)]);
    // then
    assert_eq!(names(&actions), ["assign", "run"]);
    let again = query.run();
    assert!(again.attempt > first.attempt);
    assert_eq!((again.plan.batch, &again.plan.ranges), (BatchId(0), &first.plan.ranges));
    assert!(again.placement.values().all(|executor| *executor == e(1)));
}

/// The question about writers of the first batch whose outcome is unknown.
fn asked(number: u64, writers: &[u32]) -> Action {
    let writers = writers.iter().map(|number| writer_report(w(*number), 2)).collect();
    Action::Resolve { number, batch: Some(BatchId(0)), writers, whole: false }
}

fn fenced(number: u64, writers: &[u32]) -> Action {
    Action::Resolve { number, batch: None, writers: writers.iter().copied().map(unwritten).collect(), whole: false }
}

#[test]
fn executors_lost_one_after_the_other_have_their_writers_fenced_one_after_the_other() {
    // given
    let mut query = Query::executing();
    let first = query.tell(executors(&[(1, 1)]));
    assert_eq!(first[1], fenced(2, &[1]));
    // when
    let while_fencing = query.tell(executors(&[]));
    let actions = query.resolved([(w(1), Resolution::NotPublished)]);
    // then
    assert_eq!(while_fencing, vec![], "one resolution at a time");
    assert_eq!(actions, [fenced(3, &[0])], "even if no executor is left");
    assert_eq!(query.resolved([(w(0), Resolution::NotPublished)]), vec![]);
    assert_eq!(names(&query.tell(executors(&[(3, 3)]))), ["open", "assign"]);
}

#[test]
fn an_executor_lost_after_its_attempt_was_dropped_has_its_writers_fenced_before_the_next() {
    // given
    let mut query = Query::executing();
    query.tell(failed(&query, ErrorKind::Retry));
    // when
    let actions = query.tell(executors(&[(1, 1)]));
    // then
    assert_eq!(actions, [fenced(2, &[1])]);
    assert_eq!(query.tick_at(10_000), vec![], "not before they are");
    let actions = query.resolved([(w(1), Resolution::NotPublished)]);
    assert_eq!(names(&actions), ["assign", "run"]);
}

#[test]
fn writers_that_a_later_attempt_took_over_are_left_to_it() {
    // given
    let mut query = Query::executing();
    query.tell(failed(&query, ErrorKind::Retry));
    query.tick_at(10_000);
    query.complete();
    // when
    let actions = query.tell(executors(&[(1, 1)]));
    // then
    assert_eq!(names(&actions), ["assign"], "none of their transactions is open");
}

#[test]
fn an_executor_with_a_new_session_was_away_and_has_dropped_its_attempt() {
    // given
    let mut query = Query::executing();
    // when
    let actions = query.tell(executors(&[(1, 1), (2, 5)]));
    // then
    assert_eq!(names(&actions), ["open", "abort", "resolve"]);
}

#[test]
fn losing_an_executor_without_a_task_changes_nothing() {
    // given
    let mut query = Query::executing();
    query.tell(executors(&[(1, 1), (2, 2), (3, 3)]));
    // when
    let actions = query.tell(executors(&[(1, 1), (2, 2)]));
    // then
    assert_eq!(actions, vec![]);
}

#[test]
fn reports_of_a_dropped_attempt_or_of_the_wrong_executor_change_nothing() {
    // given
    let mut query = Query::executing();
    let old = query.run();
    query.tell(failed(&query, ErrorKind::Retry));
    query.tick_at(10_000);
    let new = query.run();
    assert!(new.attempt > old.attempt);
    for task in &new.plan.tasks {
        let report = Box::new(report(task));
        // when
        let stale = query.tell(Event::TaskDone { attempt: old.attempt, executor: e(1), report: report.clone() });
        let foreign = query.tell(Event::TaskDone { attempt: new.attempt, executor: e(9), report });
        // then
        assert_eq!((stale, foreign), (vec![], vec![]));
    }
    assert_eq!(
        query.tell(Event::TaskFailed {
            attempt: old.attempt,
            task: TaskId(0),
            kind: ErrorKind::Fatal,
            message: "too late".into(),
            unreachable: None,
        }),
        vec![]
    );
    assert_eq!(names(&query.finish_tasks()), ["persist"]);
}

#[test]
fn a_temporary_failure_is_retried_after_a_growing_pause() {
    // given
    let mut query = Query::executing();
    let mut pauses = Vec::new();
    for _ in 0..3 {
        // when
        let actions = query.tell(failed(&query, ErrorKind::Retry));
        // then
        assert_eq!(names(&actions), ["abort"]);
        assert_eq!(query.machine.state(), RunState::Waiting("disk full".into()));
        let wake = query.machine.next_wake_ms().unwrap();
        pauses.push(wake - query.now_ms);
        assert_eq!(query.tick_at(wake - 1), vec![], "not before its time");
        assert_eq!(names(&query.tick_at(wake)).last(), Some(&"run"));
    }
    assert_eq!(pauses, [100, 200, 400]);
    query.complete();
    assert_eq!(query.machine.state(), RunState::Running, "trouble is over with the commit");
}

#[test]
fn a_failure_that_a_retry_cannot_fix_stops_the_query() {
    for kind in [ErrorKind::Fix, ErrorKind::Fatal] {
        // given
        let mut query = Query::executing();
        // when
        let actions = query.tell(failed(&query, kind));
        // then
        assert_eq!(names(&actions), ["abort", "ended"]);
        assert_eq!(failure(&actions), "disk full");
        assert_eq!(query.tell(available(1, &[(0, 9)])), vec![], "nothing follows an end");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_fails_the_query_and_a_fenced_one_ends_it_silently() {
    for (kind, expected) in [(ErrorKind::Fix, "failed"), (ErrorKind::Fatal, "failed"), (ErrorKind::Fenced, "fenced")] {
        // given
        let (mut query, record) = Query::preparing();
        // when
        let message = "no space".to_string();
        let actions = query.tell(Event::PersistFailed { batch: record.batch(), kind, message });
        // then
        assert_eq!(names(&actions), ["abort", "ended"]);
        assert!(matches!(actions[0], Action::Abort { discard: false, .. }), "the record may be durable: {actions:?}");
        match end(&actions) {
            End::Fenced => assert_eq!(expected, "fenced"),
            End::Failed(message) => assert!(expected == "failed" && message.contains("no space"), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_record_that_cannot_be_written_is_retried_while_the_attempt_waits() {
    // given
    let (mut query, record) = Query::preparing();
    for _ in 0..3 {
        // when
        let (kind, message) = (ErrorKind::Retry, "no space left on device".to_string());
        let actions = query.tell(Event::PersistFailed { batch: record.batch(), kind, message });
        // then
        assert_eq!(actions, vec![], "nothing is dropped");
        let RunState::Waiting(message) = query.machine.state() else { panic!("{:?}", query.machine.state()) };
        assert!(message.contains("no space left"), "{message}");
        let again = query.machine.next_wake_ms().unwrap();
        assert_eq!(query.tick_at(again - 1), vec![]);
        assert_eq!(query.tick_at(again), [Action::Persist { record: record.clone() }]);
        assert_eq!(query.tick_at(again + 60_000), vec![], "once per answer");
    }
    // when
    let actions = query.tell(Event::Persisted { batch: record.batch() });
    // then
    assert_eq!(names(&actions), ["publish", "publish"]);
    assert_eq!(query.machine.state(), RunState::Running);
}

/// One executor has read six records, and they are one batch, which may take 20 s: less than a lease.
fn of_six() -> Query {
    let mut query = Query::new(QueryConfig { max_attempt_ms: 20_000, ..config() });
    query.tell(executors(&[(1, 1)]));
    query.tell(available(1, &[(0, 3), (1, 3)]));
    query
}

fn read_by(query: &Query) -> i64 {
    query.run().plan.ranges.values().map(crate::offsets::OffsetRange::len).sum()
}

#[test]
fn a_batch_that_takes_too_long_is_dropped_and_planned_smaller_until_it_is_quick_again() {
    // given
    let mut query = of_six();
    assert_eq!(read_by(&query), 6);
    let too_long = query.machine.next_wake_ms().unwrap();
    assert_eq!(query.tick_at(too_long - 1), vec![]);
    // when
    let actions = query.tick_at(too_long);
    // then
    assert_eq!(names(&actions), ["abort"]);
    let RunState::Waiting(message) = query.machine.state() else { panic!("{:?}", query.machine.state()) };
    assert!(message.contains("20 s") && message.contains("max_offsets_per_trigger"), "{message}");
    query.tick_at(query.machine.next_wake_ms().unwrap());
    assert_eq!(read_by(&query), 3);
    // A failure of another kind after so long has the same effect.
    query.tick_at(query.now_ms + 12_000);
    let fenced = failed(&query, ErrorKind::Fenced);
    query.tell(fenced);
    query.tick_at(query.machine.next_wake_ms().unwrap());
    assert_eq!(read_by(&query), 1);
    // when
    query.complete();
    // then
    assert_eq!(read_by(&query), 2, "quick, and the limit was used up");
    query.complete();
    assert_eq!(read_by(&query), 3);
}

#[test]
fn an_attempt_whose_last_report_comes_too_late_is_not_prepared() {
    // given
    let mut query = of_six();
    let run = query.run();
    query.now_ms += 20_000;
    // when
    let done = |task: &TaskPlan| Event::TaskDone {
        attempt: run.attempt,
        executor: run.placement[&task.id],
        report: Box::new(report(task)),
    };
    let actions: Vec<Action> = run.plan.tasks.iter().flat_map(|task| query.tell(done(task))).collect();
    // then
    assert_eq!(names(&actions), ["abort"], "its first transactions may have timed out");
}

#[test]
fn a_repeated_prepared_batch_has_no_time_limit() {
    // given
    let mut query = of_six();
    query.finish_tasks();
    query.tell(Event::Persisted { batch: BatchId(0) });
    query.published(w(0), false);
    query.resolved([(w(0), Resolution::NotPublished)]);
    // when
    let waited = query.tick_at(query.now_ms + 25_000);
    // then
    assert_eq!(waited, vec![], "it cannot be planned smaller");
    assert_eq!(names(&query.finish_tasks()), ["publish"]);
}

#[test]
fn a_sink_that_cannot_take_the_rows_is_retried_later_and_shown() {
    // given
    let (mut query, batch) = (of_six(), BatchId(0));
    query.finish_tasks();
    query.tell(Event::Persisted { batch });
    let attempt = query.run().attempt;
    let failed = |kind: ErrorKind| Event::Published {
        attempt,
        writer: w(0),
        outcome: PublishOutcome::Failed { kind, message: "it answers 503".into() },
    };
    // when
    query.tell(failed(ErrorKind::Retry));
    let actions = query.resolved([(w(0), Resolution::NotPublished)]);
    // then
    assert_eq!(actions, vec![], "not at once");
    assert_eq!(query.machine.state(), RunState::Waiting("it answers 503".into()));
    let wake = query.machine.next_wake_ms().expect("it is tried again");
    assert_eq!(names(&query.tick_at(wake)).last(), Some(&"run"));
    // when
    let stale = query.tell(failed(ErrorKind::Fix));
    // then
    assert_eq!(stale, vec![], "an answer of an attempt that is over");
    query.finish_tasks();
    let refused = query.tell(Event::Published {
        attempt: query.run().attempt,
        writer: w(0),
        outcome: PublishOutcome::Failed { kind: ErrorKind::Fix, message: "it answers 422".into() },
    });
    assert_eq!(refused, [Action::Ended(End::Failed("it answers 422".into()))]);
}

#[test]
fn an_executor_lost_while_the_record_is_written_leaves_the_batch_prepared() {
    // given
    let (mut query, record) = Query::preparing();
    // when
    let lost = query.tell(executors(&[(1, 1)]));
    let actions = query.tell(Event::Persisted { batch: record.batch() });
    // then
    assert_eq!(lost, vec![], "it is too late to drop the attempt");
    assert_eq!(names(&actions), ["publish"], "the survivor's writer");
    let actions = query.published(w(0), true);
    assert_eq!(actions, [asked(2, &[1])]);
}

#[test]
fn an_executor_lost_after_prepare_makes_the_same_plan_run_again() {
    // given
    let (mut query, record) = Query::publishing();
    let first = query.run();
    query.published(w(0), true);
    // when
    let actions = query.tell(executors(&[(1, 1)]));
    // then
    assert_eq!(actions, [asked(2, &[1])]);
    // when
    query.resolved([(w(1), Resolution::NotPublished)]);
    // then
    let again = query.run();
    assert!(again.attempt > first.attempt);
    assert_eq!(*again.plan, record.plan, "a prepared batch is never planned anew");
    assert_eq!((again.base, again.published.clone()), (None, [w(0)].into()));
    assert!(again.placement.values().all(|executor| *executor == e(1)), "whole tasks move");
    // when
    let actions = query.finish_tasks();
    // then
    let attempt = again.attempt;
    assert_eq!(actions, [Action::Publish { attempt, batch: BatchId(0), executor: e(1), writers: vec![w(1)] }]);
    let actions = query.published(w(1), true);
    assert_eq!(names(&actions[..1]), ["committed"]);
    assert_eq!(committed(&actions).attempt, attempt, "the attempt that ran last is promoted");
    assert_eq!(query.machine.positions(), &record.positions);
}

#[test]
fn a_repetition_with_other_rows_state_or_records_stops_before_anything_is_published() {
    let spoil: [fn(&mut TaskReport); 3] = [
        |report| report.writers.iter_mut().for_each(|writer| writer.digest += 1),
        |report| report.state.iter_mut().for_each(|delta| delta.digest += 1),
        |report| report.partitions.values_mut().for_each(|read| read.checksum += 1),
    ];
    for (spoil, expected) in spoil.into_iter().zip(["different rows", "different state", "topic was changed"]) {
        // given
        let (mut query, _) = Query::publishing();
        query.published(w(0), true);
        query.tell(executors(&[(1, 1)]));
        query.resolved([(w(1), Resolution::NotPublished)]);
        // when
        let actions = query.finish_tasks_with(|task| {
            let mut report = report(task);
            spoil(&mut report);
            report
        });
        // then
        assert_eq!(names(&actions), ["abort", "ended"]);
        assert!(failure(&actions).contains(expected), "{}", failure(&actions));
    }
}

#[test]
fn an_unknown_outcome_is_resolved_and_the_running_attempt_committed() {
    // given
    let (mut query, _) = Query::publishing();
    let attempt = query.run().attempt;
    assert_eq!(query.published(w(0), false), vec![], "the other writer has not answered");
    // when
    let actions = query.published(w(1), true);
    // then
    assert_eq!(actions, [asked(2, &[0])]);
    // when
    let actions = query.resolved([(w(0), Resolution::Published)]);
    // then
    assert_eq!(committed(&actions).attempt, attempt);
    assert_eq!(committed(&actions).executors, [e(1), e(2)].into(), "its overlays become state");
}

#[test]
fn an_executor_lost_after_its_writer_answered_does_not_hold_the_commit() {
    // given
    let (mut query, _) = Query::publishing();
    query.published(w(1), true);
    // when
    let lost = query.tell(executors(&[(1, 1)]));
    let actions = query.published(w(0), true);
    // then
    assert_eq!(lost, vec![]);
    assert_eq!(names(&actions[..1]), ["committed"]);
}

#[test]
fn a_sink_that_is_ahead_stops_the_query_and_names_the_remedies() {
    // given
    let (mut query, _) = Query::publishing();
    query.published(w(0), true);
    query.published(w(1), false);
    // when
    let actions = query.resolved([(w(1), Resolution::Ahead { batch: BatchId(4) })]);
    // then
    let message = failure(&actions);
    assert!(message.contains("ahead") && message.contains("batch 4") && message.contains("--new-output"), "{message}");
}

#[test]
fn trouble_is_shown_until_it_is_over_and_ends_the_query_only_when_it_is_fatal() {
    // given
    let mut query = Query::executing();
    let trouble = |kind, message: &str| Event::Trouble { executor: Some(e(1)), kind, message: message.into() };
    // when, then
    query.tell(trouble(ErrorKind::Retry, "broker away"));
    assert_eq!(query.machine.state(), RunState::Waiting("broker away".into()));
    query.tell(trouble(ErrorKind::Retry, ""));
    assert_eq!(query.machine.state(), RunState::Running);
    let actions = query.tell(trouble(ErrorKind::Fix, "not authorised"));
    assert_eq!((names(&actions), failure(&actions)), (vec!["abort", "ended"], "not authorised"));
}

#[test]
fn an_answer_to_an_earlier_question_changes_nothing() {
    // given: the writers of one executor were asked about, then those of the other
    let mut query = Query::executing();
    query.tell(executors(&[(1, 1)]));
    query.tell(executors(&[]));
    query.resolved([(w(1), Resolution::NotPublished)]);
    query.tell(executors(&[(3, 3)]));
    // when
    let (number, found) = (1, [(w(1), Resolution::NotPublished)].into());
    let again = query.tell(Event::Resolved { number, found });
    let failed = query.tell(Event::ResolveFailed { number, kind: ErrorKind::Fatal, message: "not authorised".into() });
    // then
    assert_eq!((again, failed), (vec![], vec![]), "the second question is open");
    assert_eq!(names(&query.resolved([(w(0), Resolution::NotPublished)])), ["assign"]);
}
