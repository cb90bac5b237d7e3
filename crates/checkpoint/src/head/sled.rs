//! Heads in sled 0.34.
//!
//! Owns: making writes durable, which sled's `flush` does not guarantee: on Linux it is `sync_file_range`, which
//! neither flushes the disk's cache nor records the file's size, so `db` and its folder are synced here before a write
//! counts as durable. Values over 128 KiB would go to files that sled never syncs; `values` keeps them small.

use super::{HeadOp, HeadStore, Transacted, check_epoch};
use crate::blob::{create_durably, make_private, sync_folder};
use crate::error::CheckpointError;
use crate::keys::HeadKey;
use crate::values::decode_text;
use highwater_protocol::ids::Epoch;
use sled::transaction::{ConflictableTransactionError as Abort, TransactionError, TransactionalTree};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Size of the page cache; heads are small.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Time to wait for sled's lock: after a `drop` in this process sled's threads may hold it for a moment longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Nothing is written if less than this is free on the disk: sled grows by segments of 512 KiB, and refuses all further
/// writes after one has failed.
const ROOM_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Debug)]
pub struct SledHeadStore {
    db: sled::Db,
    /// sled's data file, opened a second time so that it can be synced.
    file: File,
    dir: PathBuf,
}

/// Why a transaction was abandoned.
enum Stop {
    Unmet,
    Fenced(Epoch),
    Damaged(CheckpointError),
}

impl SledHeadStore {
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        create_durably(dir)?;
        make_private(dir)?;
        let db = open_patiently(dir)?;
        let path = dir.join("db");
        let file = File::options().read(true).write(true).open(&path).map_err(CheckpointError::io("open", &path))?;
        let store = Self { db, file, dir: dir.to_path_buf() };
        store.sync()?;
        Ok(store)
    }

    fn sync(&self) -> Result<(), CheckpointError> {
        self.db.flush().map_err(failed("flush"))?;
        self.file.sync_data().map_err(CheckpointError::sync(&self.dir.join("db")))?;
        sync_folder(&self.dir)
    }

    /// Refuses a write while the disk is nearly full.
    fn check_room(&self) -> Result<(), CheckpointError> {
        // If the file system does not report its free space, the write itself will show whether there is room.
        let Ok(stat) = rustix::fs::statvfs(self.dir.as_path()) else { return Ok(()) };
        let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free_bytes < ROOM_BYTES {
            return Err(CheckpointError::Full { dir: self.dir.clone(), free_bytes });
        }
        Ok(())
    }

    fn stored_epoch(&self) -> Result<Epoch, CheckpointError> {
        let found = self.db.get(HeadKey::Epoch.to_string()).map_err(failed("read"))?;
        epoch_of(found.as_deref())
    }
}

impl HeadStore for SledHeadStore {
    fn claim_epoch(&self) -> Result<Epoch, CheckpointError> {
        self.check_room()?;
        let key = HeadKey::Epoch.to_string();
        let claimed = self.db.transaction(|tree| {
            let current = epoch_of(tree.get(&key)?.as_deref()).map_err(|error| Abort::Abort(Stop::Damaged(error)))?;
            let next = Epoch(current.0 + 1);
            tree.insert(key.as_str(), next.to_string().as_bytes())?;
            Ok(next)
        });
        let epoch = match claimed {
            Ok(epoch) => epoch,
            Err(error) => return Err(stopped(error, Epoch::default()).err().unwrap_or_else(unmet)),
        };
        self.sync()?;
        Ok(epoch)
    }

    fn epoch(&self) -> Result<Epoch, CheckpointError> {
        self.stored_epoch()
    }

    fn transact(&self, epoch: Epoch, ops: &[HeadOp]) -> Result<Transacted, CheckpointError> {
        self.check_room()?;
        let done = self.db.transaction(|tree| {
            check_in(tree, epoch)?;
            ops.iter().try_for_each(|op| apply(tree, op))
        });
        if let Err(error) = done {
            return stopped(error, epoch);
        }
        self.sync()?;
        Ok(Transacted::Done)
    }

    fn note(&self, epoch: Epoch, key: &HeadKey, value: &[u8]) -> Result<(), CheckpointError> {
        self.check_room()?;
        let key = key.to_string();
        let done = self.db.transaction(|tree| {
            check_in(tree, epoch)?;
            tree.insert(key.as_str(), value)?;
            Ok(())
        });
        done.or_else(|error| stopped(error, epoch).map(|_| ()))
    }

    fn get(&self, key: &HeadKey) -> Result<Option<Vec<u8>>, CheckpointError> {
        Ok(self.db.get(key.to_string()).map_err(failed("read"))?.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(HeadKey, Vec<u8>)>, CheckpointError> {
        let mut found = Vec::new();
        for entry in self.db.scan_prefix(prefix) {
            let (key, value) = entry.map_err(failed("scan"))?;
            if let Some(key) = std::str::from_utf8(&key).ok().and_then(HeadKey::parse) {
                found.push((key, value.to_vec()));
            }
        }
        Ok(found)
    }

    fn is_empty(&self) -> Result<bool, CheckpointError> {
        Ok(self.db.is_empty())
    }
}

fn open_patiently(dir: &Path) -> Result<sled::Db, CheckpointError> {
    let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES);
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(error) if is_lock(&error) && Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(error) if is_lock(&error) => {
                return Err(CheckpointError::Locked { dir: dir.to_path_buf(), holder: "another process".into() });
            }
            Err(error) => return Err(failed("open")(error)),
        }
    }
}

fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn check_in(tree: &TransactionalTree, epoch: Epoch) -> Result<(), Abort<Stop>> {
    let stored = tree.get(HeadKey::Epoch.to_string())?;
    let current = epoch_of(stored.as_deref()).map_err(|error| Abort::Abort(Stop::Damaged(error)))?;
    check_epoch(epoch, current).map_err(|_| Abort::Abort(Stop::Fenced(current)))
}

fn apply(tree: &TransactionalTree, op: &HeadOp) -> Result<(), Abort<Stop>> {
    let met = match op {
        HeadOp::Put(key, value) => {
            tree.insert(key.to_string().as_str(), value.as_slice())?;
            true
        }
        HeadOp::Delete(key) => {
            tree.remove(key.to_string().as_str())?;
            true
        }
        HeadOp::Expect(key, value) => tree.get(key.to_string())?.as_deref() == value.as_deref(),
        HeadOp::ExpectPresent(key) => tree.get(key.to_string())?.is_some(),
    };
    if met { Ok(()) } else { Err(Abort::Abort(Stop::Unmet)) }
}

fn epoch_of(value: Option<&[u8]>) -> Result<Epoch, CheckpointError> {
    value.map_or(Ok(Epoch(0)), |bytes| decode_text(&HeadKey::Epoch, bytes).map(Epoch))
}

fn stopped(error: TransactionError<Stop>, yours: Epoch) -> Result<Transacted, CheckpointError> {
    match error {
        TransactionError::Abort(Stop::Unmet) => Ok(Transacted::Refused),
        TransactionError::Abort(Stop::Fenced(current)) => Err(CheckpointError::Fenced { yours, current }),
        TransactionError::Abort(Stop::Damaged(error)) => Err(error),
        TransactionError::Storage(error) => Err(failed("write")(error)),
    }
}

fn unmet() -> CheckpointError {
    head("claim an epoch", "a condition was not met")
}

fn head(action: &'static str, message: impl ToString) -> CheckpointError {
    CheckpointError::Head { action, message: message.to_string() }
}

fn failed(action: &'static str) -> impl FnOnce(sled::Error) -> CheckpointError {
    move |error| head(action, error)
}
