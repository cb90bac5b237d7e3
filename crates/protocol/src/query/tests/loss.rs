//! What `on_data_loss` does to a run: every policy with every trigger, stopped and running, one and several partitions,
//! and the position before, inside and after the log. The verdicts themselves are in `loss.rs`.

use super::*;
use crate::options::OnDataLoss;
use crate::query::RunState;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// 10 is committed, 15..20 is in the log.
    Before,
    /// 10 is committed, 5..20 is in the log.
    Inside,
    /// 10 is committed, 2..6 is in the log.
    After,
}

const TRIGGERS: [Trigger; 4] =
    [Trigger::Asap, Trigger::Every { interval_ms: 10 }, Trigger::AvailableNow, Trigger::Once];
const COMMITTED: i64 = 10;

impl Place {
    fn log(self) -> (i64, i64) {
        match self {
            Place::Before => (15, 20),
            Place::Inside => (5, 20),
            Place::After => (2, 6),
        }
    }

    /// Where reading continues, and how many offsets are lost; `None` if the query stops.
    fn expected(self, policy: OnDataLoss) -> Option<(i64, u64)> {
        match (self, policy) {
            (Place::Inside, _) => Some((COMMITTED, 0)),
            (_, OnDataLoss::Fail) => None,
            (Place::Before, OnDataLoss::Earliest) => Some((15, 5)),
            (Place::Before, OnDataLoss::Latest) => Some((20, 10)),
            (Place::After, _) => Some((6, 0)),
        }
    }
}

/// A query over `partitions` partitions whose first has 10 offsets committed and, if the trigger is bounded, ends at
/// `end`; the others have nothing to read.
fn at_ten(policy: OnDataLoss, trigger: &Trigger, partitions: i32, end: i64) -> QueryConfig {
    let mut config = with_options(SourceOptions { on_data_loss: policy, ..SourceOptions::default() });
    let first = |offset| (0..partitions).map(|number| (p(number), if number == 0 { offset } else { 0 })).collect();
    config.trigger = trigger.clone();
    config.start_positions = first(COMMITTED);
    if bounded(trigger) {
        config.end_positions = first(end);
    }
    config.topic_ids = [(SourceId(0), "id".to_string())].into();
    config
}

fn bounded(trigger: &Trigger) -> bool {
    matches!(trigger, Trigger::AvailableNow | Trigger::Once)
}

/// Takes the run through every batch that falls due. Returns how it ended; `None` if it goes on.
fn go_on(query: &mut Query) -> Option<End> {
    for _ in 0..10 {
        query.tick_at(query.now_ms + 20);
        match query.machine.state() {
            RunState::Ended(end) => return Some(end),
            _ => match query.running.take() {
                Some(run) => {
                    query.running = Some(run.clone());
                    query.complete();
                    query.running = query.running.take().filter(|next| next.attempt != run.attempt);
                }
                None => return None,
            },
        }
    }
    panic!("the query never comes to rest");
}

/// One combination: a run that finds the loss at its start, or one that has read ahead to 13 when the log changes.
fn cell(policy: OnDataLoss, trigger: &Trigger, running: bool, partitions: i32, place: Place) {
    let name = format!("{policy:?} {trigger:?} running={running} {partitions} {place:?}");
    let (earliest, mut latest) = place.log();
    let mut query = Query::new(at_ten(policy, trigger, partitions, if running { 20 } else { latest }));
    query.tell(executors(&[(1, 1)]));
    let look = |earliest, latest| {
        let ends = |number| if number == 0 { (0, earliest, latest) } else { (number, 0, 0) };
        topic("id", &(0..partitions).map(ends).collect::<Vec<_>>())
    };
    let told = if running {
        query.tell(look(0, 20));
        query.tell(available(1, &[(0, COMMITTED + 3)]));
        // Inside, only a position that was read ahead can be out of range.
        latest = if place == Place::Inside { 12 } else { latest };
        query.tell(out_of_range(COMMITTED + 3, earliest, latest, None))
    } else {
        query.tell(look(earliest, latest))
    };
    let Some((to, lost)) = place.expected(policy) else {
        assert!(failure(&told).contains("on_data_loss"), "{name}: {told:?}");
        return;
    };
    assert_eq!(query.machine.positions()[&p(0)], to, "{name}");
    assert_eq!(query.machine.totals().lost_offsets, lost, "{name}");
    let planned = |run: &Run| matches!(told.last(), Some(Action::Run { attempt, .. }) if *attempt == run.attempt);
    query.running = query.running.take().filter(planned);
    query.now_ms += 10;
    query.tell(available(1, &[(0, latest)]));
    assert_eq!(go_on(&mut query), bounded(trigger).then_some(End::Finished), "{name}");
    assert!(query.machine.last_committed().is_some(), "{name}: neither a record nor a skip is durable");
    assert_eq!(query.machine.positions()[&p(0)], latest, "{name}: everything left is read");
    assert_eq!(query.machine.totals().lost_offsets, lost, "{name}: counted once");
}

#[test]
fn every_policy_with_every_trigger_stopped_and_running_wherever_the_position_is() {
    for policy in [OnDataLoss::Fail, OnDataLoss::Earliest, OnDataLoss::Latest] {
        for trigger in &TRIGGERS {
            for running in [false, true] {
                for partitions in [1, 3] {
                    for place in [Place::Before, Place::Inside, Place::After] {
                        cell(policy, trigger, running, partitions, place);
                    }
                }
            }
        }
    }
}

