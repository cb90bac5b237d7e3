//! Paths of a sink's files.
//!
//! ```text
//! PATH/<query>-<sink>-<batch>-<writer>.json            rows of a committed batch
//! PATH/_highwater/<query>-<sink>/<batch>.manifest.json the list of a committed batch's files; it is the commit
//! PATH/_highwater/<query>-<sink>/staged/…              files of batches that are not committed
//! ```
//!
//! Owns: every path, and the errors of the file system. Does not own: the content of files. Spark, Hive and most
//! readers of folders ignore names that begin with `_`.

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

/// The paths of one sink of one query.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Name of the table, for messages.
    table: String,
    /// `path` as written in the script, with references unresolved, for messages.
    shown: String,
    pub root: PathBuf,
    own: PathBuf,
    pub query: QueryId,
    /// Prefix of the names of all its files: query and sink.
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

    /// Creates the folders durably. Only called by the driver at submit: if a folder is missing later, the file system
    /// is not mounted, and the folder must not be recreated.
    pub fn create(&self) -> Result<(), ConnectorError> {
        let staged = self.staged();
        fs::create_dir_all(&staged).map_err(|error| self.failed("creating a folder", &error))?;
        // The driver may not be allowed to open the parent of the root.
        if let Some(parent) = self.root.parent() {
            let _ = fs::File::open(parent).and_then(|parent| parent.sync_all());
        }
        [&self.root, &self.root.join(OWN), &self.own].into_iter().try_for_each(|folder| self.sync(folder))
    }

    /// Returns the folder of uncommitted files.
    pub fn staged(&self) -> PathBuf {
        self.own.join(STAGED)
    }

    /// Returns the name of the file that a writer stages in an attempt. It begins with the batch, so that leftovers can
    /// be recognised.
    pub fn staged_name(batch: BatchId, writer: WriterId, attempt: AttemptId) -> String {
        format!("{:020}-{writer}-{}-{}", batch.0, attempt.epoch, attempt.number)
    }

    /// Returns a unique name in the folder of staged files, for a file that will be renamed. It begins with the batch,
    /// too.
    pub fn temporary_name(batch: BatchId) -> String {
        format!("{:020}-{}", batch.0, uuid::Uuid::new_v4())
    }

    /// Returns whether a staged file belongs to this attempt.
    pub fn is_of_attempt(name: &str, batch: BatchId, attempt: AttemptId) -> bool {
        Self::batch_of_staged(name) == Some(batch) && name.ends_with(&format!("-{}-{}", attempt.epoch, attempt.number))
    }

    /// Returns the batch of a staged file; `None` if the name does not begin with a batch.
    pub fn batch_of_staged(name: &str) -> Option<BatchId> {
        Some(BatchId(name.split('-').next()?.parse().ok()?))
    }

    /// Returns the name of a file of a committed batch.
    pub fn final_name(&self, batch: BatchId, writer: WriterId) -> String {
        format!("{}-{:020}-{writer}.{}", self.prefix, batch.0, self.extension)
    }

    pub fn manifest(&self, batch: BatchId) -> PathBuf {
        self.own.join(format!("{:020}{MANIFEST}", batch.0))
    }

    /// Returns the newest committed batch; `None` if there is none.
    pub fn newest(&self) -> Result<Option<BatchId>, ConnectorError> {
        let batch = |name: String| name.strip_suffix(MANIFEST).and_then(|batch| batch.parse().ok().map(BatchId));
        Ok(self.names(&self.own)?.into_iter().filter_map(batch).max())
    }

    /// Returns the names in a folder; none if the folder does not exist.
    pub fn names(&self, folder: &Path) -> Result<Vec<String>, ConnectorError> {
        let list = |folder: &Path| -> io::Result<Vec<String>> {
            fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        match list(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(|error| self.failed("listing a folder", &error)),
        }
    }

    /// Returns the newest manifest of each query and sink that has written to this path.
    pub fn newest_of_all(&self) -> Result<Vec<PathBuf>, ConnectorError> {
        let mut newest = Vec::new();
        let all = self.root.join(OWN);
        for query in self.names(&all)? {
            let other = Self { own: all.join(&query), prefix: query, ..self.clone() };
            newest.extend(other.newest()?.map(|batch| other.manifest(batch)));
        }
        Ok(newest)
    }

    /// Deletes the manifests and the staged files. Files of committed batches stay.
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

    /// Returns the name of the table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Returns the error of a failed call of the file system. A full disk and a lost mount are temporary; denied
    /// permission and an impossible path are not.
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
                message: format!("{message}; use a folder on one file system that driver and executors may write to"),
            },
            _ => ConnectorError::Unavailable { context, message },
        }
    }

    /// Returns sink and path, for errors of a guarantee that cannot be kept.
    pub fn place(&self) -> String {
        format!("sink '{}' in {}", self.table, self.shown)
    }
}
