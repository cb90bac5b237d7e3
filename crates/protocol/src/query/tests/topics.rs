//! Topics that are recreated, grow or are missing.

use super::*;
use crate::options::OnDataLoss;
use crate::query::RunState;

fn with_id(policy: OnDataLoss) -> QueryConfig {
    let mut config = with_options(SourceOptions { on_data_loss: policy, ..SourceOptions::default() });
    config.topic_ids = [(SourceId(0), "old".to_string())].into();
    config.end_topic_ids = config.topic_ids.clone();
    config
}

/// A query whose three records of partition 0 are committed.
fn three_read(policy: OnDataLoss) -> (Query, Arc<PrepareRecord>) {
    let mut query = Query::new(with_id(policy));
    query.tell(executors(&[(1, 1)]));
    query.tell(topic("old", &[(0, 0, 3), (1, 0, 0)]));
    query.tell(available(1, &[(0, 3)]));
    let record = committed(&query.complete()).record.clone();
    (query, record)
}

#[test]
fn nothing_is_planned_before_the_brokers_confirm_the_topic() {
    // given
    let mut query =
        Query::new(QueryConfig { end_positions: [(p(0), 3), (p(1), 0)].into(), ..with_id(OnDataLoss::Fail) });
    // when
    let joined = query.tell(executors(&[(1, 1)]));
    let read = query.tell(available(1, &[(0, 3)]));
    // then
    assert_eq!(names(&joined), ["open", "assign"]);
    let Action::Assign { topic_ids, .. } = &joined[1] else { panic!("{joined:?}") };
    assert_eq!(topic_ids[&SourceId(0)], "old", "executors read nothing of another topic either");
    assert_eq!((read, query.machine.state()), (vec![], RunState::Starting));
    assert_eq!(query.tell(topic("old", &[])), vec![], "it waits for the ends of the log");
    assert_eq!(names(&query.tell(topic("old", &[(0, 0, 3), (1, 0, 0)]))), ["run"]);
}

#[test]
fn a_query_at_its_ends_does_not_finish_over_a_recreated_topic() {
    let mut query =
        Query::new(QueryConfig { end_positions: [(p(0), 0), (p(1), 0)].into(), ..with_id(OnDataLoss::Fail) });
    assert_eq!(names(&query.tell(executors(&[(1, 1)]))), ["open", "assign"]);
    assert!(failure(&query.tell(topic("new", &[]))).contains("recreated"));
}

#[test]
fn a_recreated_topic_stops_the_query_whatever_its_length() {
    for end in [0, 3, 99] {
        let (mut query, _) = three_read(OnDataLoss::Fail);
        let actions = query.tell(topic("new", &[(0, 0, end), (1, 0, 0)]));
        let message = failure(&actions);
        assert!(message.contains("recreated") && message.contains("on_data_loss"), "{message}");
    }
}

#[test]
fn an_unconfirmed_topic_id_stops_planning_until_the_brokers_are_asked() {
    // given
    let (mut query, _) = three_read(OnDataLoss::Fail);
    // when
    let told = query.tell(Event::TopicChanged { source: SourceId(0), found: "new".into() });
    let read = query.tell(available(1, &[(0, 9)]));
    let same = query.tell(topic("old", &[]));
    // then
    assert_eq!((names(&told), read), (vec!["look"], vec![]));
    assert_eq!(names(&same), ["assign", "run"], "the executor was mistaken and reads again");
}

#[test]
fn a_report_about_a_topic_that_was_replaced_changes_nothing() {
    let (mut query, _) = three_read(OnDataLoss::Earliest);
    query.tell(topic("new", &[(0, 0, 2)]));
    query.complete();
    assert_eq!(query.tell(Event::TopicChanged { source: SourceId(0), found: "new".into() }), vec![]);
}

#[test]
fn with_on_data_loss_the_new_topic_is_read_from_its_beginning_or_end() {
    for (policy, begins_at, lost) in [(OnDataLoss::Earliest, 0, 2), (OnDataLoss::Latest, 40, 42)] {
        // given: two more records were read ahead
        let (mut query, before) = three_read(policy);
        query.tell(available(1, &[(0, 5)]));
        // when: the new topic has other partitions
        let aborted = query.tell(topic("new", &[(0, 0, 40), (2, 0, 0)]));
        // then
        assert_eq!(names(&aborted), ["abort", "assign", "run"]);
        let Action::Assign { partitions, topic_ids, .. } = &aborted[1] else { panic!("{aborted:?}") };
        assert_eq!(partitions, &[(p(0), begins_at, None), (p(2), 0, None)]);
        assert_eq!(topic_ids[&SourceId(0)], "new");
        assert!(query.run().plan.ranges.is_empty(), "what was read ahead belongs to the old one");
        let record = committed(&query.complete()).record.clone();
        assert_eq!((record.totals.lost_offsets, record.totals.resets), (lost, 1), "{policy:?}");
        assert_eq!(record.regressed(&before), None, "it lists the positions that were reset");
        assert_eq!(record.positions, [(p(0), begins_at), (p(2), 0)].into());
        // and when the driver is restarted, with the spec as it was submitted
        let mut again = Query::restarted(with_id(policy), &record, query.now_ms, Resolution::Published);
        again.tell(executors(&[(1, 1)]));
        assert_eq!(again.tell(topic("new", &[(0, 0, 40), (2, 0, 0)])), vec![], "the new topic is the known one");
        assert_eq!(again.machine.positions(), &record.positions);
    }
}