fn gone(earliest: i64) -> Event {
    out_of_range(0, earliest, 20, None)
}

#[test]
fn lost_records_stop_the_query_by_default() {
    // given
    let mut query = Query::new(config());
    query.tell(executors(&[(1, 1)]));
    // when
    let actions = query.tell(gone(5));
    // then
    let message = failure(&actions);
    assert!(message.contains("earliest available is 5") && message.contains("on_data_loss"), "{message}");
}

#[test]
fn a_gap_is_skipped_and_recorded_in_its_own_batch() {
    for (policy, begins_at) in [(OnDataLoss::Earliest, 5), (OnDataLoss::Latest, 20)] {
        // given
        let mut query = Query::new(with_options(SourceOptions { on_data_loss: policy, ..SourceOptions::default() }));
        query.tell(executors(&[(1, 1)]));
        // when
        let actions = query.tell(gone(5));
        // then
        let partitions = vec![(p(0), begins_at, None), (p(1), 0, None)];
        assert_eq!(actions[0], assign(1, partitions));
        assert_eq!(names(&actions), ["assign", "run"]);
        assert!(query.run().plan.ranges.is_empty());
        let actions = query.complete();
        let record = &committed(&actions).record;
        assert_eq!((record.positions[&p(0)], record.totals.lost_offsets), (begins_at, begins_at as u64));
        assert!(record.reset.is_empty(), "nothing has gone back");
    }
}

#[test]
fn a_query_without_state_records_a_skip_without_a_single_task() {
    // given
    let mut config = with_options(SourceOptions { on_data_loss: OnDataLoss::Latest, ..SourceOptions::default() });
    config.stages =
        vec![StageTopology { id: StageId(0), input: StageInput::Source(SourceId(0)), sinks: vec![SinkId(0)] }];
    config.end_positions = [(p(0), 20), (p(1), 0)].into();
    let mut query = Query::new(config);
    query.tell(executors(&[(1, 1)]));
    // when
    let actions = query.tell(gone(5));
    // then
    assert_eq!(names(&actions), ["assign", "run", "persist"]);
    let actions = query.tell(Event::Persisted { batch: BatchId(0) });
    assert_eq!(names(&actions), ["committed", "ended"], "it finishes only when the skip is durable");
    assert_eq!(end(&actions), &End::Finished);
    assert_eq!(query.machine.totals().lost_offsets, 20);
}

#[test]
fn records_lost_while_a_prepared_batch_is_published_are_handled_after_it() {
    // given
    let (mut query, _) = Query::publishing();
    // when
    let told = query.tell(out_of_range(3, 8, 20, None));
    let actions = query.publish_all();
    // then
    assert_eq!(told, vec![]);
    assert_eq!(names(&actions), ["committed", "ended"]);
    assert!(failure(&actions).contains("earliest available is 8"));
}

#[test]
fn records_read_ahead_from_a_truncated_log_are_dropped_and_read_again() {
    // given an attempt over 0..3 of a log that has lost all but its first record
    let mut query = Query::executing();
    // when
    let actions = query.tell(out_of_range(3, 0, 1, None));
    // then
    assert_eq!(names(&actions), ["abort", "assign", "assign"], "and nothing is planned of what is gone");
    assert_eq!(actions[1], assign(1, vec![(p(0), 0, None)]));
    query.tell(available(1, &[(0, 1)]));
    assert_eq!(query.run().plan.ranges[&p(0)].end, 1);
}

#[test]
fn positions_may_go_back_only_if_the_record_lists_them_as_reset() {
    // given
    let options = SourceOptions { on_data_loss: OnDataLoss::Earliest, ..SourceOptions::default() };
    let mut query = Query::new(with_options(options));
    query.tell(executors(&[(1, 1)]));
    query.tell(available(1, &[(0, 9)]));
    let before = committed(&query.complete()).record.clone();
    // when the log is found rewritten from 4 on
    let actions = query.tell(out_of_range(9, 0, 7, Some(4)));
    // then
    assert_eq!(names(&actions), ["assign", "run"]);
    let after = committed(&query.complete()).record.clone();
    assert_eq!((after.positions[&p(0)], after.totals.resets, after.totals.lost_offsets), (4, 1, 0));
    assert_eq!(after.regressed(&before), None);
    let unsaid = PrepareRecord { reset: BTreeSet::new(), ..(*after).clone() };
    assert_eq!(unsaid.regressed(&before), Some(p(0)));
    query.tell(available(1, &[(0, 7)]));
    assert_eq!(query.run().plan.ranges[&p(0)].start, 4, "what was written anew is read");
}

#[test]
fn a_prepared_batch_whose_records_are_lost_stops_the_query_between_attempts() {
    // given a recovered batch over 0..3, between two attempts
    let (_, record) = Query::publishing();
    let mut query = Query::restarted(config(), &record, 0, Resolution::NotPublished);
    // when
    let actions = query.tell(out_of_range(0, 2, 9, None));
    // then
    assert!(failure(&actions).contains("needs these records"), "{actions:?}");
}
