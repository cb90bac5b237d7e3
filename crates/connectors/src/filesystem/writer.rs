//! Staging one writer's rows of a batch in a hidden file.
//!
//! Owns: the file until it is flushed. Does not own: committing or deleting it afterwards (`commit`). Invariant: a
//! flushed file is never deleted here, since a checkpoint may name it.

use super::commit::Token;
use super::layout::Layout;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::sink::records::RecordEncoder;
use highwater_connector_api::sink::{Published, Writer, WriterConfig};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::ids::{AttemptId, BatchId};
use highwater_protocol::report::WriterReport;
use highwater_sql::tables::SinkTable;
use std::fs::File;
use std::io::{BufWriter, Write};

pub struct FileWriter {
    config: WriterConfig,
    layout: Layout,
    encoder: RecordEncoder,
    /// The first line of every file, with its end; empty if there is none.
    header: Vec<u8>,
    attempt: Option<(BatchId, AttemptId)>,
    recompute_only: bool,
    file: Option<Open>,
    rows: u64,
    digest: u128,
}

/// The file of the current attempt.
struct Open {
    name: String,
    out: BufWriter<File>,
    size_bytes: u64,
}

impl FileWriter {
    pub fn open(config: WriterConfig) -> Result<Self, ConnectorError> {
        let encoder = RecordEncoder::new(&config.table, "")?;
        Ok(Self {
            layout: Layout::of(&config.table, config.query)?,
            header: header(&encoder, &config.table),
            encoder,
            config,
            attempt: None,
            recompute_only: false,
            file: None,
            rows: 0,
            digest: 0,
        })
    }
}

/// Returns the first line of every file, with its end; empty if there is none.
fn header(encoder: &RecordEncoder, table: &SinkTable) -> Vec<u8> {
    let mut line = encoder.file_header(table).unwrap_or_default();
    if !line.is_empty() {
        line.push(b'\n');
    }
    line
}

/// Returns the file of the attempt, which is created at the first row.
fn file<'a>(
    file: &'a mut Option<Open>,
    layout: &Layout,
    name: impl FnOnce() -> String,
    header: &[u8],
) -> Result<&'a mut Open, ConnectorError> {
    if file.is_none() {
        let name = name();
        let created = File::create(layout.staged().join(&name));
        let out = BufWriter::new(created.map_err(|error| layout.failed("creating a file", &error))?);
        let mut open = Open { name, out, size_bytes: 0 };
        open.write(layout, header)?;
        *file = Some(open);
    }
    file.as_mut().ok_or_else(|| ConnectorError::Closed("the file is gone".into()))
}

impl Open {
    fn write(&mut self, layout: &Layout, bytes: &[u8]) -> Result<(), ConnectorError> {
        self.size_bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|error| layout.failed("writing a file", &error))
    }
}

impl Writer for FileWriter {
    fn begin(&mut self, batch: BatchId, attempt: AttemptId, recompute_only: bool) {
        self.abort();
        (self.attempt, self.recompute_only) = (Some((batch, attempt)), recompute_only);
    }

    fn write(&mut self, rows: &ChangeBatch) -> Result<(), ConnectorError> {
        let Self { layout, encoder, header, config, attempt, recompute_only, file: open, rows: count, digest } = self;
        let (batch, attempt) = attempt.ok_or_else(|| ConnectorError::Closed("no attempt has begun".into()))?;
        encoder.encode(rows, |record| {
            *digest = digest.wrapping_add(record.digest());
            *count += 1;
            if *recompute_only {
                return Ok(());
            }
            let file = file(open, layout, || Layout::staged_name(batch, config.writer, attempt), header)?;
            file.write(layout, record.value.unwrap_or_default())?;
            file.write(layout, b"\n")
        })
    }

    /// When it returns, the file is durable, and only the driver may delete it.
    fn flush(&mut self) -> Result<WriterReport, ConnectorError> {
        let mut report = WriterReport { plan: self.config.plan(), rows: self.rows, digest: self.digest, token: None };
        if let Some(open) = self.file.as_mut() {
            let synced = open.out.flush().and_then(|()| open.out.get_ref().sync_all());
            synced.map_err(|error| self.layout.failed("syncing a file", &error))?;
            self.layout.sync(&self.layout.staged())?;
            report.token = Some(Token { file: open.name.clone(), size_bytes: open.size_bytes }.encode()?);
            self.file = None;
        }
        Ok(report)
    }

    /// Not called: the driver commits.
    fn publish(&mut self) -> Result<Published, ConnectorError> {
        Ok(Published::Unknown)
    }

    fn abort(&mut self) {
        if let Some(open) = self.file.take() {
            // If it cannot be deleted now, the next commit deletes it.
            let _ = std::fs::remove_file(self.layout.staged().join(open.name));
        }
        (self.rows, self.digest) = (0, 0);
    }
}

/// Deletes a file that was not flushed.
impl Drop for FileWriter {
    fn drop(&mut self) {
        self.abort();
    }
}
