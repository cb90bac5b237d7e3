//! File tables: finding their files, and reading them.
//!
//! Owns: finding a table's files and their content, and reading them as the table declares. Does not own: when they are
//! read and where their content is kept (crates `driver`, `executor`). Functions that block say so.

use arrow::datatypes::SchemaRef;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use highwater_dataflow::error::EngineError;
use highwater_protocol::files::{ContentHasher, FileContent, FileVersions};
use highwater_sql::formats::FileReader;
use highwater_sql::references;
use highwater_sql::tables::FileOptions;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes that the files of one table may have together: every executor holds their rows in memory.
pub const MAX_TABLE_BYTES: u64 = 1 << 30;

/// A table that rows look up.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTable {
    pub name: String,
    pub options: FileOptions,
    pub schema: SchemaRef,
    /// True if the query keeps the content that it started with.
    pub pinned: bool,
}

/// The local copies of file contents in a process.
pub trait FileContents: Sync {
    /// Returns the path of a local file with this content.
    ///
    /// # Errors
    /// If the content is not available; the message says why.
    fn path(&self, content: FileContent) -> impl Future<Output = Result<PathBuf, EngineError>> + Send;
}

/// Contents that are read where they were found.
#[derive(Clone, Debug, Default)]
pub struct LocalFiles {
    paths: BTreeMap<FileContent, PathBuf>,
}

impl LocalFiles {
    /// Finds the current files of `tables` and their contents. Blocking.
    ///
    /// # Errors
    /// As [`FileTable::look`].
    pub fn look<'a>(tables: impl IntoIterator<Item = &'a FileTable>) -> Result<(Self, FileVersions), EngineError> {
        let (mut local, mut versions) = (Self::default(), FileVersions::new());
        for table in tables {
            let found = table.look()?;
            versions.insert(table.name.clone(), found.iter().map(|(_, content)| *content).collect());
            local.paths.extend(found.into_iter().map(|(path, content)| (content, path)));
        }
        Ok((local, versions))
    }
}

impl FileContents for LocalFiles {
    async fn path(&self, content: FileContent) -> Result<PathBuf, EngineError> {
        let path = self.paths.get(&content).cloned();
        path.ok_or_else(|| EngineError::Internal(format!("no file with the content {}", content.digest)))
    }
}

impl FileTable {
    /// Returns the table's current files, by name, with their contents. Blocking.
    ///
    /// # Errors
    /// If a file cannot be read or is being written, or all are too large together.
    pub fn look(&self) -> Result<Vec<(PathBuf, FileContent)>, EngineError> {
        let mut hidden = Vec::new();
        let look = || {
            let path = references::resolve(&self.options.path, &mut hidden)?;
            let files = files_at(Path::new(&path)).map_err(|error| error.to_string())?;
            let mut found = Vec::with_capacity(files.len());
            let mut left = MAX_TABLE_BYTES;
            for file in files {
                let content = content_of(&file, &mut left)?;
                found.push((file, content));
            }
            Ok::<_, String>(found)
        };
        let looked = { look }();
        // The values of references are secrets.
        looked.map_err(|cause| self.unreadable(&references::hide(&cause, &hidden)))
    }

    /// Returns the bytes of files that `look` has found. Blocking.
    ///
    /// # Errors
    /// If a file cannot be read, or has changed since.
    pub fn contents(&self, found: &[(PathBuf, FileContent)]) -> Result<Vec<Vec<u8>>, EngineError> {
        let read = |(path, content): &(PathBuf, FileContent)| {
            let bytes = std::fs::read(path).map_err(|error| self.unreadable(&error.to_string()))?;
            match FileContent::of(&bytes) == *content {
                true => Ok(bytes),
                false => Err(self.unreadable("the file changed while it was read; replace it by renaming a new one")),
            }
        };
        found.iter().map(read).collect()
    }

    /// Checks that the files can be read as the table declares: reads them and drops the rows.
    ///
    /// # Errors
    /// If the content does not fit the table's declaration.
    pub async fn check(&self, paths: &[PathBuf]) -> Result<(), EngineError> {
        let context = session();
        let rows = read_files(&context, self, paths).await?.execute_stream().await;
        let mut rows = rows.map_err(|error| self.unreadable(&error.to_string()))?;
        while let Some(batch) = rows.next().await {
            batch.map_err(|error| self.unreadable(&error.to_string()))?;
        }
        Ok(())
    }

    pub(crate) fn unreadable(&self, cause: &str) -> EngineError {
        EngineError::File { table: self.name.clone(), path: self.options.path.clone(), cause: cause.to_string() }
    }
}

/// Returns the file itself, or of a folder the files whose names do not begin with `.` or `_`, by name.
fn files_at(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b".") || name.as_encoded_bytes().starts_with(b"_"));
        if !hidden && std::fs::metadata(&file)?.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Hashes the content of a file, and subtracts its size from `left`, the bytes that the table may still have.
fn content_of(path: &Path, left: &mut u64) -> Result<FileContent, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(failed)?;
    let state = |file: &File| file.metadata().and_then(|metadata| Ok((metadata.len(), metadata.modified()?)));
    let before = state(&file).map_err(failed)?;
    let mut hasher = ContentHasher::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        *left = left.checked_sub(read as u64).ok_or_else(|| {
            format!(
                "the table has more than the maximum of {MAX_TABLE_BYTES} bytes; join a Kafka table with PRIMARY KEY \
                 instead, whose rows are kept in state"
            )
        })?;
        hasher.update(&buffer[..read]);
    }
    if state(&file).map_err(failed)? != before {
        return Err(format!("{} is being written; replace a file by renaming a new one", path.display()));
    }
    Ok(hasher.finish())
}

/// Returns a context with one partition, so that rows have the order of the files on every machine.
pub(crate) fn session() -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1))
}

/// Returns the rows of these files.
pub(crate) async fn read_files(
    context: &SessionContext,
    table: &FileTable,
    paths: &[PathBuf],
) -> Result<DataFrame, EngineError> {
    let paths: Vec<String> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    if paths.is_empty() {
        let none = datafusion::datasource::MemTable::try_new(table.schema.clone(), vec![Vec::new()])?;
        return Ok(context.read_table(std::sync::Arc::new(none))?);
    }
    let format = &table.options.format;
    let frame = match format.spec().files {
        Some(FileReader::Csv) => {
            let options = CsvReadOptions::new().schema(&table.schema).has_header(format.flag("csv.header"));
            let options = options.delimiter(format.character("csv.delimiter")).quote(format.character("csv.quote"));
            let options = options.file_extension("");
            context.read_csv(paths, options).await
        }
        Some(FileReader::Json) => {
            context.read_json(paths, JsonReadOptions::default().schema(&table.schema).file_extension("")).await
        }
        None => return Err(table.unreadable(&format!("files of format '{}' are not read", format.name()))),
    };
    frame.map_err(|error| table.unreadable(&error.to_string()))
}
