//! Content of looked-up files is kept as long as a batch may need it.

use super::*;
use highwater_protocol::files::{FileContent, FileVersions};

fn versions(bytes: &[u8]) -> FileVersions {
    [("items".to_string(), vec![FileContent::of(bytes)])].into()
}

struct Case {
    store: CheckpointStore,
    epoch: Epoch,
    query: QueryId,
}

impl Case {
    /// A store in a folder, with one query.
    fn opened(dir: &Path) -> Self {
        let (store, epoch, query) = opened(dir);
        Self { store, epoch, query }
    }

    fn keep(&self, bytes: &[u8]) {
        self.store.keep_files(self.epoch, self.query, &versions(bytes), &[bytes.to_vec()]).unwrap();
    }

    fn prepare(&self, batch: u64, bytes: &[u8]) {
        let mut record = record(self.query, self.epoch, batch, 1, &some(1, b"x"));
        record.plan.files = versions(bytes);
        self.store.prepare(self.epoch, &record).unwrap();
    }

    /// Which of the contents are still stored.
    fn kept(&self, contents: [&[u8]; 3]) -> [bool; 3] {
        contents.map(|bytes| self.store.read_file(self.query, FileContent::of(bytes)).is_ok_and(|read| read == bytes))
    }
}

#[test]
fn content_is_kept_while_a_batch_may_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case::opened(dir.path());
    let all: [&[u8]; 3] = [b"1,one", b"1,new", b"1,newer"];
    case.keep(all[0]);
    case.prepare(0, all[0]);
    case.keep(all[1]);
    // Batch 1 was planned before that and is still under way.
    case.keep(all[2]);
    case.prepare(1, all[0]);
    assert_eq!(case.kept(all), [true; 3], "the next batch may be planned with any of these versions");
    case.prepare(2, all[2]);
    assert_eq!(case.kept(all), [true, false, true], "batch 1 is one of the newest two");
    case.prepare(3, all[2]);
    case.prepare(4, all[2]);
    assert_eq!(case.kept(all), [false, false, true]);
    // A version that was used before is used again.
    case.keep(all[0]);
    case.prepare(5, all[0]);
    case.prepare(6, all[0]);
    case.prepare(7, all[0]);
    assert_eq!(case.kept(all), [true, false, false]);
}

#[test]
fn a_restart_keeps_needed_content_and_removes_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let all: [&[u8]; 3] = [b"1,one", b"1,new", b"1,newer"];
    let query = {
        let case = Case::opened(dir.path());
        case.keep(all[0]);
        case.prepare(0, all[0]);
        case.keep(all[1]);
        case.prepare(1, all[1]);
        case.keep(all[2]);
        case.query
    };
    let store = CheckpointStore::open(dir.path()).unwrap();
    let case = Case { epoch: store.claim_epoch().unwrap(), store, query };
    assert_eq!(case.kept(all), [true, true, false]);
    assert_eq!(case.store.latest(query).unwrap().unwrap().record.plan.files, versions(all[1]));
    let verified = case.store.verify(query).unwrap();
    assert_eq!((verified.files, verified.problems), (2, Vec::new()));
    let name = format!("blobs/queries/{query}/file-{}", FileContent::of(all[1]).digest);
    std::fs::remove_file(dir.path().join(&name)).unwrap();
    let problems = case.store.verify(query).unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains("is missing"), "{problems:?}");
    case.store.delete_query(case.epoch, query).unwrap();
    assert!(std::fs::read_dir(dir.path().join(format!("blobs/queries/{query}"))).map_or(0, Iterator::count) == 0);
}

#[test]
fn compaction_deletes_only_unneeded_content() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case::opened(dir.path());
    let all: [&[u8]; 3] = [b"1,one", b"1,new", b"1,newer"];
    case.keep(all[0]);
    case.prepare(0, all[0]);
    case.keep(all[1]);
    case.prepare(1, all[1]);
    case.keep(all[2]);
    // Left by a run that ended before a batch was planned with it.
    let stray = dir.path().join(format!("blobs/queries/{}/file-{}", case.query, FileContent::of(b"stray").digest));
    std::fs::write(&stray, b"stray").unwrap();
    let policy = CompactionPolicy { min_delta_bytes: 0, max_deltas: 1, part_bytes: 1000 };
    assert_eq!(case.store.compact_with(case.epoch, case.query, policy).unwrap().snapshot, Some(BatchId(0)));
    assert_eq!((case.kept(all), stray.exists()), ([true; 3], false));
}

#[test]
fn versions_that_no_batch_was_planned_with_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case::opened(dir.path());
    let all: [&[u8]; 3] = [b"1,one", b"1,new", b"1,newer"];
    case.keep(all[0]);
    case.prepare(0, all[0]);
    case.keep(all[1]);
    case.keep(all[2]);
    case.store.release_files(case.epoch, case.query, &versions(all[2])).unwrap();
    assert_eq!(case.kept(all), [true, false, true], "the first is the prepared batch's");
}

#[test]
fn a_repeated_attempt_holds_its_content_once() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case::opened(dir.path());
    case.keep(b"1,one");
    case.keep(b"1,one");
    assert_eq!(case.store.slot(case.query).held.lock().unwrap().len(), 1);
}
