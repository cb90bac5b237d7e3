//! One query on this executor: obeys the driver's commands in order, and runs the tasks they name.
//!
//! Owns: the query's consumers, writers, state and current attempt. Does not own: decisions about attempts
//! (core's participant), the work of a task (`task`). All changes happen on this one task; the queue of
//! commands is bounded.

use crate::Shared;
use crate::attempt::{self, Attempt};
use crate::error::TaskError;
use crate::outbox::Outbox;
use crate::sources::Sources;
use crate::task::{self, Done, TaskContext};
use crate::writers::Writers;
use crate::{publish, restore};
use highwater_core::error::ErrorKind;
use highwater_core::ids::{AttemptId, BatchId, Epoch, QueryId, ShardId, TaskId};
use highwater_core::participant::{Command, Effect, Participant};
use highwater_crash as crash;
use highwater_engine::CompiledQuery;
use highwater_engine::state::QueryState;
use highwater_proto::v1::cluster_service_client::ClusterServiceClient;
use highwater_proto::v1::stream_tasks_response::Message;
use highwater_proto::{convert, v1};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;
use tracing::Instrument;

const COMMAND_QUEUE: usize = 256;

/// How the session reaches a worker.
pub struct WorkerHandle {
    commands: mpsc::Sender<Message>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl WorkerHandle {
    pub async fn command(&self, message: Message) {
        // A worker that could not open its query has said so, and takes no commands.
        let _ = self.commands.send(message).await;
    }

    /// Stops the worker's tasks, aborts its transactions and closes its consumers.
    pub async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a query's worker ended badly");
        }
    }
}

/// Starts a worker; it opens the query by itself.
pub fn start(
    shared: Shared,
    query: QueryId,
    epoch: u64,
    open: v1::OpenQuery,
    outbox: Outbox,
    client: ClusterServiceClient<Channel>,
) -> WorkerHandle {
    let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
    let stop = CancellationToken::new();
    let span = tracing::info_span!("query", name = %open.name, %query);
    let stopped = stop.clone();
    let task = tokio::spawn(
        async move {
            match Worker::open(shared, query, epoch, &open, outbox.clone(), client).await {
                Ok(worker) => worker.run(queue, stopped).await,
                Err((kind, message)) => outbox.trouble(kind, message).await,
            }
        }
        .instrument(span),
    );
    WorkerHandle { commands, stop, task }
}

struct Worker {
    shared: Shared,
    query: QueryId,
    epoch: u64,
    compiled: Arc<CompiledQuery>,
    outbox: Outbox,
    client: ClusterServiceClient<Channel>,
    participant: Participant,
    state: Arc<QueryState>,
    sources: Arc<Sources>,
    writers: Arc<Writers>,
    current: Option<Running>,
    finished: mpsc::Sender<Finished>,
    results: mpsc::Receiver<Finished>,
}

struct Running {
    attempt: Attempt,
    cancel: CancellationToken,
}

/// A task attempt has ended.
struct Finished {
    attempt: AttemptId,
    batch: BatchId,
    task: TaskId,
    result: Result<Done, TaskError>,
}

