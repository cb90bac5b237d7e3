//! Sinks: writers that take the rows of a batch and publish them, and committers that know which batches are published.
//!
//! Owns: the traits of a sink, the life of a writer (begin, write, flush, publish or abort), rows as records. Does not
//! own: when to publish (protocol), which rows (operators), any implementation. All calls block.
//! Invariants: the report of a flush describes exactly what publishing would make visible; the same rows give the same
//! digest in any order; only a sink's [`Committer`] is asked what the sink holds.

mod late_rows;
pub mod records;

pub use late_rows::late_rows;

use crate::error::ConnectorError;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::ids::{AttemptId, BatchId, QueryId, WriterId};
use highwater_protocol::plan::WriterPlan;
use highwater_protocol::query::Resolution;
use highwater_protocol::report::WriterReport;
use highwater_sql::tables::SinkTable;
use std::collections::BTreeMap;

/// Parameters of a writer.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    pub table: SinkTable,
    pub query: QueryId,
    pub query_name: String,
    pub writer: WriterId,
    /// Epoch of the driver that planned the writer.
    pub epoch: u64,
}

impl WriterConfig {
    pub fn plan(&self) -> WriterPlan {
        WriterPlan { sink: self.table.id, writer: self.writer }
    }
}

/// The outcome of publishing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    Committed,
    /// The external system has accepted only a part; the text says why. When the same batch is computed and published
    /// again, this writer sends the rest.
    Unfinished(String),
    /// Not known: the sink's [`Committer`] must be asked.
    Unknown,
}

/// One writer of one sink.
pub trait Writer: Send {
    /// Begins an attempt, and aborts an earlier one that is open. With `recompute_only` the sink holds the batch
    /// already, and rows are only counted and digested.
    fn begin(&mut self, batch: BatchId, attempt: AttemptId, recompute_only: bool);

    /// Takes rows; a row of weight −1 is a retract. Blocks while the external system is slow.
    fn write(&mut self, rows: &ChangeBatch) -> Result<(), ConnectorError>;

    /// Ensures that all written rows can be published, and returns their count and digest.
    fn flush(&mut self) -> Result<WriterReport, ConnectorError>;

    /// Makes the flushed rows visible. When it returns, readers see them, so that no later batch is seen before. Not
    /// called if the driver commits ([`Committer::Staged`]). Must return within three minutes: after that the driver
    /// gives up the executor for this batch.
    fn publish(&mut self) -> Result<Published, ConnectorError>;

    /// Drops all rows written in this attempt.
    fn abort(&mut self);
}

/// A connector whose tables can be written.
pub trait SinkConnector: Sync {
    /// Checks the sink's options and creates what it needs, such as topics or folders. Called at submit.
    fn prepare(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError>;

    /// Opens a writer. It contacts the external system at the first row, not here.
    fn open(&self, config: WriterConfig) -> Result<Box<dyn Writer>, ConnectorError>;

    /// Returns how prepared batches are committed, and how recovery finds out whether they are.
    fn committer(&self) -> Committer<'_>;
}

/// How a sink keeps a batch between prepare and publish.
pub enum Committer<'a> {
    /// The external system keeps flushed rows for the writer, which publishes them. Rows that are lost with a writer
    /// are recomputed.
    Held(&'a dyn Held),
    /// Writers leave rows durable and hidden, and name them in their reports. The driver makes them visible from the
    /// prepare record, and nothing is recomputed.
    Staged(&'a dyn Staged),
    /// Nothing keeps it: a batch whose publishing was interrupted is written again.
    None {
        /// The guarantee instead of exactly-once, as a clause for people.
        guarantee: &'static str,
    },
}

/// A sink whose external system keeps flushed rows and can be asked about them.
pub trait Held: Sync {
    /// Fences writers of a sink, and returns for each whether it has published `batch`. If `batch` is `None`, writers
    /// are only fenced. With `whole`, every other writer with progress in the sink is fenced and returned, too; without
    /// a batch, any progress is then ahead.
    fn resolve(
        &self,
        table: &SinkTable,
        query: QueryId,
        batch: Option<BatchId>,
        writers: &[&WriterReport],
        whole: bool,
    ) -> Result<BTreeMap<WriterId, Resolution>, ConnectorError>;

    /// Returns how long the external system keeps flushed rows, in milliseconds.
    fn max_open_ms(&self, table: &SinkTable) -> Result<i64, ConnectorError>;

    /// Looks for output of earlier queries.
    fn earlier_output(&self) -> Box<dyn EarlierOutput>;

    /// Deletes the progress of a dropped query.
    fn delete_progress(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError>;
}

/// A sink whose writers stage rows, which the driver commits. `Writer::flush` makes staged rows durable; from then on
/// only these calls may delete them.
pub trait Staged: Sync {
    /// Makes the staged rows of a batch visible and durable, all or nothing. `writers` are all writers of the sink with
    /// rows, from the prepare record; `query` is the query's id and name. Does nothing if the batch is committed
    /// already, and finishes a commit that a crash interrupted.
    ///
    /// # Errors
    /// The sink holds a different batch of this number, staged rows are missing, or the external system refuses or is
    /// not available.
    fn commit(
        &self,
        table: &SinkTable,
        query: (QueryId, &str),
        batch: BatchId,
        writers: &[&WriterReport],
    ) -> Result<(), ConnectorError>;

    /// Deletes the staged rows of an attempt that no prepare record names or ever will.
    fn discard(
        &self,
        table: &SinkTable,
        query: QueryId,
        batch: BatchId,
        attempt: AttemptId,
    ) -> Result<(), ConnectorError>;

    /// Returns the newest batch of the query that is committed, or whose commit has begun; `None` if there is none.
    fn newest(&self, table: &SinkTable, query: QueryId) -> Result<Option<BatchId>, ConnectorError>;

    /// Looks for output of earlier queries.
    fn earlier_output(&self) -> Box<dyn EarlierOutput>;

    /// Deletes the progress of a dropped query, but not its output.
    fn delete_progress(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError>;
}

/// Finds the output of earlier queries in sinks of one connector.
pub trait EarlierOutput {
    /// Returns the UUID of an earlier query of this name that wrote to the same table and place; `None` if there is
    /// none.
    fn find(&mut self, sink: &SinkTable, name: &str) -> Result<Option<String>, ConnectorError>;
}
