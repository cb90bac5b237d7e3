//! The sink writers of one query on this executor.
//!
//! Owns: one slot per writer, opened when first used and dropped after a failure. Does not own: transactions
//! (`connectors`), when to publish (`protocol::participant`). Invariant: a slot is used by one thread at a time; it
//! publishes only what was flushed last, and only for the attempt that flushed it.

use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::sink::{Published, Writer, WriterConfig};
use highwater_connectors::registry;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, BatchId, Epoch, QueryId};
use highwater_protocol::plan::WriterPlan;
use highwater_protocol::query::PublishOutcome;
use highwater_protocol::report::WriterReport;
use highwater_sql::tables::SinkTable;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Writers {
    query: QueryId,
    name: String,
    epoch: Epoch,
    tables: Vec<SinkTable>,
    slots: Mutex<BTreeMap<WriterPlan, Arc<Slot>>>,
}

/// The place of one writer, which is opened when it is first used.
pub struct Slot {
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    writer: Option<Box<dyn Writer>>,
    /// The attempt whose rows are flushed and not committed; `None` if there is none.
    flushed: Option<AttemptId>,
}

impl Writers {
    pub fn new(query: QueryId, name: &str, epoch: Epoch, tables: &[SinkTable]) -> Self {
        Self { query, name: name.to_string(), epoch, tables: tables.to_vec(), slots: Mutex::default() }
    }

    pub fn slot(&self, plan: WriterPlan) -> Arc<Slot> {
        self.slots.lock().entry(plan).or_insert_with(|| Arc::new(Slot { content: Mutex::default() })).clone()
    }

    fn open(&self, plan: WriterPlan) -> Result<Box<dyn Writer>, ConnectorError> {
        let table = self.tables.iter().find(|table| table.id == plan.sink).ok_or_else(|| {
            ConnectorError::Fatal(format!("the plan names sink {}, which this query does not have", plan.sink))
        })?;
        registry::open_writer(WriterConfig {
            table: table.clone(),
            query: self.query,
            query_name: self.name.clone(),
            writer: plan.writer,
            epoch: self.epoch.0,
        })
    }

    /// Aborts what this attempt has flushed. Writes in progress are aborted by their own threads.
    /// Blocks: call it on a blocking thread.
    pub fn abort_stale(&self, attempt: AttemptId) {
        let slots: Vec<Arc<Slot>> = self.slots.lock().values().cloned().collect();
        for slot in slots {
            let mut content = slot.content.lock();
            if content.flushed.take_if(|flushed| *flushed == attempt).is_some()
                && let Some(writer) = content.writer.as_mut()
            {
                writer.abort();
            }
        }
    }

    /// Aborts open transactions and releases all producers. Blocks.
    pub fn close(&self) {
        let slots = std::mem::take(&mut *self.slots.lock());
        for slot in slots.into_values() {
            let mut content = slot.content.lock();
            content.flushed = None;
            if let Some(mut writer) = content.writer.take() {
                writer.abort();
            }
        }
    }
}

impl Slot {
    /// Begins an attempt. With `recompute_only` nothing is written, since the sink holds the batch: only the digest is
    /// needed.
    pub fn begin<'a>(
        &'a self,
        writers: &Writers,
        plan: WriterPlan,
        batch: BatchId,
        attempt: AttemptId,
        recompute_only: bool,
    ) -> Result<InUse<'a>, ConnectorError> {
        let mut content = self.content.lock();
        content.flushed = None;
        let writer = match content.writer.take() {
            Some(writer) => writer,
            None => writers.open(plan)?,
        };
        let writer = content.writer.insert(writer);
        writer.begin(batch, attempt, recompute_only);
        Ok(InUse { content, attempt })
    }

    /// Commits what the attempt flushed. Blocks.
    pub fn publish(&self, attempt: AttemptId) -> PublishOutcome {
        let mut content = self.content.lock();
        if content.flushed.take() != Some(attempt) {
            return PublishOutcome::Unknown;
        }
        let Some(writer) = content.writer.as_mut() else { return PublishOutcome::Unknown };
        let outcome = match writer.publish() {
            Ok(Published::Committed) => return PublishOutcome::Published,
            Ok(Published::Unfinished(message)) => {
                return PublishOutcome::Failed { kind: ErrorKind::Retry, message };
            }
            Ok(Published::Unknown) => PublishOutcome::Unknown,
            Err(error) => PublishOutcome::Failed { kind: error.kind(), message: error.to_string() },
        };
        // A producer whose transaction failed is not used again.
        content.writer = None;
        outcome
    }
}

/// A writer of the running attempt. If it is dropped without a flush, the writer is closed.
pub struct InUse<'a> {
    content: MutexGuard<'a, Content>,
    attempt: AttemptId,
}

impl InUse<'_> {
    pub fn write(&mut self, rows: &ChangeBatch) -> Result<(), ConnectorError> {
        match self.content.writer.as_mut() {
            Some(writer) => writer.write(rows),
            None => Err(ConnectorError::Closed("the writer has failed before".into())),
        }
        .inspect_err(|_| self.content.writer = None)
    }

    pub fn flush(&mut self) -> Result<WriterReport, ConnectorError> {
        let report = match self.content.writer.as_mut() {
            Some(writer) => writer.flush(),
            None => Err(ConnectorError::Closed("the writer has failed before".into())),
        }
        .inspect_err(|_| self.content.writer = None)?;
        self.content.flushed = Some(self.attempt);
        Ok(report)
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if self.content.flushed != Some(self.attempt)
            && let Some(writer) = self.content.writer.as_mut()
        {
            writer.abort();
        }
    }
}
