//! Carries out the actions of one query's machine: commands to executors, checkpoint writes, sink resolution.
//!
//! Owns: how an action becomes an effect. Does not own: when (the machine), or what executors do with it.
//! Blocking work runs on blocking threads and answers with an event; nothing here waits for an executor.

use crate::cluster::Cluster;
use crate::error::DriverError;
use crate::inbox::Inbox;
use crate::progress_history::{ProgressLog, progress_of};
use crate::run::Run;
use crate::run_event::RunnerEvent;
use crate::state_limit::over_limit;
use highwater_checkpoint::CheckpointStore;
use highwater_connectors::error::ConnectorError;
use highwater_connectors::registry::resolve_writers;
use highwater_crash as crash;
use highwater_planner::CompiledQuery;
use highwater_proto::convert;
use highwater_proto::v1::{self, stream_tasks_response::Message};
use highwater_protocol::error::ErrorKind;
use highwater_protocol::files::FileVersions;
use highwater_protocol::ids::{AttemptId, BatchId, ExecutorId, RunId, SinkId, TaskId};
use highwater_protocol::offsets::Positions;
use highwater_protocol::options::QuerySpec;
use highwater_protocol::plan::{BatchPlan, WriterPlan};
use highwater_protocol::prepare_record::PrepareRecord;
use highwater_protocol::query::{Action, CommittedBatch, End, Event, Resolution};
use highwater_protocol::report::WriterReport;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Longest pause between two attempts to resolve writers while a broker is down.
const RESOLVE_PAUSE_MAX: Duration = Duration::from_secs(3);

pub(crate) struct Effects {
    spec: QuerySpec,
    run_id: RunId,
    compiled: Arc<CompiledQuery>,
    store: CheckpointStore,
    cluster: Cluster,
    progress: ProgressLog,
    inbox: Inbox,
    look: Arc<Notify>,
    /// True while a compaction runs.
    compacting: Arc<AtomicBool>,
}

impl Effects {
    pub fn new(run: &Run, inbox: Inbox, look: Arc<Notify>) -> Self {
        Self {
            spec: run.spec.clone(),
            run_id: run.run_id,
            compiled: run.compiled.clone(),
            store: run.store.clone(),
            cluster: run.cluster.clone(),
            progress: run.progress.clone(),
            inbox,
            look,
            compacting: Arc::default(),
        }
    }

    pub async fn carry_out(&self, action: Action) {
        match action {
            Action::Open { executor } => self.cluster.send(executor, self.open_query()),
            // Wakes the watchers of all sources; one that is not waiting just now looks within a second anyway.
            Action::LookAtTopic { .. } => self.look.notify_waiters(),
            Action::Assign { executor, partitions, topic_ids, last_records } => {
                let partitions = partitions
                    .into_iter()
                    .map(|(partition, position, end)| v1::PartitionStart {
                        topic_id: topic_ids.get(&partition.source).cloned(),
                        last_record: last_records
                            .get(&partition)
                            .map(|last| v1::LastRecord { offset: last.offset, leader_epoch: last.leader_epoch }),
                        source_id: partition.source.0,
                        topic: partition.tp.topic.to_string(),
                        partition: partition.tp.partition,
                        position,
                        end,
                    })
                    .collect();
                let message =
                    v1::AssignPartitions { query_id: self.query_id(), run_id: self.run_id.to_string(), partitions };
                self.cluster.send(executor, Message::AssignPartitions(message));
            }
            Action::Run { attempt, plan, placement, base, published } => {
                crash::point("driver_after_plan");
                self.run_tasks(attempt, &plan, &placement, base, &published);
                crash::point("driver_after_dispatch");
            }
            Action::Abort { attempt, batch, executors } => {
                for executor in executors {
                    let attempt = Some(convert::attempt_to_proto(attempt, batch));
                    let message =
                        v1::AbortAttempt { query_id: self.query_id(), attempt, run_id: self.run_id.to_string() };
                    self.cluster.send(executor, Message::AbortAttempt(message));
                }
            }
            Action::Persist { record } => self.persist(record),
            Action::Publish { attempt, batch, executor, writers } => {
                if !self.still_ours().await {
                    return;
                }
                let message = v1::PublishWriters {
                    query_id: self.query_id(),
                    attempt: Some(convert::attempt_to_proto(attempt, batch)),
                    writers: writers.into_iter().map(writer_ref).collect(),
                    run_id: self.run_id.to_string(),
                };
                self.cluster.send(executor, Message::PublishWriters(message));
                crash::point("driver_between_publishes");
            }
            Action::ReserveWriters { counts } => self.reserve_writers(counts),
            Action::ReleaseFiles { before } => self.release_files(before),
            Action::Resolve { number, batch, writers, whole } => self.resolve(number, batch, writers, whole),
            Action::Committed(_) | Action::Ended(_) => {}
        }
    }

