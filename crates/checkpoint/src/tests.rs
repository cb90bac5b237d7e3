//! The store as the driver uses it: order, fencing, merging, compaction, damage, restarts.

mod behind;
mod entries;
mod files;

use crate::head::HeadStore;
use crate::{CheckpointError, CheckpointStore, CompactionPolicy};
use highwater_protocol::ids::{
    AttemptId, AttemptNumber, BatchId, Epoch, OperatorId, QueryId, ShardId, SinkId, SourceId,
};
use highwater_protocol::offsets::{Positions, SourcePartition, TopicPartition};
use highwater_protocol::options::{DesiredState, QuerySpec};
use highwater_protocol::plan::BatchPlan;
use highwater_protocol::prepare_record::{PrepareRecord, Totals};
use highwater_protocol::report::StateDelta;
use highwater_protocol::state_delta::{DeltaReader, DeltaWriter};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use uuid::Uuid;

const SHARDS: u16 = 8;

fn spec(name: &str) -> QuerySpec {
    QuerySpec {
        id: QueryId(Uuid::from_u128(name.bytes().map(u128::from).sum())),
        name: name.into(),
        sql: "INSERT …".into(),
        desired: DesiredState::Running,
        message: None,
        created_at_ms: 0,
        start_positions: Positions::new(),
        end_positions: Positions::new(),
        topic_ids: BTreeMap::new(),
        source_topic_ids: BTreeMap::new(),
        end_topic_ids: BTreeMap::new(),
        plan: None,
    }
}

fn partition(number: i32) -> SourcePartition {
    SourcePartition { source: SourceId(0), tp: TopicPartition::new("t", number) }
}

/// Changes of one operator: key, and value or deletion (`None`).
type Changes = Vec<(u8, Option<Vec<u8>>)>;

fn shard_of(key: u8) -> ShardId {
    ShardId(u16::from(key) % SHARDS)
}

fn record(query: QueryId, epoch: Epoch, batch: u64, position: i64, changes: &Changes) -> PrepareRecord {
    let mut writer = DeltaWriter::new(OperatorId(3));
    for (key, value) in changes {
        writer.push(shard_of(*key), &[*key], value.as_deref());
    }
    let (keys, digest) = (writer.keys(), writer.digest());
    let (first_shard, end_shard) = (ShardId(0), ShardId(SHARDS));
    let delta = StateDelta { operator: OperatorId(3), first_shard, end_shard, keys, digest, bytes: writer.finish() };
    PrepareRecord {
        query,
        attempt: AttemptId { epoch, number: AttemptNumber(batch) },
        plan: BatchPlan {
            batch: BatchId(batch),
            timestamp_ms: 0,
            ranges: BTreeMap::new(),
            late_before: BTreeMap::new(),
            close_before: BTreeMap::new(),
            files: BTreeMap::new(),
            tasks: Vec::new(),
        },
        positions: [(partition(0), position)].into(),
        partitions: BTreeMap::new(),
        watermarks: BTreeMap::new(),
        writers: Vec::new(),
        state: vec![delta],
        totals: Totals::default(),
        topic_ids: BTreeMap::new(),
        ends: BTreeMap::new(),
        reset: BTreeSet::new(),
        last_records: BTreeMap::new(),
    }
}

/// The state after a batch, as an executor that owns all shards would load it.
fn state(store: &CheckpointStore, query: QueryId, batch: u64) -> BTreeMap<u8, Vec<u8>> {
    let all: BTreeSet<ShardId> = (0..SHARDS).map(ShardId).collect();
    let mut loaded = BTreeMap::new();
    for (operator, bytes) in store.read_state(query, BatchId(batch), &all).unwrap() {
        assert_eq!(operator, OperatorId(3));
        for entry in DeltaReader::new(&bytes).unwrap() {
            let entry = entry.unwrap();
            match entry.value {
                Some(value) => loaded.insert(entry.key[0], value.to_vec()),
                None => loaded.remove(&entry.key[0]),
            };
        }
    }
    loaded
}

fn some(key: u8, value: &[u8]) -> Changes {
    vec![(key, Some(value.to_vec()))]
}

/// A store in a folder, with one query and an epoch.
fn opened(dir: &Path) -> (CheckpointStore, Epoch, QueryId) {
    let store = CheckpointStore::open(dir).unwrap();
    let epoch = store.claim_epoch().unwrap();
    let query = spec("q");
    store.put_query(epoch, &query).unwrap();
    (store, epoch, query.id)
}

