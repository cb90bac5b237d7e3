//! gRPC `ClusterService`: registration, leases, task streams, state transfer.
//!
//! Owns: the wire side of membership and tasks. Does not own: members (`Cluster`) or queries (`Queries`).

use crate::cluster::Cluster;
use crate::queries::Queries;
use crate::run_event::RunnerEvent;
use highwater_proto::v1::cluster_service_server::ClusterService;
use highwater_proto::v1::stream_tasks_request::Message;
use highwater_proto::v1::{self, StreamTasksRequest};
use highwater_proto::{MAX_DELTA_BYTES, convert, version};
use highwater_protocol::align::Mark;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{BatchId, ExecutorId, ShardId, SourceId, TaskId};
use highwater_protocol::offsets::{SourcePartition, TopicPartition};
use highwater_protocol::plan::WriterPlan;
use highwater_protocol::query::{Event, ExecutorInfo, OutOfRange, PublishOutcome};
use highwater_security::credentials::Token;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// State is transferred in messages of about this size, bytes.
const STATE_CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Number of executors for which state is read from the checkpoint at the same time.
const STATE_READS: usize = 4;

pub(crate) struct ClusterApi {
    cluster: Cluster,
    queries: Queries,
    state_reads: Arc<Semaphore>,
    /// Secret that executors are told and show to each other. New with every start, like the epoch.
    exchange_secret: Token,
    /// True if executors must authenticate.
    secured: bool,
}