    /// Checks that no newer driver has taken over. A repeated batch is published without another write to the head
    /// store that would be refused, and a newer driver may have published it already. Costs one small read of the head
    /// store.
    async fn still_ours(&self) -> bool {
        let (store, epoch) = (self.store.clone(), self.cluster.epoch());
        let message = match tokio::task::spawn_blocking(move || store.check_epoch(epoch)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.tell(ErrorKind::Fatal, message);
        false
    }

    /// Reports trouble to the query from within an action.
    fn tell(&self, kind: ErrorKind, message: String) {
        self.inbox.push(RunnerEvent::Machine(Event::Trouble { executor: None, kind, message }));
    }

    fn query_id(&self) -> String {
        self.spec.id.to_string()
    }

    fn open_query(&self) -> Message {
        Message::OpenQuery(v1::OpenQuery {
            query_id: self.query_id(),
            run_id: self.run_id.to_string(),
            name: self.spec.name.clone(),
            sql: self.spec.sql.clone(),
            fingerprint: self.compiled.fingerprint(),
        })
    }

    fn run_tasks(
        &self,
        attempt: AttemptId,
        plan: &BatchPlan,
        placement: &BTreeMap<TaskId, ExecutorId>,
        base: Option<BatchId>,
        published: &BTreeSet<WriterPlan>,
    ) {
        let bytes = match convert::plan_to_bytes(plan) {
            Ok(bytes) => bytes,
            Err(status) => {
                tracing::error!(%status, "the plan could not be encoded");
                return;
            }
        };
        let addresses: BTreeMap<ExecutorId, String> =
            self.cluster.watch().borrow().iter().map(|info| (info.id, info.address.clone())).collect();
        let placements = placement
            .iter()
            .map(|(task, executor)| v1::TaskPlacement {
                task_id: task.0,
                executor_id: executor.to_string(),
                address: addresses.get(executor).cloned().unwrap_or_default(),
            })
            .collect();
        let message = v1::RunTasks {
            query_id: self.query_id(),
            attempt: Some(convert::attempt_to_proto(attempt, plan.batch)),
            plan: bytes::Bytes::from(bytes),
            placements,
            base_batch_id: base.map(|batch| batch.0),
            published: published.iter().copied().map(writer_ref).collect(),
            run_id: self.run_id.to_string(),
        };
        for executor in placement.values().collect::<BTreeSet<_>>() {
            self.cluster.send(*executor, Message::RunTasks(message.clone()));
        }
    }

    fn persist(&self, record: Arc<PrepareRecord>) {
        let (store, epoch, inbox) = (self.store.clone(), self.cluster.epoch(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            crash::point("driver_before_prepare");
            let batch = record.batch();
            let event = match store.prepare(epoch, &record) {
                Ok(()) => Event::Persisted { batch },
                Err(error) => Event::PersistFailed { batch, kind: error.kind(), message: error.to_string() },
            };
            crash::point("driver_after_prepare");
            inbox.push(RunnerEvent::Machine(event));
        });
    }

    fn reserve_writers(&self, counts: BTreeMap<SinkId, u32>) {
        let (store, epoch, query, inbox) = (self.store.clone(), self.cluster.epoch(), self.spec.id, self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            let event = match store.reserve_writers(epoch, query, &counts) {
                Ok(()) => Event::WritersReserved(counts),
                Err(error) => Event::ReserveFailed { kind: error.kind(), message: error.to_string() },
            };
            inbox.push(RunnerEvent::Machine(event));
        });
    }

