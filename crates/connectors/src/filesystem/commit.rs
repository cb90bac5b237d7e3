//! Making the files of a batch visible, all or none.
//!
//! Owns: the manifest of a batch, whose rename is the commit; moving the batch's files into place; deleting files that
//! attempts have left. Does not own: which batch is committed (protocol). Every step can be repeated after a crash.

use super::layout::Layout;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::sink::EarlierOutput;
use highwater_crash as crash;
use highwater_protocol::ids::{AttemptId, BatchId, QueryId};
use highwater_protocol::report::{WriterReport, WriterToken};
use highwater_sql::tables::SinkTable;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The token of a writer's report: the file that it has staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Name in the folder of staged files.
    pub file: String,
    pub size_bytes: u64,
}

impl Token {
    pub fn encode(&self) -> Result<WriterToken, ConnectorError> {
        let bytes = serde_json::to_vec(self).map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        Ok(WriterToken(bytes))
    }

    fn of(writer: &WriterReport) -> Result<Self, ConnectorError> {
        let read = writer.token.as_ref().and_then(|token| serde_json::from_slice(&token.0).ok());
        read.ok_or_else(|| {
            ConnectorError::Fatal(format!("the checkpoint does not name the file of writer {}", writer.plan.writer))
        })
    }
}

/// The files of a committed batch. Readers that must see whole batches read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    query_id: QueryId,
    query: String,
    table: String,
    batch_id: u64,
    files: Vec<FileEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Relative to the sink's path.
    path: String,
    num_rows: u64,
    size_bytes: u64,
    /// Order-independent digest of the rows, hexadecimal.
    digest: String,
    /// Name in the folder of staged files, before the commit.
    staged: String,
}

/// Commits a batch, or finishes committing it. See [`highwater_connector_api::sink::Staged::commit`].
pub fn commit(layout: &Layout, query: &str, batch: BatchId, writers: &[&WriterReport]) -> Result<(), ConnectorError> {
    let (manifest, is_new) = commit_manifest(layout, query, batch, writers)?;
    crash::point("driver_mid_commit_of_files");
    for file in &manifest.files {
        let to = layout.root.join(&file.path);
        match fs::rename(layout.staged().join(&file.staged), &to) {
            // An earlier, interrupted commit has moved the file, and a reader may have removed it since. If the folder
            // of staged files is missing, too, the file system is not mounted.
            Err(error) if error.kind() == ErrorKind::NotFound && !is_new && layout.staged().is_dir() => {
                tracing::debug!(path = %to.display(), "an earlier commit has moved the file");
            }
            moved => moved.map_err(|error| layout.failed("moving a file", &error))?,
        }
    }
    layout.sync(&layout.root)?;
    delete_leftovers(layout, batch)
}

/// Writes the manifest of a batch, which commits it: after that, its files only have to be moved. Returns the manifest,
/// and whether it was written by this call.
pub fn commit_manifest(
    layout: &Layout,
    query: &str,
    batch: BatchId,
    writers: &[&WriterReport],
) -> Result<(Manifest, bool), ConnectorError> {
    let manifest = manifest(layout, query, batch, writers)?;
    let path = layout.manifest(batch);
    match read(layout, &path)? {
        Some(found) if found == manifest => {
            // The driver that wrote it may have died before its name was durable.
            layout.sync(folder_of(layout, &path))?;
            Ok((manifest, false))
        }
        Some(_) => Err(ConnectorError::Fatal(format!(
            "{} holds another batch {batch} than the checkpoint: the checkpoint is old, or another driver runs on a copy of it; \
             submit the query with --new-output and another 'path'",
            layout.place()
        ))),
        None => {
            for (file, writer) in manifest.files.iter().zip(writers) {
                check_staged(layout, file, writer)?;
            }
            write(layout, &manifest, &path)?;
            Ok((manifest, true))
        }
    }
}

