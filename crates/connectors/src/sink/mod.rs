//! Sinks: writers that hold rows of a batch until it may be published.
//!
//! Owns: the writer's life (begin, write, flush, publish or abort) and what it holds. Does not own: when to publish
//! (core), which rows (engine). All calls block.
//! Invariants: nothing is visible to a `read_committed` reader before `publish`; the report of a flush says exactly
//! what would become visible; the same rows give the same digest in any order.

mod console;
mod deliveries;
mod kafka;
mod late_rows;
mod producer;
mod progress_topic;
pub(crate) mod records;
mod resolve;
mod visible;

pub use late_rows::late_rows;
pub use producer::{max_attempt_ms, transaction_timeout_ms};
pub use progress_topic::{Progress, ProgressKey, ProgressReader, progress_topic};
pub use resolve::resolve_writers;

use crate::error::ConnectorError;
use console::ConsoleWriter;
use highwater_engine::changelog::ChangeBatch;
use highwater_engine::query::{ConnectorOptions, SinkTable};
use highwater_protocol::ids::{AttemptId, BatchId, QueryId, WriterId};
use highwater_protocol::plan::WriterPlan;
use highwater_protocol::report::WriterReport;
use kafka::KafkaWriter;

/// What a writer is opened with.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    pub table: SinkTable,
    pub query: QueryId,
    pub query_name: String,
    pub writer: WriterId,
    /// Of the driver that planned it.
    pub epoch: u64,
}

impl WriterConfig {
    fn plan(&self) -> WriterPlan {
        WriterPlan { sink: self.table.id, writer: self.writer }
    }
}

/// What came of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    Committed,
    /// Perhaps: only the sink's progress tells.
    Unknown,
}

/// One writer of one sink.
pub enum SinkWriter {
    Kafka(Box<KafkaWriter>),
    Console(Box<ConsoleWriter>),
}

impl SinkWriter {
    /// Brokers are asked at the first row, not here.
    pub fn open(config: WriterConfig) -> Result<Self, ConnectorError> {
        match &config.table.connector {
            ConnectorOptions::Kafka(options) => {
                let options = options.clone();
                Ok(Self::Kafka(Box::new(KafkaWriter::open(config, options)?)))
            }
            ConnectorOptions::Console => Ok(Self::Console(Box::new(ConsoleWriter::open(config)?))),
            ConnectorOptions::File(_) => {
                Err(ConnectorError::Config(format!("table '{}' is a file and cannot be written", config.table.name)))
            }
        }
    }

    /// Begins an attempt; what an earlier one has open is aborted. `recompute_only`: the sink holds the batch already,
    /// so that its rows are only counted and digested.
    pub fn begin(&mut self, batch: BatchId, attempt: AttemptId, recompute_only: bool) {
        match self {
            Self::Kafka(writer) => writer.begin(batch, attempt, recompute_only),
            Self::Console(writer) => writer.begin(recompute_only),
        }
    }

    /// Takes rows; weight −1 deletes. Waits while the brokers are slow.
    pub fn write(&mut self, rows: &ChangeBatch) -> Result<(), ConnectorError> {
        match self {
            Self::Kafka(writer) => writer.write(rows),
            Self::Console(writer) => writer.write(rows),
        }
    }

    /// Makes sure that what was written can be published.
    pub fn flush(&mut self) -> Result<WriterReport, ConnectorError> {
        match self {
            Self::Kafka(writer) => writer.flush(),
            Self::Console(writer) => Ok(writer.flush()),
        }
    }

    /// Makes it visible, to readers too: what comes after is seen after it.
    pub fn publish(&mut self) -> Result<Published, ConnectorError> {
        match self {
            Self::Kafka(writer) => writer.publish(),
            Self::Console(writer) => writer.publish(),
        }
    }

    /// Drops what was written.
    pub fn abort(&mut self) {
        match self {
            Self::Kafka(writer) => writer.abort(),
            Self::Console(writer) => writer.begin(true),
        }
    }
}