#[test]
fn batches_come_in_order_and_offsets_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, epoch, query) = opened(dir.path());
    let prepare = |batch, position| store.prepare(epoch, &record(query, epoch, batch, position, &some(1, b"x")));
    assert!(matches!(prepare(1, 5), Err(CheckpointError::OutOfOrder { .. })));
    prepare(0, 5).unwrap();
    assert!(matches!(prepare(0, 6), Err(CheckpointError::OutOfOrder { .. })));
    assert!(matches!(prepare(2, 6), Err(CheckpointError::OutOfOrder { .. })));
    assert!(matches!(prepare(1, 4), Err(CheckpointError::Regress { from: 5, to: 4, .. })));
    let mut forgetful = record(query, epoch, 1, 6, &some(1, b"x"));
    forgetful.positions = [(partition(1), 6)].into();
    assert!(matches!(store.prepare(epoch, &forgetful), Err(CheckpointError::Regress { .. })));
    prepare(1, 5).unwrap();
    assert_eq!(store.latest_batch(query).unwrap(), Some(BatchId(1)));
    assert_eq!(store.committed_batch(query).unwrap(), None);
    assert!(store.note_committed(epoch, query, BatchId(2)).is_err());
    store.note_committed(epoch, query, BatchId(1)).unwrap();
    assert!(store.latest(query).unwrap().unwrap().committed);
}

#[test]
fn a_stale_epoch_writes_nothing_and_the_lock_has_one_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (store, old, query) = opened(dir.path());
    let held = CheckpointStore::open(dir.path()).err().unwrap();
    assert!(matches!(&held, CheckpointError::Locked { .. }), "{held}");
    assert!(held.to_string().contains(&std::process::id().to_string()), "{held}");
    let new = store.claim_epoch().unwrap();
    let refused = [
        store.prepare(old, &record(query, old, 0, 1, &some(1, b"x"))).err(),
        store.put_query(old, &spec("other")).err(),
        store.delete_query(old, query).err(),
        store.note_committed(old, query, BatchId(0)).err(),
    ];
    for error in &refused[..3] {
        assert!(matches!(error, Some(CheckpointError::Fenced { .. })), "{error:?}");
    }
    assert!(refused[3].is_some());
    store.prepare(new, &record(query, new, 0, 1, &some(1, b"x"))).unwrap();
}

#[test]
fn a_restart_finds_the_prepared_batch_and_removes_unreferenced_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let large = vec![(1, Some((0..60_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()))];
    let query = {
        let (store, epoch, query) = opened(dir.path());
        store.prepare(epoch, &record(query, epoch, 0, 10, &some(1, b"small"))).unwrap();
        store.prepare(epoch, &record(query, epoch, 1, 20, &large)).unwrap();
        query
    };
    let leftover = dir.path().join(format!("blobs/queries/{query}/batch-00000000000000000002-9.9"));
    std::fs::write(&leftover, b"of a crash before the head moved").unwrap();
    let store = CheckpointStore::open(dir.path()).unwrap();
    assert!(!leftover.exists());
    let head = store.latest(query).unwrap().unwrap();
    assert_eq!((head.record.batch(), head.record.positions[&partition(0)]), (BatchId(1), 20));
    assert_eq!(state(&store, query, 0)[&1], b"small");
    assert_eq!(Some(&state(&store, query, 1)[&1]), large[0].1.as_ref());
    assert_eq!(store.query_by_name("q").unwrap().unwrap().id, query);
    assert_eq!(store.verify(query).unwrap().problems, Vec::<String>::new());
}

#[test]
fn damage_stops_the_query_and_names_the_file_without_falling_back() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..20_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let query = {
        let (store, epoch, query) = opened(dir.path());
        store.prepare(epoch, &record(query, epoch, 0, 10, &some(1, &noise))).unwrap();
        store.prepare(epoch, &record(query, epoch, 1, 20, &some(2, &noise))).unwrap();
        query
    };
    let folder = dir.path().join(format!("blobs/queries/{query}"));
    let newest = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, &bytes).unwrap();
    let name = newest.file_name().unwrap().to_str().unwrap().to_string();
    let store = CheckpointStore::open(dir.path()).unwrap();
    let error = store.read_state(query, BatchId(1), &[ShardId(2)].into()).unwrap_err().to_string();
    assert!(error.contains(&name), "{error}");
    let problems = store.verify(query).unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains(&name), "{problems:?}");
    drop(store);
    std::fs::remove_file(&newest).unwrap();
    let store = CheckpointStore::open(dir.path()).unwrap();
    let error = store.latest(query).unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("missing"), "{error}");
}

#[test]
fn a_missing_head_store_is_not_taken_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..20_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    {
        let (store, epoch, query) = opened(dir.path());
        store.prepare(epoch, &record(query, epoch, 0, 10, &some(1, &noise))).unwrap();
    }
    std::fs::remove_dir_all(dir.path().join("head")).unwrap();
    let error = CheckpointStore::open(dir.path()).err().unwrap();
    assert!(matches!(error, CheckpointError::HeadMissing { .. }), "{error}");
}

