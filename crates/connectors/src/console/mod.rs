//! The console sink: prints rows as JSON lines on stdout when their batch is published. It is not exactly-once.

use highwater_connector_api::api::Connector;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::lookup::Lookup;
use highwater_connector_api::sink::records::RecordEncoder;
use highwater_connector_api::sink::{Committer, Published, SinkConnector, Writer, WriterConfig};
use highwater_connector_api::source::SourceConnector;
use highwater_connector_spec::ConnectorSpec;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::ids::{AttemptId, BatchId, QueryId};
use highwater_protocol::report::WriterReport;
use highwater_sql::tables::SinkTable;
use std::io::Write;

/// The console connector.
pub struct Console;

impl Connector for Console {
    fn spec(&self) -> &'static ConnectorSpec {
        &highwater_connector_spec::CONSOLE
    }

    fn source(&self) -> Option<&dyn SourceConnector> {
        None
    }

    fn sink(&self) -> Option<&dyn SinkConnector> {
        Some(self)
    }

    fn lookup(&self) -> Option<Lookup<'_>> {
        None
    }
}

impl SinkConnector for Console {
    fn prepare(&self, _: &SinkTable, _: QueryId) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn open(&self, config: WriterConfig) -> Result<Box<dyn Writer>, ConnectorError> {
        Ok(Box::new(ConsoleWriter::open(config)?))
    }

    fn committer(&self) -> Committer<'_> {
        Committer::None { guarantee: "a recovery may print the rows of a batch again" }
    }
}

struct ConsoleWriter {
    config: WriterConfig,
    encoder: RecordEncoder,
    lines: Vec<u8>,
    rows: u64,
    digest: u128,
    recompute_only: bool,
}

impl ConsoleWriter {
    fn open(config: WriterConfig) -> Result<Self, ConnectorError> {
        let encoder = RecordEncoder::new(&config.table, "")?;
        Ok(Self { config, encoder, lines: Vec::new(), rows: 0, digest: 0, recompute_only: false })
    }
}

impl Writer for ConsoleWriter {
    fn begin(&mut self, _: BatchId, _: AttemptId, recompute_only: bool) {
        self.lines.clear();
        (self.rows, self.digest, self.recompute_only) = (0, 0, recompute_only);
    }

    fn write(&mut self, rows: &ChangeBatch) -> Result<(), ConnectorError> {
        let lines = &mut self.lines;
        let (mut count, mut digest) = (0, 0_u128);
        self.encoder.encode(rows, |record| {
            count += 1;
            digest = digest.wrapping_add(record.digest());
            match (record.value, record.key) {
                (Some(value), _) => lines.extend_from_slice(value),
                (None, key) => {
                    lines.extend_from_slice(b"deleted ");
                    lines.extend_from_slice(key.unwrap_or_default());
                }
            }
            lines.push(b'\n');
            Ok(())
        })?;
        self.rows += count;
        self.digest = self.digest.wrapping_add(digest);
        Ok(())
    }

    fn flush(&mut self) -> Result<WriterReport, ConnectorError> {
        Ok(WriterReport { plan: self.config.plan(), rows: self.rows, digest: self.digest, token: None })
    }

    fn publish(&mut self) -> Result<Published, ConnectorError> {
        if !self.recompute_only {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&self.lines).and_then(|()| stdout.flush()).map_err(|error| {
                ConnectorError::Unavailable {
                    context: format!("sink '{}'", self.config.table.name),
                    message: format!("stdout cannot be written: {error}"),
                }
            })?;
        }
        self.lines.clear();
        Ok(Published::Committed)
    }

    fn abort(&mut self) {
        self.lines.clear();
        (self.rows, self.digest) = (0, 0);
    }
}
