//! Where the files of a sink lie.
//!
//! ```text
//! PATH/<query>-<sink>-<batch>-<writer>.json            rows of a committed batch
//! PATH/_highwater/<query>-<sink>/<batch>.manifest.json the files of a committed batch: their list is the commit
//! PATH/_highwater/<query>-<sink>/staged/…              files of batches that are not committed
//! ```
//!
//! Owns: every path, and the errors of the file system. Does not own: what is in the files. Names that begin with `_` are
//! hidden to Spark, Hive and most readers of folders.

use highwater_connector_api::error::ConnectorError;
use highwater_protocol::ids::{AttemptId, BatchId, QueryId, WriterId};
use highwater_sql::references;
use highwater_sql::tables::SinkTable;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const OWN: &str = "_highwater";
const STAGED: &str = "staged";
const MANIFEST: &str = ".manifest.json";

/// The places of one sink of one query.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Name of the table, for messages.
    table: String,
    /// As the script has it, without what references stand for; for messages.
    shown: String,
    pub root: PathBuf,
    own: PathBuf,
    pub query: QueryId,
    /// Of every file: query and sink.
    prefix: String,
    extension: String,
}

impl Layout {
    /// # Errors
    /// A reference in `path` cannot be read.
    pub fn of(table: &SinkTable, query: QueryId) -> Result<Self, ConnectorError> {
        let shown = table.connector.values.text("path").unwrap_or_default().to_string();
        let path = references::resolve(&shown, &mut Vec::new()).map_err(ConnectorError::Config)?;
        let root = PathBuf::from(path);
        let prefix = format!("{query}-{}", table.id);
        let own = root.join(OWN).join(&prefix);
        let extension = table.connector.format.name().to_string();
        Ok(Self { table: table.name.clone(), shown, root, own, query, prefix, extension })
    }

    /// Makes the folders.
    pub fn create(&self) -> Result<(), ConnectorError> {
        let staged = self.staged();
        fs::create_dir_all(&staged).map_err(|error| self.failed("creating a folder", &error))
    }

    /// The folder of files that are not committed.
    pub fn staged(&self) -> PathBuf {
        self.own.join(STAGED)
    }

    /// Name of what a writer stages in an attempt. It begins with the batch, by which leftovers are told.
    pub fn staged_name(batch: BatchId, writer: WriterId, attempt: AttemptId) -> String {
        format!("{:020}-{writer}-{}-{}", batch.0, attempt.epoch, attempt.number)
    }

    /// The batch of a staged file; `None`: the file is not ours.
    pub fn batch_of_staged(name: &str) -> Option<BatchId> {
        Some(BatchId(name.split('-').next()?.parse().ok()?))
    }

    /// Name of a file of a committed batch.
    pub fn final_name(&self, batch: BatchId, writer: WriterId) -> String {
        format!("{}-{:020}-{writer}.{}", self.prefix, batch.0, self.extension)
    }

    pub fn manifest(&self, batch: BatchId) -> PathBuf {
        self.own.join(format!("{:020}{MANIFEST}", batch.0))
    }

    /// The newest committed batch; `None`: none is.
    pub fn newest(&self) -> Result<Option<BatchId>, ConnectorError> {
        let batch = |name: String| name.strip_suffix(MANIFEST).and_then(|batch| batch.parse().ok().map(BatchId));
        Ok(self.names(&self.own)?.into_iter().filter_map(batch).max())
    }

    /// Names in a folder; none if there is no such folder.
    pub fn names(&self, folder: &Path) -> Result<Vec<String>, ConnectorError> {
        let list = |folder: &Path| -> io::Result<Vec<String>> {
            fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        match list(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(|error| self.failed("listing a folder", &error)),
        }
    }

    /// Newest manifest of each query that has written here through a sink of this number.
    pub fn newest_of_all(&self) -> Result<Vec<PathBuf>, ConnectorError> {
        let mut newest = Vec::new();
        let all = self.root.join(OWN);
        let sink = self.prefix.rsplit('-').next().unwrap_or_default();
        for query in self.names(&all)?.into_iter().filter(|name| name.rsplit('-').next() == Some(sink)) {
            let other = Self { own: all.join(&query), prefix: query, ..self.clone() };
            newest.extend(other.newest()?.map(|batch| other.manifest(batch)));
        }
        Ok(newest)
    }

    /// Deletes the manifests, and what is staged. Files of committed batches stay.
    pub fn delete(&self) -> Result<(), ConnectorError> {
        match fs::remove_dir_all(&self.own) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed("deleting a folder", &error)),
            _ => Ok(()),
        }
    }

    /// Makes renames and new files in a folder durable.
    pub fn sync(&self, folder: &Path) -> Result<(), ConnectorError> {
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| self.failed("syncing", &error))
    }

    /// What the file system refused. Full disks and lost mounts pass; denied permission and paths that cannot be do not.
    pub fn failed(&self, what: &str, error: &io::Error) -> ConnectorError {
        let context = format!("sink '{}': {what} in {}", self.table, self.shown);
        let message = error.to_string();
        match error.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::ReadOnlyFilesystem => ConnectorError::Refused {
                context,
                message: format!("{message}; make it a folder that driver and executors may write"),
            },
            _ => ConnectorError::Unavailable { context, message },
        }
    }

    /// For errors of a promise that cannot be kept.
    pub fn place(&self) -> String {
        format!("sink '{}' in {}", self.table, self.shown)
    }
}
