//! Marks: the newest epoch and the newest prepared batch of every query, outside the head store.
//!
//! Owns: the files in `marks`, and detecting a head store that went back. sled takes a damaged tail of its log for a
//! torn write of a crash and drops what follows; or an older copy of `head` may have been restored. Either way the head
//! store looks intact but is behind what was published. A mark is written after the head, so it is never ahead of a
//! head that lost nothing.
//! Invariants: a mark is durable before its batch counts as prepared, and never goes back. A file has two slots that
//! are overwritten in turn: a torn write leaves the other one intact.

use crate::blob::{create_durably, sync_folder};
use crate::error::CheckpointError;
use highwater_protocol::ids::{BatchId, Epoch, QueryId};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"HWMARK\0\x01";
/// Each slot has its own page.
const SLOT_BYTES: u64 = 4096;
/// Magic, sequence, epoch, batch plus one, CRC-32 of all before.
const RECORD_BYTES: usize = 36;
const EPOCH: &str = "epoch";
const TEMPORARY: &str = ".tmp";

/// The marks of one data folder; without a folder nothing is marked.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    dir: Option<PathBuf>,
    files: Mutex<BTreeMap<String, Mark>>,
}

/// The file of one mark.
#[derive(Debug)]
struct Mark {
    file: File,
    path: PathBuf,
    sequence: u64,
    value: Value,
}

/// The content of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Value {
    epoch: u64,
    batch: Option<BatchId>,
}

