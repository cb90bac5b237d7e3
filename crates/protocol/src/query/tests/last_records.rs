//! The last record before each position: stored with it, sent to the next reader, dropped when the position is reset.

use super::*;
use crate::offsets::{LastRecord, LastRecords};
use crate::options::OnDataLoss;

fn last(offset: i64, leader_epoch: i32) -> LastRecord {
    LastRecord { offset, leader_epoch }
}

/// Takes the running batch through to its commit. `read` returns, for a partition's range, how many records it held and
/// the last of them.
fn complete(query: &mut Query, read: impl Fn(&OffsetRange) -> (u64, Option<LastRecord>)) -> Arc<PrepareRecord> {
    let batch = query.run().plan.batch;
    query.finish_tasks_with(|task| {
        let mut report = report(task);
        if let TaskWork::Source { ranges, .. } = &task.work {
            for (partition, range) in ranges {
                let (records, last_record) = read(range);
                let one = PartitionReport { records, checksum: 7, last_record, ..PartitionReport::default() };
                report.partitions.insert(partition.clone(), one);
            }
        }
        report
    });
    query.tell(Event::Persisted { batch });
    committed(&query.publish_all()).record.clone()
}

fn whole(range: &OffsetRange) -> (u64, Option<LastRecord>) {
    (range.len() as u64, Some(last(range.end - 1, 4)))
}

/// The last records in the only assignment among the actions.
fn assigned(actions: &[Action]) -> LastRecords {
    let mut found = actions.iter().filter_map(|action| match action {
        Action::Assign { last_records, .. } => Some(last_records.clone()),
        _ => None,
    });
    let only = found.next().expect("an assignment");
    assert!(found.all(|other| other == only || other.is_empty()));
    only
}

/// A query with this `on_data_loss` whose records 0..3 of partition 0 are committed.
fn three_read(policy: OnDataLoss) -> (Query, Arc<PrepareRecord>) {
    let mut query = Query::new(with_options(SourceOptions { on_data_loss: policy, ..SourceOptions::default() }));
    query.tell(executors(&[(1, 1)]));
    query.tell(available(1, &[(0, 3)]));
    let record = complete(&mut query, whole);
    (query, record)
}

#[test]
fn it_is_stored_in_the_record_and_sent_to_the_next_reader() {
    // given
    let (mut query, record) = three_read(OnDataLoss::Fail);
    let known: LastRecords = [(p(0), last(2, 4))].into();
    assert_eq!(record.last_records, known, "nothing was read of partition 1");
    // when another executor takes partitions over
    let moved = query.tell(executors(&[(2, 2)]));
    // then
    assert_eq!(assigned(&moved), known);
    // and when the driver is restarted
    let mut again = Query::restarted(config(), &record, query.now_ms, Resolution::Published);
    assert_eq!(assigned(&again.tell(executors(&[(1, 1)]))), known);
}

#[test]
fn markers_do_not_move_it_and_a_record_of_unknown_epoch_drops_it() {
    // given: nothing but markers in 3..5
    let (mut query, _) = three_read(OnDataLoss::Fail);
    query.tell(available(1, &[(0, 5)]));
    let record = complete(&mut query, |_| (0, None));
    assert_eq!((record.positions[&p(0)], record.last_records[&p(0)]), (5, last(2, 4)));
    // when a record comes from a broker that does not report its epoch
    query.tell(available(1, &[(0, 6)]));
    let record = complete(&mut query, |_| (1, None));
    // then
    assert_eq!(record.last_records, LastRecords::new(), "the record before does not belong to this position");
}

#[test]
fn a_batch_finished_after_a_restart_reads_without_it_and_records_it_again() {
    // given: 3..6 was prepared, and nothing published
    let (mut query, _) = three_read(OnDataLoss::Fail);
    query.tell(available(1, &[(0, 6)]));
    let record = complete(&mut query, whole);
    let mut again = Query::restarted(config(), &record, query.now_ms, Resolution::NotPublished);
    // when
    let told = again.tell(executors(&[(1, 1)]));
    // then
    assert_eq!((names(&told), assigned(&told)), (vec!["open", "assign", "run"], LastRecords::new()));
    again.finish_tasks_with(|task| {
        let mut report = report(task);
        report.partitions.values_mut().for_each(|one| one.records = 3);
        report
    });
    assert_eq!(assigned(&again.publish_all()), [(p(0), last(5, 4))].into());
}

