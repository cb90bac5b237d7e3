//! One query on this executor: obeys the driver's commands in order, and runs the tasks they name.
//!
//! Owns: the query's consumers, writers, state and current attempt. Does not own: decisions about attempts
//! (`protocol::participant`), the work of a task (`task`). All changes happen on this one async task, which never waits
//! for other executors, brokers or threads, so an abort is obeyed at once. Its queue of commands does not delay other
//! queries, and is short: the driver sends a handful of commands per attempt, and no new attempt before the last one
//! has ended.

use crate::Shared;
use crate::attempt::{self, Attempt};
use crate::channels::DriverClient;
use crate::error::{OpenError, TaskError};
use crate::loading::{Loaded, Loading};
use crate::outbox::Outbox;
use crate::publish;
use crate::running::Running;
use crate::snapshots::Snapshots;
use crate::sources::Sources;
use crate::steps::Steps;
use crate::task::{self, Done, TaskContext};
use crate::writers::Writers;
use highwater_crash as crash;
use highwater_dataflow::state::QueryState;
use highwater_planner::CompiledQuery;
use highwater_proto::v1::stream_tasks_response::Message;
use highwater_proto::{convert, v1};
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, BatchId, Epoch, QueryId, ShardId, TaskId};
use highwater_protocol::participant::{Command, Effect, Participant};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument;

/// Number of task results that may wait to be reported.
const RESULT_QUEUE: usize = 256;
/// How often the running tasks are reported to the driver.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// One query, opened.
pub struct Worker {
    shared: Shared,
    query: QueryId,
    epoch: u64,
    compiled: Arc<CompiledQuery>,
    outbox: Outbox,
    client: DriverClient,
    participant: Participant,
    state: Arc<QueryState>,
    sources: Arc<Sources>,
    writers: Arc<Writers>,
    snapshots: Arc<Snapshots>,
    current: Option<Running>,
    finished: mpsc::Sender<Finished>,
    results: mpsc::Receiver<Finished>,
    loading: Loading,
}

/// The end of a task attempt.
struct Finished {
    attempt: AttemptId,
    batch: BatchId,
    task: TaskId,
    result: Result<Done, TaskError>,
}

