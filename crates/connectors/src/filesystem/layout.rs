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
        if root.is_relative() {
            return Err(ConnectorError::Config(format!(
                "sink '{}': 'path' = '{shown}' depends on the folder in which each process was started; write an absolute path",
                table.name
            )));
        }
        let prefix = format!("{query}-{}", table.id);
        let own = root.join(OWN).join(&prefix);
        let extension = table.connector.format.name().to_string();
        Ok(Self { table: table.name.clone(), shown, root, own, query, prefix, extension })
    }

    /// Creates the folders, durably. Only the driver does, at submit: a folder that is missing later is a file system that is
    /// not mounted, and must not be made up.
    pub fn create(&self) -> Result<(), ConnectorError> {
        let staged = self.staged();
        fs::create_dir_all(&staged).map_err(|error| self.failed("creating a folder", &error))?;
        // The parent of the root may be somebody else's.
        if let Some(parent) = self.root.parent() {
            let _ = fs::File::open(parent).and_then(|parent| parent.sync_all());
        }
        [&self.root, &self.root.join(OWN), &self.own].into_iter().try_for_each(|folder| self.sync(folder))
    }

    /// The folder of files that are not committed.
    pub fn staged(&self) -> PathBuf {
        self.own.join(STAGED)
    }

    /// Name of what a writer stages in an attempt. It begins with the batch, by which leftovers are told.
    pub fn staged_name(batch: BatchId, writer: WriterId, attempt: AttemptId) -> String {
        format!("{:020}-{writer}-{}-{}", batch.0, attempt.epoch, attempt.number)
    }

    /// A name beside staged files for what is written before it is renamed. It begins with the batch, too.
    pub fn temporary_name(batch: BatchId) -> String {
        format!("{:020}-{}", batch.0, uuid::Uuid::new_v4())
    }

    /// Whether a staged file is of this attempt.
    pub fn is_of_attempt(name: &str, batch: BatchId, attempt: AttemptId) -> bool {
        Self::batch_of_staged(name) == Some(batch) && name.ends_with(&format!("-{}-{}", attempt.epoch, attempt.number))
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

    /// Newest manifest of each query and sink that has written here.
    pub fn newest_of_all(&self) -> Result<Vec<PathBuf>, ConnectorError> {
        let mut newest = Vec::new();
        let all = self.root.join(OWN);
        for query in self.names(&all)? {
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

    /// Name of the table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What the file system refused. A full disk and a lost mount pass; denied permission and an impossible path do not.
    pub fn failed(&self, what: &str, error: &io::Error) -> ConnectorError {
        let context = format!("sink '{}': {what} in {}", self.table, self.shown);
        let message = match error.kind() {
            ErrorKind::NotFound => {
                format!("{error}; mount or restore the folder, which driver and executors must share")
            }
            _ => error.to_string(),
        };
        match error.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::CrossesDevices
            | ErrorKind::ReadOnlyFilesystem => ConnectorError::Refused {
                context,
                message: format!("{message}; make it a folder of one file system that driver and executors may write"),
            },
            _ => ConnectorError::Unavailable { context, message },
        }
    }

    /// For errors of a promise that cannot be kept.
    pub fn place(&self) -> String {
        format!("sink '{}' in {}", self.table, self.shown)
    }
}