    fn release_files(&self, before: FileVersions) {
        let (store, epoch, query) = (self.store.clone(), self.cluster.epoch(), self.spec.id);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.release_files(epoch, query, &before) {
                tracing::warn!(%error, "looked-up files of older versions could not be deleted; this is tried again \
                 later");
            }
        });
    }

    /// Fences writers and asks what they hold. Retries while brokers are down.
    fn resolve(&self, number: u64, batch: Option<BatchId>, writers: Vec<WriterReport>, whole: bool) {
        let (spec, compiled, inbox) = (self.spec.clone(), self.compiled.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(50);
            loop {
                let (spec, compiled, writers) = (spec.clone(), compiled.clone(), writers.clone());
                let found =
                    tokio::task::spawn_blocking(move || resolve_all(&spec, &compiled, batch, &writers, whole)).await;
                let event = match found {
                    Ok(Ok(found)) => Event::Resolved { number, found },
                    Ok(Err(error)) if error.kind() == ErrorKind::Retry => {
                        let (kind, message) = (error.kind(), error.to_string());
                        let trouble = Event::Trouble { executor: None, kind, message };
                        inbox.push(RunnerEvent::Machine(trouble));
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = inbox.closed() => return,
                        }
                        pause = (pause * 2).min(RESOLVE_PAUSE_MAX);
                        continue;
                    }
                    Ok(Err(error)) => Event::ResolveFailed { number, kind: error.kind(), message: error.to_string() },
                    Err(error) => Event::ResolveFailed { number, kind: ErrorKind::Fatal, message: error.to_string() },
                };
                inbox.push(RunnerEvent::Machine(event));
                return;
            }
        });
    }

    /// Records a commit, tells the executors to promote, reports progress, and compacts from time to time.
    pub async fn committed(&self, batch: CommittedBatch, latest: &Positions) {
        crash::point("driver_after_publish");
        let id = batch.record.batch();
        for executor in &batch.executors {
            let attempt = Some(convert::attempt_to_proto(batch.attempt, id));
            let message = v1::BatchCommitted { query_id: self.query_id(), attempt, run_id: self.run_id.to_string() };
            self.cluster.send(*executor, Message::BatchCommitted(message));
        }
        let (store, epoch, query) = (self.store.clone(), self.cluster.epoch(), self.spec.id);
        let noted = tokio::task::spawn_blocking(move || store.note_committed(epoch, query, id)).await;
        if let Err(error) = noted.map_err(DriverError::from).and_then(|noted| noted.map_err(DriverError::from)) {
            tracing::warn!(%error, batch = %id, "the commit could not be recorded; recovery will ask the sinks");
        }
        metrics::counter!("highwater_batches_total", "query" => self.spec.name.clone()).increment(1);
        self.progress.push(progress_of(&self.spec, self.run_id, &self.compiled, &batch, latest));
        if let Some(message) = over_limit(&self.compiled, &batch.operators) {
            self.tell(ErrorKind::Fix, message);
        }
        crash::point("driver_after_commit");
        self.compact();
    }

    fn compact(&self) {
        if self.compacting.swap(true, Ordering::AcqRel) {
            return;
        }
        let (store, epoch, query, flag) =
            (self.store.clone(), self.cluster.epoch(), self.spec.id, self.compacting.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.compact(epoch, query) {
                tracing::warn!(%error, "checkpoint compaction failed; it is retried after the next batch");
            }
            flag.store(false, Ordering::Release);
        });
    }

    /// Tells executors to drop the query, and stores durably how it ended.
    pub async fn end(&self, end: End) {
        match &end {
            End::Failed(message) => tracing::error!(name = %self.spec.name, "query failed: {message}"),
            other => tracing::info!(name = %self.spec.name, end = ?other, "query ended"),
        }
        let executors: Vec<ExecutorId> = self.cluster.watch().borrow().iter().map(|info| info.id).collect();
        for executor in executors {
            let close = v1::CloseQuery { query_id: self.query_id(), run_id: self.run_id.to_string() };
            self.cluster.send(executor, Message::CloseQuery(close));
        }
        // `stop` has stored the state already; `replace` and `drop` store what they need.
        if end == End::Stopped {
            return;
        }
        let Some(desired) = end.desired() else { return };
        let mut spec = self.spec.clone();
        spec.desired = desired;
        spec.message = match end {
            End::Failed(message) => Some(message),
            _ => None,
        };
        let (store, epoch) = (self.store.clone(), self.cluster.epoch());
        let stored = tokio::task::spawn_blocking(move || store.put_query(epoch, &spec)).await;
        if let Ok(Err(error)) = stored {
            tracing::error!(%error, "the end of the query could not be stored; the query will run again after a \
             restart");
        }
    }
}

fn writer_ref(writer: WriterPlan) -> v1::WriterRef {
    v1::WriterRef { sink_id: writer.sink.0, writer_id: writer.writer.0 }
}

/// Asks sinks what their writers hold: the given writers, or, if `whole`, all writers of every sink.
fn resolve_all(
    spec: &QuerySpec,
    compiled: &CompiledQuery,
    batch: Option<BatchId>,
    writers: &[WriterReport],
    whole: bool,
) -> Result<BTreeMap<WriterPlan, Resolution>, ConnectorError> {
    let mut found = BTreeMap::new();
    for table in &compiled.sinks {
        let asked: Vec<&WriterReport> = writers.iter().filter(|writer| writer.plan.sink == table.id).collect();
        if asked.is_empty() && !whole {
            continue;
        }
        let resolved = resolve_writers(table, spec.id, batch, &asked, whole)?;
        found.extend(resolved.into_iter().map(|(writer, held)| (WriterPlan { sink: table.id, writer }, held)));
    }
    Ok(found)
}