impl Worker {
    async fn open(
        shared: Shared,
        query: QueryId,
        epoch: u64,
        open: &v1::OpenQuery,
        outbox: Outbox,
        client: ClusterServiceClient<Channel>,
    ) -> Result<Self, (ErrorKind, String)> {
        let sql = open.sql.clone();
        let compiled = tokio::task::spawn_blocking(move || highwater_engine::compile(&sql))
            .await
            .map_err(|error| (ErrorKind::Fatal, error.to_string()))?
            .map_err(|error| (ErrorKind::Fix, error.to_string()))?;
        if compiled.fingerprint() != open.fingerprint {
            let message = "this executor compiles the query to another dataflow than the driver; run one build on both";
            return Err((ErrorKind::Fatal, message.into()));
        }
        let compiled = Arc::new(compiled);
        let aligned = compiled.options.max_drift_ms.is_some();
        let sources = Sources::open(&compiled.sources, &open.name, shared.slot_count, aligned, &outbox)
            .map_err(|error| (error.kind(), error.to_string()))?;
        let state = Arc::new(QueryState::with_limit(&compiled.dataflow, shared.query_memory));
        let writers = Arc::new(Writers::new(query, &open.name, Epoch(epoch), &compiled.sinks));
        let (finished, results) = mpsc::channel(COMMAND_QUEUE);
        Ok(Self {
            shared,
            query,
            epoch,
            compiled,
            outbox,
            client,
            participant: Participant::default(),
            state,
            sources: Arc::new(sources),
            writers,
            current: None,
            finished,
            results,
        })
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Message>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(finished) = self.results.recv() => self.on_finished(finished).await,
                command = commands.recv() => match command {
                    Some(message) => {
                        if let Err(status) = self.obey(message).await {
                            self.outbox.trouble(ErrorKind::Fatal, status.message().to_string()).await;
                        }
                    }
                    None => break,
                },
            }
        }
        if let Some(running) = self.current.take() {
            running.cancel.cancel();
            self.shared.exchange.close(self.query, running.attempt.id);
        }
        let (writers, sources) = (self.writers.clone(), self.sources.clone());
        drop(self);
        let closed = tokio::task::spawn_blocking(move || {
            writers.close();
            drop(sources);
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "closing the query's clients failed");
        }
    }

    async fn obey(&mut self, message: Message) -> Result<(), Status> {
        let command = match message {
            Message::AssignPartitions(message) => {
                self.sources.assign(&message.partitions);
                crash::point("executor_after_assign");
                return Ok(());
            }
            Message::RunTasks(message) => {
                let attempt = Attempt::parse(self.shared.me, message)?;
                let effects = self.participant.command(Command::Run(attempt.command()));
                self.carry_out(effects, Some(attempt)).await;
                return Ok(());
            }
            Message::AbortAttempt(message) => Command::Abort { attempt: convert::attempt(message.attempt)?.0 },
            Message::PublishWriters(message) => Command::Publish {
                attempt: convert::attempt(message.attempt)?.0,
                writers: message.writers.iter().map(attempt::writer).collect(),
            },
            Message::BatchCommitted(message) => Command::Committed { attempt: convert::attempt(message.attempt)?.0 },
            Message::OpenQuery(_) | Message::CloseQuery(_) => return Ok(()),
        };
        let effects = self.participant.command(command);
        self.carry_out(effects, None).await;
        Ok(())
    }

    async fn carry_out(&mut self, effects: Vec<Effect>, new: Option<Attempt>) {
        let mut new = new;
        for effect in effects {
            match effect {
                Effect::Cancel { attempt } => self.cancel(attempt),
                Effect::DropState => self.state.clear(),
                Effect::Restore { attempt, base, shards } => {
                    let Some(next) = new.take() else { continue };
                    self.restore_and_start(next, attempt, base, shards).await;
                }
                Effect::Start { .. } => {
                    if let Some(next) = new.take() {
                        self.start(next);
                    }
                }
                Effect::Publish { attempt, writers } => {
                    publish::publish(&self.writers, attempt, self.batch(attempt), writers, &self.outbox);
                }
                Effect::AnswerUnknown { attempt, writers } => {
                    publish::answer_unknown(attempt, self.batch(attempt), writers, &self.outbox).await;
                }
                Effect::Promote { attempt, keep } => {
                    let state = self.state.clone();
                    let promoting = tokio::task::spawn_blocking(move || {
                        let promoted = state.promote(attempt).map_err(|error| error.to_string());
                        state.forget(state.owned().difference(&keep).copied());
                        promoted
                    });
                    if let Err(error) = promoting.await.unwrap_or_else(|error| Err(error.to_string())) {
                        self.outbox.trouble(ErrorKind::Fatal, error).await;
                    }
                    if let Some(running) = self.current.take() {
                        self.sources.release(running.attempt.mine());
                    }
                    self.shared.exchange.close(self.query, attempt);
                    crash::point("executor_after_promote");
                }
            }
        }
    }

    fn batch(&self, attempt: AttemptId) -> BatchId {
        let running = self.current.as_ref().filter(|running| running.attempt.id == attempt);
        running.map(|running| running.attempt.plan.batch).unwrap_or_default()
    }

    fn cancel(&mut self, attempt: AttemptId) {
        if let Some(running) = self.current.take_if(|running| running.attempt.id == attempt) {
            running.cancel.cancel();
        }
        self.state.discard(attempt);
        self.shared.exchange.close(self.query, attempt);
        let writers = self.writers.clone();
        // Waits for the attempt's threads to let go of their writers; readers of the sink wait for this.
        tokio::task::spawn_blocking(move || writers.abort_stale(attempt));
    }

    async fn restore_and_start(
        &mut self,
        next: Attempt,
        attempt: AttemptId,
        base: Option<BatchId>,
        shards: std::collections::BTreeSet<ShardId>,
    ) {
        let restored =
            restore::restore(&mut self.client, self.query, self.epoch, base, &shards, self.state.clone()).await;
        match restored {
            Ok(()) if self.participant.restored(attempt) => self.start(next),
            Ok(()) => {}
            Err(error) => {
                for task in next.mine() {
                    let message = error.to_string();
                    self.outbox.task_failed(attempt, next.plan.batch, task.id, error.kind(), &message).await;
                }
            }
        }
    }

    fn start(&mut self, attempt: Attempt) {
        self.compiled.clock.set_ms(attempt.plan.timestamp_ms);
        let inboxes = self.shared.exchange.open(self.query, attempt.id, attempt.streams(&self.compiled.dataflow));
        let cancel = CancellationToken::new();
        let context = TaskContext {
            shared: self.shared.clone(),
            query: self.query,
            attempt: attempt.id,
            plan: attempt.plan.clone(),
            placement: attempt.placement.clone(),
            published: attempt.published.clone(),
            compiled: self.compiled.clone(),
            sources: self.sources.clone(),
            writers: self.writers.clone(),
            state: self.state.clone(),
            inboxes,
            client: self.client.clone(),
            cancel: cancel.clone(),
        };
        for plan in attempt.mine() {
            let (context, plan, finished) = (context.clone(), plan.clone(), self.finished.clone());
            let (id, batch, task) = (attempt.id, attempt.plan.batch, plan.id);
            let span = tracing::debug_span!("task", %batch, attempt = %id, %task);
            tokio::spawn(
                async move {
                    let result = task::run(context, plan).await;
                    // The worker is gone with its session: nobody wants the result.
                    let _ = finished.send(Finished { attempt: id, batch, task, result }).await;
                }
                .instrument(span),
            );
        }
        self.current = Some(Running { attempt, cancel });
    }

    async fn on_finished(&mut self, finished: Finished) {
        let Finished { attempt, batch, task, result } = finished;
        if self.participant.current() != Some(attempt) {
            return;
        }
        match result {
            Ok(done) => {
                self.state.stage(attempt, done.overlay);
                self.participant.finished(attempt, task);
                self.outbox.task_done(attempt, batch, done.report, &done.uploaded).await;
            }
            Err(TaskError::Cancelled) => {}
            Err(error) => {
                tracing::warn!(%batch, %attempt, %task, "task failed: {error}");
                self.outbox.task_failed(attempt, batch, task, error.kind(), &error.to_string()).await;
            }
        }
    }
}
