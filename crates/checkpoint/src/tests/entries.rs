//! Looking at what one operator keeps.

use super::*;
use std::ops::ControlFlow;

/// What an operator keeps: values by shard and key.
type Kept = BTreeMap<(u16, Vec<u8>), Vec<u8>>;

fn visited(store: &CheckpointStore, query: QueryId, batch: u64, operator: u32) -> Kept {
    let mut kept = Kept::new();
    let visit = store.visit_state(query, BatchId(batch), SHARDS, OperatorId(operator), |entries| {
        for entry in entries {
            let before = kept.insert((entry.shard.0, entry.key.to_vec()), entry.value.unwrap().to_vec());
            assert!(before.is_none(), "an entry is visited once");
        }
        Ok::<_, CheckpointError>(ControlFlow::Continue(()))
    });
    visit.map(|()| kept).unwrap()
}

fn expected(store: &CheckpointStore, query: QueryId, batch: u64) -> Kept {
    state(store, query, batch).into_iter().map(|(key, value)| ((shard_of(key).0, vec![key]), value)).collect()
}

#[test]
fn entries_of_an_operator_are_those_that_are_restored_before_and_after_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let (store, epoch, query) = opened(dir.path());
    let mut changes: Vec<Changes> = (0..12u8).map(|key| some(key, &[key; 9])).collect();
    changes.push(vec![(3, None), (4, Some(b"new".to_vec()))]);
    for (batch, changes) in changes.iter().enumerate() {
        store.prepare(epoch, &record(query, epoch, batch as u64, 1, changes)).unwrap();
    }
    let newest = changes.len() as u64 - 1;
    assert_eq!(visited(&store, query, 7, 3), expected(&store, query, 7));
    let all = visited(&store, query, newest, 3);
    assert_eq!(all, expected(&store, query, newest));
    assert_eq!((all.len(), all.get(&(3, vec![3]))), (11, None));
    let policy = CompactionPolicy { min_delta_bytes: 0, max_deltas: 1, part_bytes: 64 };
    assert!(store.compact_with(epoch, query, policy).unwrap().snapshot.is_some());
    assert_eq!(visited(&store, query, newest, 3), all, "from a snapshot, and a deletion after it");
    assert_eq!(visited(&store, query, newest, 4), Kept::new(), "of another operator");

    let bytes = all.iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum();
    let sizes = store.state_sizes(query, BatchId(newest), SHARDS).unwrap();
    assert_eq!(sizes, [(OperatorId(3), crate::StateSize { entries: 11, bytes })].into());
    assert!(matches!(store.state_sizes(query, BatchId(2), SHARDS), Err(CheckpointError::NoBatch { .. })));
}

#[test]
fn who_breaks_off_sees_no_more_than_a_shard() {
    let dir = tempfile::tempdir().unwrap();
    let (store, epoch, query) = opened(dir.path());
    let changes: Changes = (0..40u8).map(|key| (key, Some(vec![key]))).collect();
    store.prepare(epoch, &record(query, epoch, 0, 1, &changes)).unwrap();
    let mut calls: Vec<Vec<u16>> = Vec::new();
    let visit = store.visit_state(query, BatchId(0), SHARDS, OperatorId(3), |entries| {
        calls.push(entries.iter().map(|entry| entry.shard.0).collect());
        Ok::<_, CheckpointError>(ControlFlow::Break(()))
    });
    visit.unwrap();
    assert_eq!(calls, [vec![0; 5]]);
}
