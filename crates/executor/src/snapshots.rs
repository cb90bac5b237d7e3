//! The tables that rows look up: their content is fetched from the driver, and loaded before a batch's tasks run.
//!
//! Owns: local copies in the scratch folder, which are removed once their rows are in memory. Does not own: which
//! content a batch looks up (its plan), reading rows from it (connectors). Invariant: a copy has the content that its
//! name says.

use crate::channels::DriverClient;
use crate::error::TaskError;
use crate::steps::Steps;
use arrow::record_batch::RecordBatch;
use highwater_connectors::registry;
use highwater_planner::CompiledQuery;
use highwater_planner::snapshots::SnapshotRows;
use highwater_proto::v1::FetchFileRequest;
use highwater_protocol::files::{ContentHasher, FileContent, FileVersions};
use highwater_protocol::ids::QueryId;
use highwater_sql::tables::SnapshotTable;
use std::path::{Path, PathBuf};
use tokio::fs;
use tokio::io::{AsyncWriteExt, BufWriter};
use tonic::Code;

/// What the rows of one query look up, while it is open.
pub struct Snapshots {
    /// Not shared: another run of the query may still be closing.
    folder: PathBuf,
    query: QueryId,
    epoch: u64,
    /// How much memory the rows may take, bytes.
    limit_bytes: u64,
    /// Locked during a fetch, so that there is only one at a time.
    fetching: tokio::sync::Mutex<()>,
}

impl Snapshots {
    pub fn new(scratch: &Path, query: QueryId, epoch: u64, limit_bytes: u64) -> Self {
        let folder = scratch.join(format!("files-{}", uuid::Uuid::now_v7()));
        Self { folder, query, epoch, limit_bytes, fetching: tokio::sync::Mutex::new(()) }
    }

    /// Loads the rows that a batch with these versions looks up.
    pub async fn load(
        &self,
        compiled: &CompiledQuery,
        versions: &FileVersions,
        client: &DriverClient,
        steps: &Steps,
    ) -> Result<(), TaskError> {
        if !compiled.load_snapshots(versions, &Fetching { snapshots: self, client, steps }, self.limit_bytes).await? {
            return Ok(());
        }
        // All rows are in memory: the copies are no longer needed.
        match fs::remove_dir_all(&self.folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %self.folder.display(), %error, "copies of looked-up tables could not be removed");
            }
            _ => {}
        }
        Ok(())
    }

    async fn fetch(&self, content: FileContent, client: &DriverClient, steps: &Steps) -> Result<PathBuf, TaskError> {
        let _one = self.fetching.lock().await;
        let path = self.folder.join(content.digest.to_string());
        if fs::try_exists(&path).await.map_err(|error| local(&path, &error))? {
            return Ok(path);
        }
        let request = FetchFileRequest {
            query_id: self.query.to_string(),
            digest: content.digest.to_string(),
            size_bytes: content.size_bytes,
            epoch: self.epoch,
        };
        let mut parts = client.clone().fetch_file(request).await.map_err(remote)?.into_inner();
        fs::create_dir_all(&self.folder).await.map_err(|error| local(&self.folder, &error))?;
        let unfinished = path.with_extension("part");
        let failed = |error| local(&unfinished, &error);
        let mut file = BufWriter::new(fs::File::create(&unfinished).await.map_err(failed)?);
        let mut hasher = ContentHasher::default();
        while let Some(part) = parts.message().await.map_err(remote)? {
            hasher.update(&part.chunk);
            file.write_all(&part.chunk).await.map_err(failed)?;
            steps.step();
        }
        file.flush().await.map_err(failed)?;
        if hasher.finish() != content {
            return Err(TaskError::Content("it arrived incomplete; the attempt is retried".into()));
        }
        fs::rename(&unfinished, &path).await.map_err(failed)?;
        Ok(path)
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        // Copies of a load that was abandoned. The scratch folder is removed with the process anyway.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Fetching<'a> {
    snapshots: &'a Snapshots,
    client: &'a DriverClient,
    steps: &'a Steps,
}

impl SnapshotRows for Fetching<'_> {
    type Error = TaskError;

    async fn rows(&self, table: &SnapshotTable, contents: &[FileContent]) -> Result<Vec<RecordBatch>, TaskError> {
        let mut copies = Vec::with_capacity(contents.len());
        for content in contents {
            copies.push(self.snapshots.fetch(*content, self.client, self.steps).await?);
        }
        Ok(registry::snapshot_rows(table, &copies).await?)
    }
}

fn local(path: &Path, error: &std::io::Error) -> TaskError {
    TaskError::Content(format!("{}: {error}; check --data-dir of this executor", path.display()))
}

fn remote(status: tonic::Status) -> TaskError {
    let message = status.message().to_string();
    match status.code() {
        Code::DataLoss => TaskError::DamagedContent(message),
        _ => TaskError::Content(message),
    }
}
