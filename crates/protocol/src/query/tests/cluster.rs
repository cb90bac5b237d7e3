//! Executors that cannot reach one another, that die under a query, or that hang.

use super::*;
use crate::error::ErrorKind;
use crate::query::RunState;
use crate::query::lease::{STANDSTILL_MS, UNHEARD_MS};

/// The task of executor `from` fails because it cannot reach `to`.
fn unreachable(query: &Query, from: u128, to: u128) -> Event {
    let run = query.run();
    let task = *run.placement.iter().find(|(_, executor)| **executor == e(from)).expect("it has a task").0;
    let (kind, message) = (ErrorKind::Retry, "connection refused".to_string());
    Event::TaskFailed { attempt: run.attempt, task, kind, message, unreachable: Some(e(to)) }
}

/// Lets time pass until an attempt runs.
fn run_again(query: &mut Query) -> Vec<Action> {
    for _ in 0..10 {
        let wake = query.machine.next_wake_ms().expect("it is tried again");
        let actions = query.tick_at(wake);
        if actions.iter().any(|action| matches!(action, Action::Run { .. })) {
            return actions;
        }
    }
    panic!("nothing was run");
}

fn placed_on(query: &Query) -> BTreeSet<u128> {
    query.run().placement.values().map(|id| id.0.as_u128()).collect()
}

#[test]
fn an_executor_that_others_cannot_reach_is_left_out_and_readmitted_later() {
    // given
    let mut query = Query::new(QueryConfig { reserved_writers: [(SinkId(0), 3)].into(), ..config() });
    query.tell(executors(&[(1, 1), (2, 2), (3, 3)]));
    query.tell(available(1, &[(0, 3)]));
    assert_eq!(placed_on(&query), [1, 2, 3].into());
    // when
    for _ in 0..3 {
        let failed = unreachable(&query, 1, 2);
        query.tell(failed);
        run_again(&mut query);
    }
    // then
    assert_eq!(placed_on(&query), [1, 3].into(), "the same placement would fail again");
    let notices = query.machine.notices();
    assert!(notices[0].contains("host-2:1") && notices[0].contains("--advertise"), "{notices:?}");
    query.complete();
    // when
    let wake = query.machine.next_wake_ms().expect("it is readmitted some time");
    let actions = query.tick_at(wake);
    // then
    assert_eq!(names(&actions), ["assign"; 3]);
    assert_eq!(query.machine.notices(), Vec::<String>::new());
    query.tell(available(1, &[(0, 9)]));
    assert_eq!(placed_on(&query), [1, 2, 3].into());
    query.complete();
}

#[test]
fn a_prepared_batch_is_finished_without_the_executor_that_is_cut_off() {
    // given
    let (mut query, record) = Query::publishing();
    query.published(w(0), true);
    query.tell(executors(&[(1, 1), (3, 3)]));
    query.resolved([(w(1), Resolution::NotPublished)]);
    assert_eq!(placed_on(&query), [1, 3].into());
    // when
    for _ in 0..3 {
        let failed = unreachable(&query, 1, 3);
        query.tell(failed);
        run_again(&mut query);
    }
    // then
    assert_eq!(placed_on(&query), [1].into());
    assert_eq!(*query.run().plan, record.plan);
}

/// A batch starts and its executor dies at once. Returns the actions of the death.
fn die(query: &mut Query, number: u128) -> Vec<Action> {
    query.tell(executors(&[(number, 1), (99, 1)]));
    if query.running.as_ref().is_none_or(|run| !run.placement.values().any(|id| *id == e(number))) {
        let read = number as i64 * 10;
        query.tell(available(number, &[(0, read), (1, read)]));
    }
    assert!(query.run().placement.values().any(|id| *id == e(number)));
    let actions = query.tell(executors(&[(99, 1)]));
    let fenced: Vec<(WriterPlan, Resolution)> = (0..4).map(|n| (w(n), Resolution::NotPublished)).collect();
    [actions, query.resolved(fenced)].concat()
}

