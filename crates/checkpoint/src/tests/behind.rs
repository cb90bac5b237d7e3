//! A head store that lost its newest writes, and writes that fail: an older checkpoint is never taken for the newest,
//! blobs that may still be needed are kept, and every write after a failed sync is refused.

use super::*;
use crate::blob::{BlobStore, MemBlobStore};
use crate::head::MemHeadStore;
use highwater_protocol::error::ErrorKind;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Changes larger than what is kept in the head store itself, and incompressible.
fn noise(seed: u32) -> Changes {
    let words = (0..4_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes());
    some(1, &words.collect::<Vec<u8>>())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn blobs_of(dir: &Path, query: QueryId) -> usize {
    fs::read_dir(dir.join(format!("blobs/queries/{query}"))).unwrap().count()
}

/// sled takes a bad checksum in its newest writes for a torn write of a crash. Wherever the damage is, the result is
/// the newest batch or an error.
#[test]
fn damage_anywhere_in_the_newest_writes_is_never_taken_for_an_older_checkpoint() {
    let whole = tempfile::tempdir().unwrap();
    let query = {
        let (store, epoch, query) = opened(whole.path());
        for batch in 0..12 {
            store.prepare(epoch, &record(query, epoch, batch, batch as i64, &noise(batch as u32))).unwrap();
        }
        query
    };
    let log = fs::read(whole.path().join("head/db")).unwrap();
    let end = log.iter().rposition(|byte| *byte != 0).unwrap();
    let mut went_back = 0;
    for back in (0..40).map(|step| step * 97) {
        let damaged = tempfile::tempdir().unwrap();
        copy(whole.path(), damaged.path());
        let mut bytes = log.clone();
        bytes[end - back] ^= 0x55;
        fs::write(damaged.path().join("head/db"), bytes).unwrap();
        let Ok(store) = CheckpointStore::open(damaged.path()) else { continue };
        match store.latest(query) {
            Ok(head) => assert_eq!(head.unwrap().record.batch(), BatchId(11), "{back} bytes before the end"),
            Err(CheckpointError::WentBack { marked: BatchId(11), .. }) => {
                went_back += 1;
                assert_eq!(blobs_of(damaged.path(), query), 12, "newer files are kept");
                let problems = store.verify(query).unwrap().problems;
                assert!(problems.iter().any(|problem| problem.contains("went back")), "{problems:?}");
            }
            Err(_) => {}
        }
    }
    assert!(went_back > 0, "no damage shortened the log, so the test shows nothing");
}

#[test]
fn an_older_head_store_stops_only_its_query_and_names_the_remedy() {
    let (dir, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let other = spec("other");
    let query = {
        let (store, epoch, query) = opened(dir.path());
        store.put_query(epoch, &other).unwrap();
        store.prepare(epoch, &record(query, epoch, 0, 1, &noise(0))).unwrap();
        store.prepare(epoch, &record(other.id, epoch, 0, 1, &noise(1))).unwrap();
        query
    };
    copy(&dir.path().join("head"), old.path());
    {
        let store = CheckpointStore::open(dir.path()).unwrap();
        let epoch = Epoch(1);
        store.prepare(epoch, &record(query, epoch, 1, 2, &noise(2))).unwrap();
    }
    fs::remove_dir_all(dir.path().join("head")).unwrap();
    copy(old.path(), &dir.path().join("head"));
    let store = CheckpointStore::open(dir.path()).unwrap();
    let error = store.latest(query).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fix);
    let text = error.to_string();
    assert!(text.contains("batch 1 was prepared") && text.contains("ends at batch 0"), "{text}");
    assert!(text.contains("Restore the whole data folder") && text.contains("--new-output"), "{text}");
    assert_eq!(blobs_of(dir.path(), query), 2, "the newer file is kept");
    assert_eq!(store.latest(other.id).unwrap().unwrap().record.batch(), BatchId(0), "the other query is not affected");
    let epoch = store.claim_epoch().unwrap();
    assert!(matches!(
        store.prepare(epoch, &record(query, epoch, 1, 2, &noise(3))),
        Err(CheckpointError::WentBack { .. })
    ));
    // One remedy: without the mark, recovery compares the sinks with the checkpoint.
    drop(store);
    fs::remove_file(dir.path().join(format!("marks/{query}"))).unwrap();
    let store = CheckpointStore::open(dir.path()).unwrap();
    assert_eq!(store.latest(query).unwrap().unwrap().record.batch(), BatchId(0));
    assert_eq!(blobs_of(dir.path(), query), 1);
    // The other remedy: drop the query.
    let epoch = store.claim_epoch().unwrap();
    store.delete_query(epoch, query).unwrap();
    assert!(!dir.path().join(format!("marks/{query}")).exists());
}

#[test]
fn a_head_store_with_an_older_epoch_is_not_opened() {
    let (dir, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let query = opened(dir.path()).2;
    copy(&dir.path().join("head"), old.path());
    CheckpointStore::open(dir.path()).unwrap().claim_epoch().unwrap();
    fs::remove_dir_all(dir.path().join("head")).unwrap();
    copy(old.path(), &dir.path().join("head"));
    let error = CheckpointStore::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("epoch 2 was claimed") && error.contains("ends at epoch 1"), "{error}");
    fs::remove_file(dir.path().join("marks/epoch")).unwrap();
    let store = CheckpointStore::open(dir.path()).unwrap();
    assert!(store.query(query).unwrap().is_some());
}

#[test]
fn files_of_a_query_that_is_missing_are_kept() {
    let (dir, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let epoch = CheckpointStore::open(dir.path()).unwrap().claim_epoch().unwrap();
    copy(&dir.path().join("head"), old.path());
    let query = {
        let store = CheckpointStore::open(dir.path()).unwrap();
        let query = spec("q");
        store.put_query(epoch, &query).unwrap();
        store.prepare(epoch, &record(query.id, epoch, 0, 1, &noise(0))).unwrap();
        query.id
    };
    fs::remove_dir_all(dir.path().join("head")).unwrap();
    copy(old.path(), &dir.path().join("head"));
    let store = CheckpointStore::open(dir.path()).unwrap();
    assert_eq!(store.queries().unwrap(), []);
    assert_eq!(blobs_of(dir.path(), query), 1);
}

#[test]
fn the_number_of_writers_only_grows_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let (store, epoch, query) = opened(dir.path());
    assert!(store.reserved_writers(query).unwrap().is_empty());
    let (a, b) = (SinkId(0), SinkId(7));
    store.reserve_writers(epoch, query, &[(a, 3)].into()).unwrap();
    store.reserve_writers(epoch, query, &[(a, 1), (b, 2)].into()).unwrap();
    drop(store);
    let store = CheckpointStore::open(dir.path()).unwrap();
    assert_eq!(store.reserved_writers(query).unwrap(), [(a, 3), (b, 2)].into());
    let epoch = store.claim_epoch().unwrap();
    store.delete_query(epoch, query).unwrap();
    assert!(matches!(store.reserve_writers(epoch, query, &[(a, 9)].into()), Err(CheckpointError::NoQuery { .. })));
}

/// Blobs in memory whose next writes fail: 1 because the disk is full, 2 because the sync fails.
#[derive(Default)]
struct Failing {
    blobs: MemBlobStore,
    how: AtomicU8,
}

impl BlobStore for Failing {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = Path::new(name);
        match self.how.load(Ordering::Relaxed) {
            0 => self.blobs.put(name, bytes),
            1 => Err(CheckpointError::io("write", path)(std::io::ErrorKind::StorageFull.into())),
            _ => Err(CheckpointError::sync(path)(std::io::Error::other("input/output error"))),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        self.blobs.get(name)
    }

    fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        self.blobs.delete(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, CheckpointError> {
        self.blobs.list(prefix)
    }
}

#[test]
fn a_full_disk_is_retried_and_a_failed_sync_ends_all_writing() {
    let (blobs, heads) = (Arc::new(Failing::default()), Arc::new(MemHeadStore::default()));
    let store = CheckpointStore::with_parts(blobs.clone(), heads.clone()).unwrap();
    let epoch = store.claim_epoch().unwrap();
    let query = spec("q");
    store.put_query(epoch, &query).unwrap();
    let first = record(query.id, epoch, 0, 1, &noise(0));
    blobs.how.store(1, Ordering::Relaxed);
    for _ in 0..3 {
        let error = store.prepare(epoch, &first).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
        assert_eq!(store.latest_batch(query.id).unwrap(), None, "nothing was prepared");
    }
    blobs.how.store(0, Ordering::Relaxed);
    store.prepare(epoch, &first).unwrap();

    let second = record(query.id, epoch, 1, 2, &noise(1));
    blobs.how.store(2, Ordering::Relaxed);
    assert_eq!(store.prepare(epoch, &second).unwrap_err().kind(), ErrorKind::Fatal);
    blobs.how.store(0, Ordering::Relaxed);
    let refused = [
        store.prepare(epoch, &second),
        store.put_query(epoch, &spec("other")),
        store.note_committed(epoch, query.id, BatchId(0)),
        store.reserve_writers(epoch, query.id, &[(SinkId(0), 1)].into()),
        store.delete_query(epoch, query.id),
        store.claim_epoch().map(drop),
        store.check_epoch(epoch),
    ];
    for refusal in refused {
        let error = refusal.unwrap_err();
        assert!(matches!(error, CheckpointError::Poisoned { .. }), "{error}");
        assert!(error.to_string().contains("input/output error"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Fatal);
    }
    let restarted = CheckpointStore::with_parts(blobs, heads).unwrap();
    restarted.prepare(epoch, &second).unwrap();
}