impl Worker {
    /// Compiles the query and starts its readers.
    pub async fn open(
        shared: Shared,
        query: QueryId,
        epoch: u64,
        open: &v1::OpenQuery,
        outbox: Outbox,
        client: DriverClient,
    ) -> Result<Self, OpenError> {
        let (sql, access) = (open.sql.clone(), shared.access.clone());
        let compile = move || -> Result<CompiledQuery, OpenError> {
            let compiled = highwater_planner::compile(&sql)?;
            access.check(&compiled.sources, &compiled.sinks, "executor")?;
            Ok(compiled)
        };
        let compiled = tokio::task::spawn_blocking(compile).await??;
        if compiled.fingerprint() != open.fingerprint {
            return Err(OpenError::AnotherPlan);
        }
        let compiled = Arc::new(compiled);
        let aligned = compiled.options.max_drift_ms.is_some();
        let sources = {
            // Creating a client reads certificates and looks up names, which blocks.
            let (compiled, name, outbox) = (compiled.clone(), open.name.clone(), outbox.clone());
            let slots = shared.slot_count;
            let open = move || Sources::open(&compiled.sources, &name, slots, aligned, &outbox);
            tokio::task::spawn_blocking(open).await??
        };
        let state = Arc::new(QueryState::with_limit(&compiled.dataflow, shared.query_memory));
        let writers = Arc::new(Writers::new(query, &open.name, Epoch(epoch), &compiled.sinks));
        let snapshots = Arc::new(Snapshots::new(&shared.scratch, query, epoch, shared.query_memory));
        let (finished, results) = mpsc::channel(RESULT_QUEUE);
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
            snapshots,
            current: None,
            finished,
            results,
            loading: Loading::new(),
        })
    }

    /// Obeys commands until the queue or the session ends.
    pub async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Message>, stop: CancellationToken) {
        let mut beats = tokio::time::interval(HEARTBEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = beats.tick() => self.beat().await,
                Some(finished) = self.results.recv() => self.on_finished(finished).await,
                loaded = self.loading.next() => self.on_loaded(loaded).await,
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
                self.sources.assign(&message.partitions).await;
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
                Effect::DropState => drop_elsewhere(self.state.clear()),
                Effect::Restore { base, shards, .. } => {
                    let Some(next) = new.take() else { continue };
                    self.restore(next, base, shards);
                }
                Effect::Start { .. } => {
                    if let Some(next) = new.take() {
                        self.current = Some(Running::new(next));
                        self.start();
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
        drop_elsewhere(self.state.discard(attempt));
        self.shared.exchange.close(self.query, attempt);
        let writers = self.writers.clone();
        // Waits until the attempt's threads have released their writers; readers of the sink wait for this.
        tokio::task::spawn_blocking(move || writers.abort_stale(attempt));
    }

    /// Loads state in the background, so that an abort is obeyed meanwhile.
    fn restore(&mut self, next: Attempt, base: Option<BatchId>, shards: BTreeSet<ShardId>) {
        let running = Running::new(next);
        let (client, state) = (self.client.clone(), self.state.clone());
        self.loading.begin(client, (self.query, self.epoch), base, shards, state, &running);
        self.current = Some(running);
    }

    async fn on_loaded(&mut self, Loaded { attempt, result }: Loaded) {
        let Some(running) = self.current.as_mut().filter(|running| running.attempt.id == attempt) else { return };
        match result {
            Ok(()) => {
                if self.participant.restored(attempt) {
                    self.start();
                }
            }
            Err(error) => {
                let (batch, message) = (running.attempt.plan.batch, error.to_string());
                for task in running.attempt.clone().mine() {
                    running.ended(task.id);
                    self.outbox.task_failed(attempt, batch, task.id, error.kind(), &message, None).await;
                }
            }
        }
    }

    /// Reports which tasks run.
    async fn beat(&self) {
        if let Some(running) = &self.current {
            running.tell(&self.outbox).await;
        }
    }

    fn start(&mut self) {
        let Some(Running { attempt, cancel, .. }) = &self.current else { return };
        let (attempt, cancel) = (attempt.clone(), cancel.clone());
        self.compiled.clock.set_ms(attempt.plan.timestamp_ms);
        let (streams, memory) = (attempt.streams(&self.compiled.dataflow), self.state.waiting());
        let inboxes = self.shared.exchange.open(self.query, attempt.id, streams, &memory);
        let context = TaskContext {
            shared: self.shared.clone(),
            query: self.query,
            run: self.outbox.run(),
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
            snapshots: self.snapshots.clone(),
            cancel,
            steps: Steps::default(),
        };
        for plan in attempt.mine() {
            let (mut context, plan, finished) = (context.clone(), plan.clone(), self.finished.clone());
            context.steps = self.current.as_ref().map(|running| running.steps(plan.id)).unwrap_or_default();
            let (id, batch, task) = (attempt.id, attempt.plan.batch, plan.id);
            let span = tracing::debug_span!("task", %batch, attempt = %id, stage = %plan.stage, %task);
            tokio::spawn(
                async move {
                    let ran = tokio::spawn(task::run(context, plan).in_current_span()).await;
                    let result = ran.unwrap_or_else(|error| Err(TaskError::panicked(task, error)));
                    // Fails if the worker ended with its session: the result is not needed then.
                    let _ = finished.send(Finished { attempt: id, batch, task, result }).await;
                }
                .instrument(span),
            );
        }
    }

    async fn on_finished(&mut self, finished: Finished) {
        let Finished { attempt, batch, task, result } = finished;
        if self.participant.current() != Some(attempt) {
            return;
        }
        if let Some(running) = &mut self.current {
            running.ended(task);
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
                let message = error.to_string();
                self.outbox.task_failed(attempt, batch, task, error.kind(), &message, error.unreachable()).await;
            }
        }
    }
}

/// Drops a large value on a blocking thread, since freeing it takes a while.
fn drop_elsewhere(what: impl Send + 'static) {
    tokio::task::spawn_blocking(move || drop(what));
}