#[test]
fn a_query_whose_executors_die_one_after_another_waits_then_fails_and_says_why() {
    // given
    let mut query = Query::new(config());
    die(&mut query, 1);
    die(&mut query, 2);
    assert_eq!(query.machine.state(), RunState::Running);
    // when
    die(&mut query, 3);
    // then
    let RunState::Waiting(why) = query.machine.state() else { panic!("{:?}", query.machine.state()) };
    assert!(why.contains("3 executors died") && why.contains("quarantined"), "{why}");
    let before = query.run().attempt;
    query.tick_at(query.now_ms + 5_000);
    assert_eq!(query.run().attempt, before, "other queries can work meanwhile");
    // when
    let wake = query.machine.next_wake_ms().expect("it is tried again");
    query.tick_at(wake);
    die(&mut query, 4);
    let wake = query.machine.next_wake_ms().expect("it is tried again");
    query.tick_at(wake);
    let actions = die(&mut query, 5);
    // then
    let ended = actions.iter().find_map(|action| match action {
        Action::Ended(End::Failed(message)) => Some(message.as_str()),
        _ => None,
    });
    let message = ended.expect("five deaths end the run");
    assert!(message.contains("5 executors died") && message.contains("highwater start"), "{message}");
    assert!(names(&actions).contains(&"resolve"), "what they left open is fenced: {actions:?}");
}

#[test]
fn executors_killed_between_commits_are_not_blamed_on_the_query() {
    let mut query = Query::new(config());
    for number in 1..40u128 {
        die(&mut query, number);
        if number % 2 == 0 {
            let read = number as i64 * 10 + 5;
            query.tell(available(99, &[(0, read), (1, read)]));
            query.complete();
        }
        assert_eq!(query.machine.state(), RunState::Running, "after {number} deaths");
    }
}

fn heartbeat(query: &Query, executor: u128, steps: u64) -> Event {
    let run = query.run();
    let mine = run.placement.iter().filter(|(_, id)| **id == e(executor));
    Event::Heartbeat {
        executor: e(executor),
        attempt: Some(run.attempt),
        tasks: mine.map(|(task, _)| (*task, steps)).collect(),
    }
}

#[test]
fn a_live_executor_that_never_answers_reopens_the_query_and_the_batch_runs_again() {
    // given
    let mut query = Query::executing();
    let (first, began) = (query.run(), query.now_ms);
    assert_eq!(query.machine.next_wake_ms(), Some(began + UNHEARD_MS));
    query.now_ms = began + 20_000;
    query.tell(heartbeat(&query, 1, 1));
    query.now_ms = began - 1;
    query.tell(Event::Heartbeat { executor: e(2), attempt: None, tasks: BTreeMap::new() });
    // when
    let early = query.tick_at(began + UNHEARD_MS - 1);
    let actions = query.tick_at(began + UNHEARD_MS);
    // then
    assert_eq!(early, vec![]);
    assert_eq!(names(&actions), ["abort", "resolve", "open"]);
    assert_eq!(actions[2], Action::Open { executor: e(2) });
    // when
    query.resolved([(w(1), Resolution::NotPublished)]);
    let actions = run_again(&mut query);
    // then
    assert_eq!(names(&actions), ["assign", "assign", "run"]);
    assert!(query.run().attempt > first.attempt);
    query.complete();
}

#[test]
fn an_attempt_without_progress_is_dropped_although_its_executors_are_alive() {
    // given
    let mut query = Query::executing();
    let (began, attempt) = (query.now_ms, query.run().attempt);
    // when, then
    for second in 1..STANDSTILL_MS / 1_000 {
        for executor in [1, 2] {
            query.now_ms = began + second * 1_000;
            let alive = heartbeat(&query, executor, 7);
            query.tell(alive);
        }
    }
    assert_eq!(query.run().attempt, attempt);
    let actions = query.tick_at(began + 1_000 + STANDSTILL_MS + 10);
    assert_eq!(names(&actions), ["abort", "resolve", "open", "open"]);
}

#[test]
fn writers_that_never_answer_are_resolved() {
    // given
    let (mut query, _) = Query::publishing();
    query.published(w(0), true);
    // when
    let wake = query.machine.next_wake_ms().expect("it does not wait for ever");
    let actions = query.tick_at(wake);
    // then
    assert_eq!(names(&actions), ["resolve", "open"]);
    let actions = query.resolved([(w(1), Resolution::Published)]);
    assert_eq!(names(&actions[..1]), ["committed"]);
}