#[test]
fn a_log_rewritten_without_a_reader_is_treated_like_one_rewritten_under_a_reader() {
    for (policy, continues_at) in
        [(OnDataLoss::Fail, None), (OnDataLoss::Earliest, Some(1)), (OnDataLoss::Latest, Some(9))]
    {
        // given
        let (query, record) = three_read(policy);
        let options = SourceOptions { on_data_loss: policy, ..SourceOptions::default() };
        let mut again = Query::restarted(with_options(options), &record, query.now_ms, Resolution::Published);
        again.tell(executors(&[(1, 1)]));
        // when the consumer finds different records from 1 on, although the log extends to 9
        let told = again.tell(out_of_range(3, 0, 9, Some(1)));
        // then
        let Some(position) = continues_at else {
            assert!(failure(&told).contains("truncated at offset 1 and rewritten"), "{told:?}");
            continue;
        };
        assert_eq!((names(&told), assigned(&told)), (vec!["assign", "run"], LastRecords::new()), "{policy:?}");
        let record = committed(&again.complete()).record.clone();
        assert_eq!((record.positions[&p(0)], record.totals.resets), (position, 1), "{policy:?}");
        assert_eq!(record.last_records, LastRecords::new(), "{policy:?}: nothing was read of the new log yet");
    }
}

#[test]
fn a_shorter_log_is_checked_for_where_it_was_rewritten() {
    // given 3 records that were read, of a log that ends at 2 now
    let (query, record) = three_read(OnDataLoss::Earliest);
    let options = || with_options(SourceOptions { on_data_loss: OnDataLoss::Earliest, ..SourceOptions::default() });
    let look = || topic("", &[(0, 0, 2), (1, 0, 0)]);
    let mut again = Query::restarted(options(), &record, query.now_ms, Resolution::Published);
    again.tell(executors(&[(1, 1)]));
    // when
    let told = again.tell(look());
    // then reading does not continue at its end: the consumer finds different records from 1 on
    assert_eq!((told, again.machine.positions()[&p(0)]), (vec![], 3));
    again.tell(out_of_range(3, 0, 2, Some(1)));
    assert_eq!(again.machine.positions()[&p(0)], 1);
    // and a partition that is no longer read is checked against its end only
    let ends = [(p(0), 3), (p(1), 4)].into();
    let config = QueryConfig { end_positions: ends, trigger: Trigger::AvailableNow, ..options() };
    let mut again = Query::restarted(config, &record, query.now_ms, Resolution::Published);
    again.tell(look());
    assert_eq!(again.machine.positions()[&p(0)], 2);
}

#[test]
fn it_is_dropped_with_its_topic_and_when_retention_deletes_records() {
    let (mut query, _) = three_read(OnDataLoss::Earliest);
    query.tell(topic("old", &[(0, 0, 3), (1, 0, 0)]));
    let told = query.tell(topic("new", &[(0, 0, 9), (1, 0, 0)]));
    assert_eq!(assigned(&told), LastRecords::new());

    let (mut query, _) = three_read(OnDataLoss::Earliest);
    let told = query.tell(out_of_range(3, 5, 9, None));
    assert_eq!(assigned(&told), LastRecords::new(), "the records before 5 were never read");
}

#[test]
fn a_checkpoint_of_an_older_version_has_none() {
    let (_, record) = three_read(OnDataLoss::Fail);
    let mut stored = serde_json::to_value(&*record).unwrap();
    assert!(stored.as_object_mut().unwrap().remove("last_records").is_some());
    for pair in stored["partitions"].as_array_mut().unwrap() {
        assert!(pair[1].as_object_mut().unwrap().remove("last_record").is_some());
    }
    let read: PrepareRecord = serde_json::from_value(stored).unwrap();
    assert_eq!((read.last_records, &read.positions), (LastRecords::new(), &record.positions));
}