fn manifest(
    layout: &Layout,
    query: &str,
    batch: BatchId,
    writers: &[&WriterReport],
) -> Result<Manifest, ConnectorError> {
    let entry = |writer: &&WriterReport| {
        let Token { file, size_bytes } = Token::of(writer)?;
        // The name comes from an executor, and must not lead out of the folder.
        if Layout::batch_of_staged(&file) != Some(batch) || file.contains(['/', '\\']) {
            return Err(ConnectorError::Fatal(format!("{}: '{file}' is not a file of batch {batch}", layout.place())));
        }
        Ok(FileEntry {
            path: layout.final_name(batch, writer.plan.writer),
            num_rows: writer.rows,
            size_bytes,
            digest: format!("{:032x}", writer.digest),
            staged: file,
        })
    };
    let files = writers.iter().map(entry).collect::<Result<_, ConnectorError>>()?;
    Ok(Manifest {
        query_id: layout.query,
        query: query.to_string(),
        table: layout.table().to_string(),
        batch_id: batch.0,
        files,
    })
}

/// Checks that a file that the prepare record names exists and has its size.
fn check_staged(layout: &Layout, file: &FileEntry, writer: &WriterReport) -> Result<(), ConnectorError> {
    let path = layout.staged().join(&file.staged);
    match fs::metadata(&path) {
        Ok(found) if found.len() == file.size_bytes => Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(layout.failed("checking a file", &error)),
        found => {
            let size = found.map_or("is not there".to_string(), |found| format!("has {} bytes", found.len()));
            Err(ConnectorError::Fatal(format!(
                "{}: the driver does not see the file of writer {} ({} of {} bytes {size}); 'path' must be a folder that the \
                 driver shares with all executors, and files below _highwater must not be touched",
                layout.place(),
                writer.plan.writer,
                file.staged,
                file.size_bytes
            )))
        }
    }
}

fn read(layout: &Layout, path: &Path) -> Result<Option<Manifest>, ConnectorError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| layout.failed("reading a manifest", &error))?,
    };
    let damaged = |error| ConnectorError::Fatal(format!("{} is damaged: {error}; restore it", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Writes a manifest durably and atomically.
fn write(layout: &Layout, manifest: &Manifest, path: &Path) -> Result<(), ConnectorError> {
    let bytes = serde_json::to_vec_pretty(manifest).map_err(|error| ConnectorError::Fatal(error.to_string()))?;
    // A unique name, since a driver that hangs may still be writing another file.
    let aside = layout.staged().join(Layout::temporary_name(BatchId(manifest.batch_id)));
    let written = || {
        let mut file = fs::File::create(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    written().map_err(|error| layout.failed("writing a manifest", &error))?;
    layout.sync(folder_of(layout, path))
}

fn folder_of<'a>(layout: &'a Layout, path: &'a Path) -> &'a Path {
    path.parent().unwrap_or(&layout.root)
}

/// Deletes the staged files of an attempt. See [`highwater_connector_api::sink::Staged::discard`].
pub fn discard(layout: &Layout, batch: BatchId, attempt: AttemptId) -> Result<(), ConnectorError> {
    delete_staged(layout, |name| Layout::is_of_attempt(name, batch, attempt))
}

/// Deletes files that attempts of this batch or earlier ones have staged and that were not committed.
fn delete_leftovers(layout: &Layout, batch: BatchId) -> Result<(), ConnectorError> {
    delete_staged(layout, |name| Layout::batch_of_staged(name).is_some_and(|of| of <= batch))
}

fn delete_staged(layout: &Layout, which: impl Fn(&str) -> bool) -> Result<(), ConnectorError> {
    let staged = layout.staged();
    for name in layout.names(&staged)?.into_iter().filter(|name| which(name)) {
        match fs::remove_file(staged.join(&name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(layout.failed("deleting a file", &error)),
            _ => {}
        }
    }
    Ok(())
}

/// Finds the output of earlier queries by their manifests.
pub struct EarlierManifests;

impl EarlierOutput for EarlierManifests {
    fn find(&mut self, sink: &SinkTable, name: &str) -> Result<Option<String>, ConnectorError> {
        let layout = Layout::of(sink, QueryId(uuid::Uuid::nil()))?;
        let mut found = BTreeSet::new();
        for path in layout.newest_of_all()? {
            match read(&layout, &path) {
                Ok(Some(manifest)) if manifest.query == name && manifest.table == sink.name => {
                    found.insert(manifest.query_id.to_string());
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "skipped a manifest of another query that cannot be read"),
            }
        }
        Ok(found.pop_last())
    }
}