#[test]
fn a_broker_that_is_behind_does_not_bring_the_old_topic_back() {
    // given
    let (mut query, _) = three_read(OnDataLoss::Earliest);
    query.tell(topic("new", &[(0, 0, 9)]));
    let record = committed(&query.complete()).record.clone();
    query.tell(available(1, &[(0, 9)]));
    query.complete();
    // when
    let doubted = query.tell(Event::TopicChanged { source: SourceId(0), found: "old".into() });
    let behind = query.tell(topic("old", &[(0, 0, 3), (1, 0, 0)]));
    // then
    assert_eq!((names(&doubted), behind), (vec!["look"], vec![]));
    assert_eq!(query.machine.positions(), &[(p(0), 9)].into());
    // and after a restart with the spec as it was submitted
    let mut again = Query::restarted(with_id(OnDataLoss::Fail), &record, query.now_ms, Resolution::Published);
    assert_eq!(again.tell(topic("old", &[(0, 0, 3)])), vec![]);
}

#[test]
fn ends_fixed_in_the_old_topic_are_fixed_again_in_the_new_one() {
    // given
    let config = QueryConfig {
        end_positions: [(p(0), 90), (p(1), 0)].into(),
        trigger: Trigger::AvailableNow,
        ..with_id(OnDataLoss::Earliest)
    };
    let mut query = Query::new(config.clone());
    query.tell(executors(&[(1, 1)]));
    // when
    query.tell(topic("new", &[(0, 0, 4), (1, 0, 0)]));
    let record = committed(&query.complete()).record.clone();
    // then
    assert_eq!(record.ends, [(p(0), 4), (p(1), 0)].into());
    let (machine, _) = QueryMachine::recover(config.clone(), Some((*record).clone()), query.now_ms);
    assert_eq!(machine.config.end_positions, record.ends, "also after a restart");
    let fresh = QueryConfig {
        end_positions: [(p(0), 6), (p(1), 0)].into(),
        end_topic_ids: [(SourceId(0), "new".to_string())].into(),
        ..config
    };
    let (machine, _) = QueryMachine::recover(fresh.clone(), Some((*record).clone()), query.now_ms);
    assert_eq!(machine.config.end_positions, fresh.end_positions, "a later start fixes its own");
    query.tell(available(1, &[(0, 4)]));
    let actions = query.complete();
    assert_eq!(end(&actions), &End::Finished);
}

#[test]
fn a_prepared_batch_cannot_be_finished_over_a_recreated_topic() {
    // given
    let (query, record) = three_read(OnDataLoss::Earliest);
    let mut query = Query::restarted(with_id(OnDataLoss::Earliest), &record, query.now_ms, Resolution::NotPublished);
    // when
    let actions = query.tell(topic("new", &[(0, 0, 9)]));
    // then
    let message = failure(&actions);
    assert!(message.contains("recreated") && message.contains("prepared"), "{message}");
}

#[test]
fn a_missing_topic_is_waited_for_and_then_fails_the_query() {
    // given
    let (mut query, _) = three_read(OnDataLoss::Fail);
    let missing = || Event::TopicMissing { source: SourceId(0), message: "no topic 't'".into() };
    // when
    query.tell(missing());
    // then
    assert_eq!(query.machine.state(), RunState::Waiting("no topic 't'".into()));
    query.tell(topic("old", &[]));
    assert_eq!(query.machine.state(), RunState::Running);
    query.tell(missing());
    query.now_ms += 29_000;
    assert_eq!(query.tell(missing()), vec![]);
    query.now_ms += 1_000;
    assert!(failure(&query.tell(missing())).contains("deleted"));
}

#[test]
fn partitions_added_while_the_query_was_stopped_begin_at_their_first_record() {
    // given
    let (query, record) = three_read(OnDataLoss::Fail);
    let bounded = QueryConfig { end_positions: [(p(0), 3), (p(1), 0), (p(2), 8)].into(), ..with_id(OnDataLoss::Fail) };
    for config in [with_id(OnDataLoss::Fail), bounded] {
        let mut again = Query::restarted(config, &record, query.now_ms, Resolution::Published);
        // when
        again.tell(executors(&[(1, 1)]));
        again.tell(topic("old", &[(0, 0, 3), (1, 0, 0), (2, 5, 8)]));
        // then
        let RunState::Ended(End::Failed(message)) = again.machine.state() else {
            panic!("{:?}", again.machine.state())
        };
        assert!(message.contains("offset 0 out of range for t-2: earliest available is 5"), "{message}");
    }
}

#[test]
fn the_first_id_reported_is_kept() {
    let mut query = Query::new(config());
    query.tell(executors(&[(1, 1)]));
    query.tell(topic("first", &[]));
    assert!(failure(&query.tell(topic("second", &[]))).contains("recreated"));
}