#[tonic::async_trait]
impl ClusterService for ClusterApi {
    async fn register_executor(
        &self,
        request: Request<v1::RegisterExecutorRequest>,
    ) -> Result<Response<v1::RegisterExecutorResponse>, Status> {
        let request = request.into_inner();
        version::check_executor(request.protocol, &request.version)?;
        let id = convert::executor_id(&request.executor_id)?;
        let address = if request.tls { format!("https://{}", request.address) } else { request.address };
        self.cluster.register(ExecutorInfo { id, address, slots: request.slots, session: 0 });
        Ok(Response::new(v1::RegisterExecutorResponse {
            epoch: self.cluster.epoch().0,
            lease_ms: self.cluster.lease().as_millis() as u64,
            exchange_secret: self.exchange_secret.reveal().to_string(),
            secured: self.secured,
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let request = request.into_inner();
        self.check_epoch(request.epoch)?;
        if !self.cluster.renew(convert::executor_id(&request.executor_id)?) {
            return Err(Status::not_found("not a member: the lease lapsed; register again"));
        }
        Ok(Response::new(v1::RenewLeaseResponse { lease_ms: self.cluster.lease().as_millis() as u64 }))
    }

    type StreamTasksStream = ReceiverStream<Result<v1::StreamTasksResponse, Status>>;

    async fn stream_tasks(
        &self,
        request: Request<Streaming<StreamTasksRequest>>,
    ) -> Result<Response<Self::StreamTasksStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.next().await.ok_or_else(|| Status::invalid_argument("the stream is empty"))??;
        let Some(Message::Hello(hello)) = first.message else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        self.check_epoch(hello.epoch)?;
        let executor = convert::executor_id(&hello.executor_id)?;
        let (session, commands) = self
            .cluster
            .open_session(executor)
            .ok_or_else(|| Status::not_found("not a member: register before opening the task stream"))?;
        let (cluster, queries) = (self.cluster.clone(), self.queries.clone());
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                if !cluster.is_current(executor, session) {
                    break; // The executor has a newer session or has left: the messages of this session are stale.
                }
                match route(&queries, executor, message) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(status) => tracing::warn!(%executor, %status, "refused a message from an executor"),
                }
            }
            cluster.close_session(executor, session);
        });
        Ok(Response::new(ReceiverStream::new(commands)))
    }

    type FetchStateStream = ReceiverStream<Result<v1::FetchStateResponse, Status>>;

    async fn fetch_state(
        &self,
        request: Request<v1::FetchStateRequest>,
    ) -> Result<Response<Self::FetchStateStream>, Status> {
        let request = request.into_inner();
        self.check_epoch(request.epoch)?;
        let query = convert::query_id(&request.query_id)?;
        let shards: BTreeSet<ShardId> = request.shards.iter().map(|shard| ShardId(*shard as u16)).collect();
        let store = self.queries.store();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let turn = self.turn().await?;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let answer = match store.read_state(query, BatchId(request.batch_id), &shards) {
                Ok(deltas) => deltas,
                Err(error) => {
                    let _ = sender.blocking_send(Err(Status::data_loss(error.to_string())));
                    return;
                }
            };
            for (operator, delta) in answer {
                let parts = match highwater_protocol::state_delta::split(&delta, STATE_CHUNK_BYTES) {
                    Ok(parts) => parts,
                    Err(error) => {
                        let _ = sender.blocking_send(Err(Status::data_loss(error.to_string())));
                        return;
                    }
                };
                for part in parts {
                    let message = v1::FetchStateResponse { operator_id: operator.0, delta: part.into() };
                    if sender.blocking_send(Ok(message)).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type FetchFileStream = ReceiverStream<Result<v1::FetchFileResponse, Status>>;

    async fn fetch_file(
        &self,
        request: Request<v1::FetchFileRequest>,
    ) -> Result<Response<Self::FetchFileStream>, Status> {
        let request = request.into_inner();
        self.check_epoch(request.epoch)?;
        let query = convert::query_id(&request.query_id)?;
        let content = convert::file_content(&request.digest, request.size_bytes)?;
        let (store, turn) = (self.queries.store(), self.turn().await?);
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let bytes = match store.read_file(query, content) {
                Ok(bytes) => bytes::Bytes::from(bytes),
                Err(error) => {
                    let _ = sender.blocking_send(Err(Status::data_loss(error.to_string())));
                    return;
                }
            };
            for start in (0..bytes.len()).step_by(STATE_CHUNK_BYTES) {
                let chunk = bytes.slice(start..(start + STATE_CHUNK_BYTES).min(bytes.len()));
                if sender.blocking_send(Ok(v1::FetchFileResponse { chunk })).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn put_state_delta(
        &self,
        request: Request<Streaming<v1::PutStateDeltaRequest>>,
    ) -> Result<Response<v1::PutStateDeltaResponse>, Status> {
        let mut incoming = request.into_inner();
        let mut head: Option<v1::PutStateDeltaRequest> = None;
        let mut bytes = Vec::new();
        while let Some(part) = incoming.next().await {
            let part = part?;
            self.check_epoch(convert::attempt(part.attempt)?.0.epoch.0)?;
            if bytes.len() + part.chunk.len() > MAX_DELTA_BYTES {
                let text = format!("a state delta is larger than {MAX_DELTA_BYTES} bytes");
                return Err(Status::resource_exhausted(text));
            }
            bytes.extend_from_slice(&part.chunk);
            head.get_or_insert(part);
        }
        let head = head.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let query = convert::query_id(&head.query_id)?;
        let run = convert::run_id(&head.run_id)?;
        let (attempt, _) = convert::attempt(head.attempt)?;
        let event = RunnerEvent::StateDelta { attempt, task: TaskId(head.task_id), index: head.index, bytes };
        if !self.queries.offer(query, run, event) {
            return Err(Status::resource_exhausted("too many messages wait for the query; the attempt is retried"));
        }
        Ok(Response::new(v1::PutStateDeltaResponse {}))
    }
}

impl ClusterApi {
    pub fn new(cluster: Cluster, queries: Queries, exchange_secret: Token, secured: bool) -> Self {
        let state_reads = Arc::new(Semaphore::new(STATE_READS));
        Self { cluster, queries, state_reads, exchange_secret, secured }
    }

    /// Waits for a permit to read from the checkpoint. What is read stays in memory until it is sent, so the number of
    /// concurrent reads is limited.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        let turn = self.state_reads.clone().acquire_owned().await;
        turn.map_err(|_| Status::unavailable("the driver is shutting down"))
    }

    fn check_epoch(&self, epoch: u64) -> Result<(), Status> {
        let mine = self.cluster.epoch().0;
        if epoch == mine {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("epoch {epoch} is not the driver's epoch {mine}; register again")))
    }
}

/// Hands one message of an executor to the run it is about, without waiting, since the next one may be about another
/// query. Returns false if the session must end: the executor leaves, or too many messages wait for that run.
fn route(queries: &Queries, executor: ExecutorId, request: StreamTasksRequest) -> Result<bool, Status> {
    let Some(message) = request.message else { return Ok(true) };
    let (query, run, event) = match message {
        Message::Hello(_) => return Err(Status::invalid_argument("Hello was sent twice")),
        Message::Availability(message) => {
            let partitions = message
                .partitions
                .iter()
                .map(|p| (source_partition(p.source_id, &p.topic, p.partition), p.position, p.at_end))
                .collect();
            let marks = message
                .partitions
                .iter()
                .filter(|p| !p.marks.is_empty())
                .map(|p| {
                    let mark =
                        |mark: &v1::WatermarkMark| Mark { position: mark.position, watermark_ms: mark.watermark_ms };
                    (source_partition(p.source_id, &p.topic, p.partition), p.marks.iter().map(mark).collect())
                })
                .collect();
            (message.query_id, message.run_id, Event::Available { executor, partitions, marks })
        }
        Message::TaskDone(message) => {
            let (attempt, _) = convert::attempt(message.attempt)?;
            let mut report = convert::report_from_bytes(&message.report)?;
            for (delta, bytes) in report.state.iter_mut().zip(message.state_deltas) {
                delta.bytes = bytes.to_vec();
            }
            (message.query_id, message.run_id, Event::TaskDone { attempt, executor, report: Box::new(report) })
        }
        Message::TaskFailed(message) => {
            let (attempt, _) = convert::attempt(message.attempt)?;
            let kind = convert::error_kind(message.kind());
            let task = TaskId(message.task_id);
            let unreachable = message.unreachable_executor_id.as_deref().map(convert::executor_id).transpose()?;
            let event = Event::TaskFailed { attempt, task, kind, message: message.message, unreachable };
            (message.query_id, message.run_id, event)
        }
        Message::Heartbeat(message) => {
            let attempt = message.attempt.map(|attempt| convert::attempt(Some(attempt))).transpose()?;
            let attempt = attempt.map(|(attempt, _)| attempt);
            let tasks = message.tasks.iter().map(|task| (TaskId(task.task_id), task.steps)).collect();
            (message.query_id, message.run_id, Event::Heartbeat { executor, attempt, tasks })
        }
        Message::Goodbye(_) => {
            queries.left(executor);
            return Ok(false);
        }
        Message::Published(message) => {
            let (attempt, _) = convert::attempt(message.attempt)?;
            let outcome = match message.outcome() {
                v1::PublishOutcome::Published => PublishOutcome::Published,
                v1::PublishOutcome::Unknown | v1::PublishOutcome::Unspecified => PublishOutcome::Unknown,
                v1::PublishOutcome::Failed => {
                    PublishOutcome::Failed { kind: convert::error_kind(message.kind()), message: message.message }
                }
            };
            let writer = WriterPlan {
                sink: highwater_protocol::ids::SinkId(message.sink_id),
                writer: highwater_protocol::ids::WriterId(message.writer_id),
            };
            (message.query_id, message.run_id, Event::Published { attempt, writer, outcome })
        }
        Message::Trouble(message) => (message.query_id.clone(), message.run_id.clone(), trouble(executor, message)),
    };
    Ok(queries.offer(convert::query_id(&query)?, convert::run_id(&run)?, RunnerEvent::Machine(event)))
}

fn trouble(executor: ExecutorId, message: v1::QueryTrouble) -> Event {
    let kind: ErrorKind = convert::error_kind(message.kind());
    match (message.out_of_range, message.topic_changed) {
        (Some(range), _) => Event::OutOfRange(OutOfRange {
            partition: source_partition(range.source_id, &range.topic, range.partition),
            position: range.position,
            earliest: range.earliest,
            latest: range.latest,
            diverged: range.diverged,
        }),
        (None, Some(changed)) => Event::TopicChanged { source: SourceId(changed.source_id), found: changed.found_id },
        (None, None) => Event::Trouble { executor: Some(executor), kind, message: message.message },
    }
}

fn source_partition(source: u32, topic: &str, partition: i32) -> SourcePartition {
    SourcePartition { source: SourceId(source), tp: TopicPartition::new(topic, partition) }
}