impl Marks {
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        create_durably(dir)?;
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(CheckpointError::io("list", dir))? {
            let path = entry.map_err(CheckpointError::io("list", dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
            if name.ends_with(TEMPORARY) {
                fs::remove_file(&path).map_err(CheckpointError::io("remove", &path))?;
            } else if name == EPOCH || name.parse::<QueryId>().is_ok() {
                files.insert(name, Mark::open(path)?);
            }
        }
        Ok(Self { dir: Some(dir.to_path_buf()), files: Mutex::new(files) })
    }

    /// The highest epoch ever claimed; 0 if none was.
    pub fn epoch(&self) -> Epoch {
        self.with(|files| Epoch(files.get(EPOCH).map_or(0, |mark| mark.value.epoch)))
    }

    pub fn set_epoch(&self, epoch: Epoch) -> Result<(), CheckpointError> {
        self.set(EPOCH, Value { epoch: epoch.0, batch: None })
    }

    /// The newest batch of the query that was ever prepared; `None` if none was.
    pub fn batch(&self, query: QueryId) -> Option<BatchId> {
        self.with(|files| files.get(&query.to_string()).and_then(|mark| mark.value.batch))
    }

    /// Creates the query's file, so that marking a batch needs no more disk space.
    pub fn ensure(&self, query: QueryId) -> Result<(), CheckpointError> {
        if self.with(|files| files.contains_key(&query.to_string())) {
            return Ok(());
        }
        self.set(&query.to_string(), Value::default())
    }

    pub fn set_batch(&self, query: QueryId, epoch: Epoch, batch: BatchId) -> Result<(), CheckpointError> {
        self.set(&query.to_string(), Value { epoch: epoch.0, batch: Some(batch) })
    }

    /// Queries that have a mark.
    pub fn queries(&self) -> Vec<QueryId> {
        self.with(|files| files.keys().filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes the mark of a query that is to be deleted. Must precede the removal of its heads, since a mark without a
    /// query means that the query was lost.
    pub fn remove(&self, query: QueryId) -> Result<(), CheckpointError> {
        let (Some(dir), Some(mark)) = (&self.dir, self.with(|files| files.remove(&query.to_string()))) else {
            return Ok(());
        };
        fs::remove_file(&mark.path).map_err(CheckpointError::io("remove", &mark.path))?;
        sync_folder(dir)
    }

    /// Path of a query's mark, for messages.
    pub fn path(&self, query: QueryId) -> PathBuf {
        self.dir.clone().unwrap_or_default().join(query.to_string())
    }

    fn set(&self, name: &str, value: Value) -> Result<(), CheckpointError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        self.with(|files| match files.get_mut(name) {
            Some(mark) => mark.write(value),
            None => {
                files.insert(name.to_string(), Mark::create(dir, name, value)?);
                Ok(())
            }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Mark>) -> T) -> T {
        act(&mut self.files.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Mark {
    /// Creates a mark. Both slots are written in full, so that later writes only change bytes in place.
    fn create(dir: &Path, name: &str, value: Value) -> Result<Self, CheckpointError> {
        let path = dir.join(name);
        let temporary = dir.join(format!("{name}{TEMPORARY}"));
        let mut bytes = vec![0; 2 * SLOT_BYTES as usize];
        bytes[..RECORD_BYTES].copy_from_slice(&encode(0, value));
        let options = File::options().read(true).write(true).create(true).truncate(true).open(&temporary);
        let file = options.map_err(CheckpointError::io("create", &temporary))?;
        file.write_all_at(&bytes, 0).map_err(CheckpointError::io("write", &temporary))?;
        file.sync_all().map_err(CheckpointError::sync(&temporary))?;
        fs::rename(&temporary, &path).map_err(CheckpointError::io("rename to", &path))?;
        sync_folder(dir)?;
        Ok(Self { file, path, sequence: 0, value })
    }

    fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        let options = File::options().read(true).write(true).open(&path);
        let file = options.map_err(CheckpointError::io("open", &path))?;
        let slot = |number: u64| {
            let mut bytes = [0; RECORD_BYTES];
            file.read_exact_at(&mut bytes, number * SLOT_BYTES).ok()?;
            decode(&bytes)
        };
        let newest = [slot(0), slot(1)].into_iter().flatten().max_by_key(|(sequence, _)| *sequence);
        let Some((sequence, value)) = newest else {
            let name = path.display().to_string();
            return Err(CheckpointError::damaged(name, "neither of its two slots can be read"));
        };
        Ok(Self { file, path, sequence, value })
    }

    fn write(&mut self, value: Value) -> Result<(), CheckpointError> {
        let sequence = self.sequence + 1;
        let place = sequence % 2 * SLOT_BYTES;
        self.file
            .write_all_at(&encode(sequence, value), place)
            .and_then(|()| self.file.sync_data())
            .map_err(CheckpointError::sync(&self.path))?;
        (self.sequence, self.value) = (sequence, value);
        Ok(())
    }
}

fn encode(sequence: u64, value: Value) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..24].copy_from_slice(&value.epoch.to_le_bytes());
    bytes[24..32].copy_from_slice(&value.batch.map_or(0, |batch| batch.0.saturating_add(1)).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..32]);
    bytes[32..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<(u64, Value)> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let crc = u32::from_le_bytes(bytes.get(32..)?.try_into().ok()?);
    if !bytes.starts_with(MAGIC) || crc != crc32fast::hash(&bytes[..32]) {
        return None;
    }
    Some((number(8)?, Value { epoch: number(16)?, batch: number(24)?.checked_sub(1).map(BatchId) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const Q: QueryId = QueryId(Uuid::from_u128(5));

    #[test]
    fn marks_survive_a_restart_and_a_torn_write_of_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path()).unwrap();
        assert_eq!((marks.epoch(), marks.batch(Q)), (Epoch(0), None));
        marks.set_epoch(Epoch(4)).unwrap();
        marks.ensure(Q).unwrap();
        assert_eq!(marks.batch(Q), None);
        (0..=7).for_each(|batch| marks.set_batch(Q, Epoch(4), BatchId(batch)).unwrap());
        let reopened = Marks::open(dir.path()).unwrap();
        assert_eq!((reopened.epoch(), reopened.batch(Q)), (Epoch(4), Some(BatchId(7))));
        let path = reopened.path(Q);
        let mut bytes = fs::read(&path).unwrap();
        // Batch 7 was the eighth write after the creation.
        bytes[30] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let torn = Marks::open(dir.path()).unwrap();
        assert_eq!(torn.batch(Q), Some(BatchId(6)));
        torn.set_batch(Q, Epoch(4), BatchId(8)).unwrap();
        assert_eq!(Marks::open(dir.path()).unwrap().batch(Q), Some(BatchId(8)));
        fs::write(&path, vec![7; 8192]).unwrap();
        let error = Marks::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_removed_mark_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path()).unwrap();
        marks.set_batch(Q, Epoch(1), BatchId(0)).unwrap();
        assert_eq!(marks.queries(), [Q]);
        marks.remove(Q).unwrap();
        marks.remove(Q).unwrap();
        assert_eq!(marks.queries(), []);
        assert_eq!(Marks::open(dir.path()).unwrap().queries(), []);
    }
}
