//! Sinks: writers that take the rows of a batch and publish them, and what tells whether they have.
//!
//! Owns: what a connector that is written does, the writer's life (begin, write, flush, publish or abort), rows as records.
//! Does not own: when to publish (protocol), which rows (operators), how a connector does it (its folder). All calls block.
//! Invariants: the report of a flush says exactly what would become visible; the same rows give the same digest in any
//! order; a sink is asked what it holds by its [`Committer`], and one that has none has said so.

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
    pub fn plan(&self) -> WriterPlan {
        WriterPlan { sink: self.table.id, writer: self.writer }
    }
}

/// What came of publishing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    Committed,
    /// The far side took only a part; the text says why. When the same batch is computed and published again, this writer
    /// sends the rest.
    Unfinished(String),
    /// Perhaps: only the sink's [`Committer`] tells.
    Unknown,
}

/// One writer of one sink.
pub trait Writer: Send {
    /// Begins an attempt; what an earlier one has open is aborted. `recompute_only`: the sink holds the batch already,
    /// so that its rows are only counted and digested.
    fn begin(&mut self, batch: BatchId, attempt: AttemptId, recompute_only: bool);

    /// Takes rows; weight −1 deletes. Waits while the far side is slow.
    fn write(&mut self, rows: &ChangeBatch) -> Result<(), ConnectorError>;

    /// Makes sure that what was written can be published.
    fn flush(&mut self) -> Result<WriterReport, ConnectorError>;

    /// Makes it visible, to readers too: what comes after is seen after it. Not called where the driver commits
    /// ([`Committer::Staged`]). Answers within three minutes, whatever the far
    /// side does: after that the driver gives the executor up for this batch.
    fn publish(&mut self) -> Result<Published, ConnectorError>;

    /// Drops what was written.
    fn abort(&mut self);
}

/// A connector that is written.
pub trait SinkConnector: Sync {
    /// Makes what the sink needs and lacks, at submit. A sink that cannot be written as it is told is refused here.
    fn prepare(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError>;

    /// Opens a writer. The far side is asked at the first row, not here.
    fn open(&self, config: WriterConfig) -> Result<Box<dyn Writer>, ConnectorError>;

    /// What makes a prepared batch final, and tells after a crash whether it is.
    fn committer(&self) -> Committer<'_>;
}

/// How a sink holds a batch between prepare and publish.
pub enum Committer<'a> {
    /// The far side holds it for the writer, who publishes; what is lost with a writer is computed again.
    Held(&'a dyn Held),
    /// Writers leave it where it is durable and hidden, and name it in their reports; the driver makes it visible from the
    /// checkpoint's record, and nothing is computed again.
    Staged(&'a dyn Staged),
    /// Nothing holds it: a batch whose publishing was cut short is written again.
    None {
        /// What is promised instead of exactly-once, as the rest of a sentence about the sink.
        guarantee: &'static str,
    },
}

/// A sink whose far side holds what writers have flushed, and can be asked.
pub trait Held: Sync {
    /// Fences writers of a sink and says what each holds of `batch`; without a batch they are only fenced. `whole`: every
    /// writer that the sink has progress of is fenced and told of as well, and without a batch all progress is ahead.
    fn resolve(
        &self,
        table: &SinkTable,
        query: QueryId,
        batch: Option<BatchId>,
        writers: &[&WriterReport],
        whole: bool,
    ) -> Result<BTreeMap<WriterId, Resolution>, ConnectorError>;

    /// How long it holds what was written, milliseconds.
    fn max_open_ms(&self, table: &SinkTable) -> Result<i64, ConnectorError>;

    /// Looks for output of earlier queries.
    fn earlier_output(&self) -> Box<dyn EarlierOutput>;

    /// Deletes what it keeps to answer, of a query that is dropped.
    fn delete_progress(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError>;
}

/// A sink whose driver commits what writers have staged. `Writer::flush` makes it durable; from then on only these calls
/// delete it.
pub trait Staged: Sync {
    /// Makes what the writers staged of a batch visible, all of it or nothing, and durable. `writers`: all of the sink's that
    /// hold rows, as the checkpoint's record has them; `query`: the query and its name. What is committed already is left as
    /// it is, and what was cut short by a crash is finished.
    ///
    /// # Errors
    /// The sink holds another batch of this number, lacks what was staged, refuses, or is away.
    fn commit(
        &self,
        table: &SinkTable,
        query: (QueryId, &str),
        batch: BatchId,
        writers: &[&WriterReport],
    ) -> Result<(), ConnectorError>;

    /// Deletes what an attempt staged that no record names, and never will.
    fn discard(
        &self,
        table: &SinkTable,
        query: QueryId,
        batch: BatchId,
        attempt: AttemptId,
    ) -> Result<(), ConnectorError>;

    /// The newest batch of the query that is committed, or whose commit has begun; `None`: there is none.
    fn newest(&self, table: &SinkTable, query: QueryId) -> Result<Option<BatchId>, ConnectorError>;

    /// Looks for output of earlier queries.
    fn earlier_output(&self) -> Box<dyn EarlierOutput>;

    /// Deletes what it keeps besides the output, of a query that is dropped.
    fn delete_progress(&self, table: &SinkTable, query: QueryId) -> Result<(), ConnectorError>;
}

/// What earlier queries have written through sinks of one connector.
pub trait EarlierOutput {
    /// The UUID of a query of this name that wrote to the same place, if there was one.
    fn find(&mut self, sink: &SinkTable, name: &str) -> Result<Option<String>, ConnectorError>;
}
