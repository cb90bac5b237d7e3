//! Files that rows look up.
//!
//! Owns: finding a table's files and their content, and reading them as the table declares. Does not own: when they are
//! read and where their content is kept (driver, executors, checkpoint).
//! Invariants: a version is the content of the table's files, by name; a file that is written meanwhile is an error.

use arrow::record_batch::RecordBatch;
use datafusion::dataframe::DataFrame;
use datafusion::prelude::{CsvReadOptions, JsonReadOptions, SessionConfig, SessionContext};
use futures::StreamExt;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::lookup::{MAX_SNAPSHOT_BYTES, SnapshotVersion};
use highwater_protocol::files::{ContentHasher, FileContent};
use highwater_sql::formats::FileReader;
use highwater_sql::references;
use highwater_sql::tables::SnapshotTable;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Reads the newest version. Returns `None` if it is the `known` one.
pub async fn newest_version(
    table: &SnapshotTable,
    known: Option<&[FileContent]>,
) -> Result<Option<SnapshotVersion>, ConnectorError> {
    let shown = shown_path(table).to_string();
    let found = blocking(move || find(&shown)).await.map_err(|cause| unreadable(table, &cause))?;
    let contents: Vec<FileContent> = found.files.iter().map(|(_, content)| *content).collect();
    if known == Some(contents.as_slice()) {
        return Ok(None);
    }
    match read_found(table, found.files).await {
        Ok(bytes) => Ok(Some(SnapshotVersion { contents, bytes })),
        Err(cause) => Err(unreadable(table, &references::hide(&cause, &found.hidden))),
    }
}

/// Returns the rows of local files, in their order.
pub async fn rows(table: &SnapshotTable, files: &[PathBuf]) -> Result<Vec<RecordBatch>, ConnectorError> {
    let mut rows = Vec::new();
    let read = read(table, files, |batch| rows.push(batch)).await;
    read.map_err(|cause| unreadable(table, &cause))?;
    Ok(rows)
}

/// The current files of a table.
struct Found {
    /// Files by name, with their contents.
    files: Vec<(PathBuf, FileContent)>,
    /// Values of the references in `path`, which are secrets.
    hidden: Vec<String>,
}

/// Returns the files at the path `shown`, and hashes them. Blocking.
fn find(shown: &str) -> Result<Found, String> {
    let mut hidden = Vec::new();
    let looked = references::resolve(shown, &mut hidden).and_then(|path| {
        let files = files_at(Path::new(&path)).map_err(|error| error.to_string())?;
        let mut left = MAX_SNAPSHOT_BYTES;
        files.into_iter().map(|file| content_of(&file, &mut left).map(|content| (file, content))).collect()
    });
    match looked {
        Ok(files) => Ok(Found { files, hidden }),
        Err(cause) => Err(references::hide(&cause, &hidden)),
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
                "the table has more than the maximum of {MAX_SNAPSHOT_BYTES} bytes; join a Kafka table with PRIMARY KEY \
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

/// Decodes the rows of files and drops them, then returns the bytes of each file, if they have not changed.
async fn read_found(table: &SnapshotTable, files: Vec<(PathBuf, FileContent)>) -> Result<Vec<Vec<u8>>, String> {
    let paths: Vec<PathBuf> = files.iter().map(|(path, _)| path.clone()).collect();
    read(table, &paths, drop).await?;
    blocking(move || files.iter().map(|(path, content)| bytes_of(path, *content)).collect()).await
}

fn bytes_of(path: &Path, content: FileContent) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    match FileContent::of(&bytes) == content {
        true => Ok(bytes),
        false => Err("the file changed while it was read; replace it by renaming a new one".into()),
    }
}

/// Decodes files one by one, and calls `take` with their rows. If DataFusion read several files at once, it would order them
/// by path, and the paths of copies are not in the order of the table's files. One partition keeps the order within a file.
async fn read(table: &SnapshotTable, files: &[PathBuf], mut take: impl FnMut(RecordBatch)) -> Result<(), String> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    for file in files {
        let rows = scan(&context, table, file).await?.execute_stream().await;
        let mut rows = rows.map_err(|error| error.to_string())?;
        while let Some(batch) = rows.next().await {
            take(batch.map_err(|error| error.to_string())?);
        }
    }
    Ok(())
}

async fn scan(context: &SessionContext, table: &SnapshotTable, file: &Path) -> Result<DataFrame, String> {
    let file = file.to_string_lossy().into_owned();
    let format = &table.connector.format;
    let frame = match format.spec().files {
        Some(FileReader::Csv) => {
            let options = CsvReadOptions::new().schema(&table.schema).has_header(format.flag("csv.header"));
            let options = options.delimiter(format.character("csv.delimiter")).quote(format.character("csv.quote"));
            context.read_csv(file, options.file_extension("")).await
        }
        Some(FileReader::Json) => {
            context.read_json(file, JsonReadOptions::default().schema(&table.schema).file_extension("")).await
        }
        None => return Err(format!("files of format '{}' are not read", format.name())),
    };
    frame.map_err(|error| error.to_string())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(format!("internal: {error}")))
}

/// Returns the path as written in the script, with references instead of their values.
fn shown_path(table: &SnapshotTable) -> &str {
    table.connector.values.text("path").unwrap_or_default()
}

fn unreadable(table: &SnapshotTable, cause: &str) -> ConnectorError {
    ConnectorError::Config(format!(
        "table '{}': '{}' cannot be read: {cause}; it must be on the driver's machine, with the columns the table declares",
        table.name,
        shown_path(table)
    ))
}
