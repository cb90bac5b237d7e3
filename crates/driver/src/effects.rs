//! Carries out the actions of one query's machine: commands to executors, checkpoint writes.
//!
//! Owns: how an action becomes an effect. Does not own: when (the machine), what executors do with it, asking sinks
//! (`sinks`).
//! Blocking work runs on blocking threads and answers with an event; nothing here waits for an executor.

use crate::cluster::Cluster;
use crate::error::DriverError;
use crate::inbox::Inbox;
use crate::progress_history::{ProgressLog, progress_of};
use crate::run::Run;
use crate::run_event::RunnerEvent;
use crate::sinks::Sinks;
use crate::stage_progress::{self, StepNames, step_names};
use crate::state_limit::over_limit;
use highwater_checkpoint::CheckpointStore;
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
use highwater_protocol::query::{Action, CommittedBatch, End, Event};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

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
    sinks: Sinks,
    step_names: StepNames,
}

impl Effects {
    pub fn new(run: &Run, inbox: Inbox, look: Arc<Notify>) -> Self {
        let sinks = Sinks::new(run, inbox.clone());
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
            sinks,
            step_names: step_names(&run.compiled),
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
            Action::Abort { attempt, batch, executors, discard } => {
                if discard {
                    self.sinks.discard(attempt, batch);
                }
                for executor in executors {
                    let attempt = Some(convert::attempt_to_proto(attempt, batch));
                    let message =
                        v1::AbortAttempt { query_id: self.query_id(), attempt, run_id: self.run_id.to_string() };
                    self.cluster.send(executor, Message::AbortAttempt(message));
                }
            }
            Action::Persist { record } => {
                self.sinks.keep(&record);
                self.persist(record);
            }
            Action::Publish { attempt, batch, executor, writers } => {
                if !self.still_ours().await {
                    return;
                }
                let (staged, writers): (Vec<_>, Vec<_>) =
                    writers.into_iter().partition(|writer| self.sinks.commits(writer.sink));
                self.sinks.commit(attempt, batch, staged);
                if writers.is_empty() {
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
            Action::Resolve { number, batch, writers, whole } => {
                self.sinks.resolve(number, batch, writers, whole);
            }
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
        let progress = progress_of(&self.spec, self.run_id, (&self.compiled, &self.step_names), &batch, latest);
        stage_progress::record(&self.spec.name, &batch, &progress.state_operators);
        self.progress.push(progress);
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
        stage_progress::clear(&self.spec.name, &self.compiled);
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
