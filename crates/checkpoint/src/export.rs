//! Exports checkpoints in the folder layout known from Spark: `offsets/N`, `commits/N`, `state/OPERATOR/…`.
//!
//! Owns: the layout of the export. Invariant: it only writes into a folder that is new or empty.
//! Layout: `offsets/N` is one line of JSON, `{"topic":{"0":100}}`, exclusive ends after batch N; `commits/N`, for
//! committed batches, is one line of JSON with the watermarks after it; `state/OPERATOR/N.delta` is what batch N
//! changed, and `state/OPERATOR/N.snapshot-FIRST-END` the whole state of some shards after it, in the layout of
//! `protocol::state_delta`.

use crate::error::CheckpointError;
use crate::format::{Container, Kind};
use crate::keys::HeadKey;
use crate::read::parse_record;
use crate::store::CheckpointStore;
use crate::values::{BatchEntry, Body, SnapshotEntry, decode};
use highwater_protocol::ids::QueryId;
use highwater_protocol::offsets::to_topic_json;
use highwater_protocol::prepare_record::PrepareRecord;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Numbers of files that an export has written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    /// Files under `offsets`.
    pub offsets: u64,
    /// Files under `commits`.
    pub commits: u64,
    /// Files under `state`.
    pub state_files: u64,
}

impl CheckpointStore {
    /// Writes every kept batch of a query into `to`.
    pub fn export(&self, query: QueryId, to: &Path) -> Result<Exported, CheckpointError> {
        let mut folder = Folder::create(to)?;
        let slot = self.slot(query);
        let _reading = slot.files.read();
        for (key, value) in self.inner.heads.scan(&HeadKey::snapshots_of(query))? {
            let HeadKey::Snapshot(_, at) = key else { continue };
            for part in decode::<SnapshotEntry>(&key, &value)?.parts {
                let name = format!("{}.snapshot-{}-{}", at.0, part.first, part.end);
                self.export_body(&key, &part.body, &name, &mut folder)?;
            }
        }
        let committed = self.committed_batch(query)?;
        for (key, value) in self.inner.heads.scan(&HeadKey::batches_of(query))? {
            let HeadKey::Batch(_, batch) = key else { continue };
            let entry: BatchEntry = decode(&key, &value)?;
            let Some(record) = self.export_body(&key, &entry.body, &format!("{}.delta", batch.0), &mut folder)? else {
                continue;
            };
            let number = batch.0.to_string();
            folder.write(&["offsets", &number], line(&to_topic_json(&record.positions)).as_bytes())?;
            folder.done.offsets += 1;
            if committed >= Some(batch) {
                let watermarks: Vec<_> = record.watermarks.values().filter_map(|w| w.current_ms).collect();
                let document = serde_json::json!({"nextBatchWatermarkMs": watermarks.iter().min()});
                folder.write(&["commits", &number], line(&document).as_bytes())?;
                folder.done.commits += 1;
            }
        }
        Ok(folder.done)
    }

    /// Writes the state that is in one file. Returns the file's record; `None` if it has none.
    fn export_body(
        &self,
        key: &HeadKey,
        body: &Body,
        name: &str,
        folder: &mut Folder,
    ) -> Result<Option<PrepareRecord>, CheckpointError> {
        let (file, bytes) = self.read_body(key, body)?;
        let container = Container::parse(&file, &bytes)?;
        let mut record = None;
        for (kind, bytes) in container.read(|_| true)? {
            match kind {
                Kind::Record => record = Some(parse_record(&file, &container)?),
                Kind::State { operator, .. } => {
                    // If several tasks change one operator, each has its own delta.
                    folder.write_numbered(&["state", &operator.to_string()], name, &bytes)?;
                    folder.done.state_files += 1;
                }
                Kind::Spec | Kind::File => {}
            }
        }
        Ok(record)
    }
}

fn line(document: &serde_json::Value) -> String {
    format!("{document}\n")
}

/// The folder of an export.
struct Folder {
    root: PathBuf,
    done: Exported,
}

impl Folder {
    fn create(root: &Path) -> Result<Self, CheckpointError> {
        let folder = Self { root: root.to_path_buf(), done: Exported::default() };
        std::fs::create_dir_all(root).map_err(|source| io("create", root, source))?;
        let mut entries = std::fs::read_dir(root).map_err(|source| io("list", root, source))?;
        if entries.next().is_some() {
            return Err(CheckpointError::NotEmpty(root.to_path_buf()));
        }
        for name in ["offsets", "commits", "state"] {
            let path = root.join(name);
            std::fs::create_dir(&path).map_err(|source| io("create", &path, source))?;
        }
        Ok(folder)
    }

    fn write(&self, place: &[&str], bytes: &[u8]) -> Result<(), CheckpointError> {
        let path: PathBuf = std::iter::once(self.root.as_os_str()).chain(place.iter().map(|s| s.as_ref())).collect();
        std::fs::write(&path, bytes).map_err(|source| io("write", &path, source))
    }

    /// Writes `NAME`, or `NAME.1`, `NAME.2` … if that exists already.
    fn write_numbered(&self, place: &[&str], name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let folder: PathBuf = std::iter::once(self.root.as_os_str()).chain(place.iter().map(|s| s.as_ref())).collect();
        std::fs::create_dir_all(&folder).map_err(|source| io("create", &folder, source))?;
        let mut path = folder.join(name);
        let mut number = 0u32;
        while path.exists() {
            number += 1;
            path = folder.join(format!("{name}.{number}"));
        }
        std::fs::write(&path, bytes).map_err(|source| io("write", &path, source))
    }
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> CheckpointError {
    CheckpointError::Io { action, path: path.to_path_buf(), source }
}