#[test]
fn names_belong_to_one_query_and_are_free_again_when_it_is_deleted() {
    let store = CheckpointStore::in_memory();
    let epoch = store.claim_epoch().unwrap();
    let first = spec("q");
    store.put_query(epoch, &first).unwrap();
    store.prepare(epoch, &record(first.id, epoch, 0, 1, &some(1, b"x"))).unwrap();
    let second = QuerySpec { id: QueryId(Uuid::from_u128(99)), ..first.clone() };
    assert!(matches!(store.put_query(epoch, &second), Err(CheckpointError::AlreadyExists { .. })));
    store.delete_query(epoch, first.id).unwrap();
    assert!(store.latest(first.id).unwrap().is_none());
    assert!(store.inner.heads.scan("query/").unwrap().is_empty());
    assert!(store.inner.blobs.list("").unwrap().is_empty());
    assert!(matches!(
        store.prepare(epoch, &record(first.id, epoch, 0, 1, &some(1, b"x"))),
        Err(CheckpointError::NoQuery { .. })
    ));
    store.put_query(epoch, &second).unwrap();
}

#[test]
fn a_query_replaces_another_atomically() {
    let store = CheckpointStore::in_memory();
    let epoch = store.claim_epoch().unwrap();
    let (old, other) = (spec("q"), spec("other"));
    store.put_query(epoch, &old).unwrap();
    store.put_query(epoch, &other).unwrap();
    let noise: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    store.prepare(epoch, &record(old.id, epoch, 0, 1, &some(1, &noise))).unwrap();
    let new = QuerySpec { id: QueryId(Uuid::from_u128(99)), sql: "another".into(), ..old.clone() };

    let of_another = QuerySpec { name: "other".into(), ..new.clone() };
    assert!(matches!(store.replace_query(epoch, old.id, &of_another), Err(CheckpointError::AlreadyExists { .. })));
    let newer = store.claim_epoch().unwrap();
    assert_eq!(
        store.replace_query(epoch, old.id, &new).unwrap_err().kind(),
        highwater_protocol::error::ErrorKind::Fenced
    );
    assert_eq!(store.query_by_name("q").unwrap().unwrap(), old, "refused, and nothing is changed");
    assert!(store.latest(old.id).unwrap().is_some());

    store.replace_query(newer, old.id, &new).unwrap();
    assert_eq!(store.query_by_name("q").unwrap().unwrap(), new);
    assert!(store.query(old.id).unwrap().is_none() && store.latest(old.id).unwrap().is_none());
    assert!(store.inner.blobs.list(&crate::keys::BlobName::of_query(old.id)).unwrap().is_empty());
    assert_eq!(store.queries().unwrap().len(), 2);
    assert!(matches!(store.replace_query(newer, old.id, &new), Err(CheckpointError::NoQuery { .. })), "it is gone");
}

#[test]
fn an_unknown_version_is_refused() {
    let heads = std::sync::Arc::new(crate::head::MemHeadStore::default());
    let epoch = heads.claim_epoch().unwrap();
    let format = crate::head::HeadOp::Put(crate::keys::HeadKey::Format, b"7".to_vec());
    let _ = heads.transact(epoch, &[format]).unwrap();
    let blobs = std::sync::Arc::new(crate::blob::MemBlobStore::default());
    let error = CheckpointStore::with_parts(blobs, heads).err().unwrap().to_string();
    assert!(error.contains("version 7"), "{error}");
}

fn changes() -> impl Strategy<Value = Changes> {
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..2_000));
    prop::collection::btree_map(0u8..20, value, 0..8).prop_map(|changes| changes.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// State after the newest two batches, whatever was compacted in between and however often the store was reopened.
    #[test]
    fn reading_state_equals_applying_the_changes_in_order(
        batches in prop::collection::vec((changes(), any::<bool>(), 1usize..6, 1u64..20_000, any::<bool>()), 1..12),
    ) {
        let (blobs, heads) = (std::sync::Arc::new(crate::blob::MemBlobStore::default()), std::sync::Arc::new(crate::head::MemHeadStore::default()));
        let reopen = || CheckpointStore::with_parts(blobs.clone(), heads.clone()).unwrap();
        let mut store = reopen();
        let mut epoch = store.claim_epoch().unwrap();
        let query = spec("q");
        store.put_query(epoch, &query).unwrap();
        let mut model: Vec<BTreeMap<u8, Vec<u8>>> = Vec::new();
        for (number, (changes, compact, max_deltas, part_bytes, restart)) in batches.into_iter().enumerate() {
            let mut next = model.last().cloned().unwrap_or_default();
            for (key, value) in &changes {
                match value {
                    Some(value) => next.insert(*key, value.clone()),
                    None => next.remove(key),
                };
            }
            model.push(next);
            store.prepare(epoch, &record(query.id, epoch, number as u64, number as i64, &changes)).unwrap();
            if compact {
                let policy = CompactionPolicy { min_delta_bytes: 1, max_deltas, part_bytes };
                store.compact_with(epoch, query.id, policy).unwrap();
            }
            if restart {
                heads.lose_unsynced();
                store = reopen();
                epoch = store.claim_epoch().unwrap();
            }
            for (at, expected) in model.iter().enumerate().skip(number.saturating_sub(1)) {
                prop_assert_eq!(&state(&store, query.id, at as u64), expected, "after batch {}", at);
            }
            prop_assert_eq!(store.verify(query.id).unwrap().problems, Vec::<String>::new());
        }
    }
}
