//! What the driver does with the sinks of one run: commits what writers have staged, and asks what writers hold.
//!
//! Owns: those calls, which block on the far side and answer with events. Does not own: when (the machine), what an answer
//! means for the query (the machine), doing it (connectors).
//! Invariant: what is committed is what the durable record of the batch names.

use crate::error::DriverError;
use crate::inbox::Inbox;
use crate::run::Run;
use crate::run_event::RunnerEvent;
use highwater_checkpoint::CheckpointStore;
use highwater_connector_api::error::ConnectorError;
use highwater_connectors::registry;
use highwater_planner::CompiledQuery;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, BatchId, SinkId};
use highwater_protocol::options::QuerySpec;
use highwater_protocol::plan::WriterPlan;
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_protocol::query::{Event, PublishOutcome, Resolution};
use highwater_protocol::report::WriterReport;
use highwater_sql::tables::SinkTable;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Longest pause between two tries to resolve writers while a sink is away.
const RESOLVE_PAUSE_MAX: Duration = Duration::from_secs(3);

/// The sinks of one run. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sinks {
    spec: Arc<QuerySpec>,
    compiled: Arc<CompiledQuery>,
    store: CheckpointStore,
    inbox: Inbox,
    /// Those that the driver commits itself.
    staged: BTreeSet<SinkId>,
    /// The record that was prepared last. Locked while sinks are committed, one batch after the other.
    prepared: Arc<Mutex<Option<Arc<PrepareRecord>>>>,
}

impl Sinks {
    pub fn new(run: &Run, inbox: Inbox) -> Self {
        // A sink that is not known cannot be opened either: its query fails at its first writer.
        let is_staged = |table: &&SinkTable| registry::is_staged(table).unwrap_or(false);
        Self {
            spec: Arc::new(run.spec.clone()),
            compiled: run.compiled.clone(),
            store: run.store.clone(),
            inbox,
            staged: run.compiled.sinks.iter().filter(is_staged).map(|table| table.id).collect(),
            prepared: Arc::default(),
        }
    }

    /// Whether the driver commits the sink, and not its writers.
    pub fn commits(&self, sink: SinkId) -> bool {
        self.staged.contains(&sink)
    }

    /// The record is about to be stored. Nothing of it is committed before it is.
    pub fn prepared(&self, record: &Arc<PrepareRecord>) {
        if !self.staged.is_empty() {
            *self.prepared.lock() = Some(record.clone());
        }
    }

    /// Commits the sinks of these writers and answers for each of them. A sink is committed as a whole, whichever of its
    /// writers are named.
    pub fn commit(&self, attempt: AttemptId, batch: BatchId, writers: Vec<WriterPlan>) {
        if writers.is_empty() {
            return;
        }
        let sinks = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut outcomes: BTreeMap<SinkId, PublishOutcome> = BTreeMap::new();
            for writer in writers {
                let outcome =
                    outcomes.entry(writer.sink).or_insert_with(|| sinks.commit_sink(writer.sink, batch)).clone();
                sinks.inbox.push(RunnerEvent::Machine(Event::Published { attempt, writer, outcome }));
            }
        });
    }

    fn commit_sink(&self, sink: SinkId, batch: BatchId) -> PublishOutcome {
        match self.try_commit(sink, batch) {
            Ok(()) => PublishOutcome::Published,
            Err(error) => {
                tracing::warn!(%error, %batch, %sink, "the sink could not be committed");
                PublishOutcome::Failed { kind: error.kind(), message: error.to_string() }
            }
        }
    }

    fn try_commit(&self, sink: SinkId, batch: BatchId) -> Result<(), DriverError> {
        let mut prepared = self.prepared.lock();
        let record = self.record(&mut prepared, batch)?;
        let table = self.compiled.sinks.iter().find(|table| table.id == sink);
        let table = table.ok_or_else(|| ConnectorError::Fatal(format!("the query has no sink {sink}")))?;
        let writers = writers_of(&record.writers, sink);
        registry::commit_staged(table, (self.spec.id, &self.spec.name), batch, &writers)?;
        Ok(())
    }

    /// The record of a prepared batch: the newest, or read from the checkpoint.
    fn record(
        &self,
        prepared: &mut Option<Arc<PrepareRecord>>,
        batch: BatchId,
    ) -> Result<Arc<PrepareRecord>, DriverError> {
        if let Some(record) = prepared.as_ref().filter(|record| record.batch() == batch) {
            return Ok(record.clone());
        }
        let record = self.store.record(self.spec.id, batch)?;
        let record = record.ok_or_else(|| ConnectorError::Fatal(format!("the checkpoint has no batch {batch}")))?;
        Ok(prepared.insert(Arc::new(record)).clone())
    }

    /// Fences writers and asks what they hold, for as long as sinks are away.
    pub fn resolve(&self, number: u64, batch: Option<BatchId>, writers: Vec<WriterReport>, whole: bool) {
        let sinks = self.clone();
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(50);
            loop {
                let (asking, writers) = (sinks.clone(), writers.clone());
                let found = tokio::task::spawn_blocking(move || asking.resolve_all(batch, &writers, whole)).await;
                let event = match found {
                    Ok(Ok(found)) => Event::Resolved { number, found },
                    Ok(Err(error)) if error.kind() == ErrorKind::Retry => {
                        let (kind, message) = (error.kind(), error.to_string());
                        let trouble = Event::Trouble { executor: None, kind, message };
                        sinks.inbox.push(RunnerEvent::Machine(trouble));
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = sinks.inbox.closed() => return,
                        }
                        pause = (pause * 2).min(RESOLVE_PAUSE_MAX);
                        continue;
                    }
                    Ok(Err(error)) => Event::ResolveFailed { number, kind: error.kind(), message: error.to_string() },
                    Err(error) => Event::ResolveFailed { number, kind: ErrorKind::Fatal, message: error.to_string() },
                };
                sinks.inbox.push(RunnerEvent::Machine(event));
                return;
            }
        });
    }

    /// Asks sinks about their writers: those of some writers, or, as a whole, every sink.
    fn resolve_all(
        &self,
        batch: Option<BatchId>,
        writers: &[WriterReport],
        whole: bool,
    ) -> Result<BTreeMap<WriterPlan, Resolution>, DriverError> {
        let mut found = BTreeMap::new();
        for table in &self.compiled.sinks {
            let asked = writers_of(writers, table.id);
            if asked.is_empty() && !whole {
                continue;
            }
            let resolved = match batch.filter(|_| self.commits(table.id)) {
                // What is committed is the whole batch, also where only some of its writers are asked about.
                Some(batch) => {
                    let mut prepared = self.prepared.lock();
                    let record = self.record(&mut prepared, batch)?;
                    self.resolve_sink(table, Some(batch), &writers_of(&record.writers, table.id), whole)?
                }
                None => self.resolve_sink(table, batch, &asked, whole)?,
            };
            found.extend(resolved);
        }
        Ok(found)
    }

    fn resolve_sink(
        &self,
        table: &SinkTable,
        batch: Option<BatchId>,
        writers: &[&WriterReport],
        whole: bool,
    ) -> Result<Vec<(WriterPlan, Resolution)>, DriverError> {
        let query = (self.spec.id, self.spec.name.as_str());
        let resolved = registry::resolve_writers(table, query, batch, writers, whole)?;
        Ok(resolved.into_iter().map(|(writer, held)| (WriterPlan { sink: table.id, writer }, held)).collect())
    }
}

fn writers_of(writers: &[WriterReport], sink: SinkId) -> Vec<&WriterReport> {
    writers.iter().filter(|writer| writer.plan.sink == sink).collect()
}
