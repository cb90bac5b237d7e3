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

/// Longest wait for a commit before the sink is asked instead; well below the time after which executors are blamed.
const COMMIT_PATIENCE: Duration = Duration::from_secs(60);

/// The sinks of one run. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sinks {
    spec: Arc<QuerySpec>,
    compiled: Arc<CompiledQuery>,
    store: CheckpointStore,
    inbox: Inbox,
    /// Those that the driver commits itself.
    staged: BTreeSet<SinkId>,
    /// The newest record.
    newest: Arc<Mutex<Option<Arc<PrepareRecord>>>>,
    /// Held, on blocking threads only, while sinks are committed: the newest batch of each.
    committing: Arc<Mutex<BTreeMap<SinkId, BatchId>>>,
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
            newest: Arc::default(),
            committing: Arc::default(),
        }
    }

    /// Whether the driver commits the sink, and not its writers.
    pub fn commits(&self, sink: SinkId) -> bool {
        self.staged.contains(&sink)
    }

    /// Keeps a record that is about to be stored, for the commit that follows.
    pub fn keep(&self, record: &Arc<PrepareRecord>) {
        if !self.staged.is_empty() {
            *self.newest.lock() = Some(record.clone());
        }
    }

    /// Commits the sinks of these writers and answers for each of them. A sink is committed as a whole, whichever of its
    /// writers are named.
    pub fn commit(&self, attempt: AttemptId, batch: BatchId, writers: Vec<WriterPlan>) {
        if writers.is_empty() {
            return;
        }
        let sinks = self.clone();
        tokio::spawn(async move {
            let (committing, plans) = (sinks.clone(), writers.clone());
            let work = tokio::task::spawn_blocking(move || committing.commit_sinks(batch, &plans));
            let outcomes = match tokio::time::timeout(COMMIT_PATIENCE, work).await {
                Ok(Ok(outcomes)) => outcomes,
                // The sink is asked then, for as long as it takes: no executor is to blame for a slow file system.
                Ok(Err(_)) | Err(_) => writers.into_iter().map(|writer| (writer, PublishOutcome::Unknown)).collect(),
            };
            for (writer, outcome) in outcomes {
                sinks.inbox.push(RunnerEvent::Machine(Event::Published { attempt, writer, outcome }));
            }
        });
    }

    /// Blocks.
    fn commit_sinks(&self, batch: BatchId, writers: &[WriterPlan]) -> Vec<(WriterPlan, PublishOutcome)> {
        let mut outcomes: BTreeMap<SinkId, PublishOutcome> = BTreeMap::new();
        let commit = |writer: &WriterPlan| {
            let outcome = outcomes.entry(writer.sink).or_insert_with(|| self.commit_sink(writer.sink, batch));
            (*writer, outcome.clone())
        };
        writers.iter().map(commit).collect()
    }

    /// Deletes what an attempt staged of which there is no record.
    pub fn discard(&self, attempt: AttemptId, batch: BatchId) {
        if self.staged.is_empty() {
            return;
        }
        let sinks = self.clone();
        tokio::task::spawn_blocking(move || {
            for table in sinks.compiled.sinks.iter().filter(|table| sinks.commits(table.id)) {
                if let Err(error) = registry::discard_staged(table, sinks.spec.id, batch, attempt) {
                    tracing::warn!(%error, "rows of a dropped attempt stay until the next commit");
                }
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
        let mut committed = self.committing.lock();
        if committed.get(&sink) == Some(&batch) {
            return Ok(());
        }
        let record = self.record(batch)?;
        let table = self.compiled.sinks.iter().find(|table| table.id == sink);
        let table = table.ok_or_else(|| ConnectorError::Fatal(format!("the query has no sink {sink}")))?;
        let writers = writers_of(&record.writers, sink);
        registry::commit_staged(table, (self.spec.id, &self.spec.name), batch, &writers)?;
        committed.insert(sink, batch);
        Ok(())
    }

    /// The record of a prepared batch: the newest, or read from the checkpoint. Blocks.
    fn record(&self, batch: BatchId) -> Result<Arc<PrepareRecord>, DriverError> {
        let newest = self.newest.lock().clone();
        if let Some(record) = newest.filter(|record| record.batch() == batch) {
            return Ok(record);
        }
        let record = self.store.record(self.spec.id, batch)?;
        let record = record.ok_or_else(|| ConnectorError::Fatal(format!("the checkpoint has no batch {batch}")))?;
        Ok(Arc::new(record))
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
                    let _committing = self.committing.lock();
                    let record = self.record(batch)?;
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
