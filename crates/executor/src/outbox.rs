//! Reports of an executor to its driver about one query.
//!
//! Owns: the wire form of reports. Does not own: the stream. Sending waits while the driver is slow, and does nothing
//! once the session is over: the driver has then counted this executor as gone.

use highwater_connector_api::source::PartitionAvailability;
use highwater_proto::convert;
use highwater_proto::v1::{self, StreamTasksRequest, stream_tasks_request::Message};
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{AttemptId, BatchId, ExecutorId, QueryId, RunId, SourceId, TaskId};
use highwater_protocol::offsets::TopicPartition;
use highwater_protocol::plan::WriterPlan;
use highwater_protocol::query::PublishOutcome;
use highwater_protocol::report::TaskReport;
use tokio::sync::mpsc;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    query: QueryId,
    run: RunId,
    stream: mpsc::Sender<StreamTasksRequest>,
}

impl Outbox {
    pub fn run(&self) -> RunId {
        self.run
    }

    pub fn new(query: QueryId, run: RunId, stream: mpsc::Sender<StreamTasksRequest>) -> Self {
        Self { query, run, stream }
    }

    async fn send(&self, message: Message) {
        // Fails only if the session is over, and then this outbox is about to be dropped.
        let _ = self.stream.send(StreamTasksRequest { message: Some(message) }).await;
    }

    pub async fn availability(&self, source: SourceId, news: Vec<(TopicPartition, PartitionAvailability)>) {
        let partitions = news
            .into_iter()
            .map(|(tp, found)| v1::PartitionAvailability {
                source_id: source.0,
                topic: tp.topic.to_string(),
                partition: tp.partition,
                position: found.position,
                at_end: found.at_end,
                buffered_bytes: found.buffered_bytes as u64,
                marks: found
                    .marks
                    .into_iter()
                    .map(|mark| v1::WatermarkMark { position: mark.position, watermark_ms: mark.watermark_ms })
                    .collect(),
            })
            .collect();
        let (query_id, run_id) = (self.query.to_string(), self.run.to_string());
        self.send(Message::Availability(v1::Availability { query_id, run_id, partitions })).await;
    }

    /// `uploaded` says which state deltas were sent ahead of the report.
    pub async fn task_done(&self, attempt: AttemptId, batch: BatchId, mut report: TaskReport, uploaded: &[bool]) {
        let task = report.task;
        let deltas = report.state.iter_mut().enumerate();
        let state_deltas = deltas
            .map(|(index, delta)| match uploaded.get(index) {
                Some(true) => bytes::Bytes::new(),
                _ => std::mem::take(&mut delta.bytes).into(),
            })
            .collect();
        match convert::report_to_bytes(&report) {
            Ok(bytes) => {
                let attempt = Some(convert::attempt_to_proto(attempt, batch));
                let (query_id, run_id) = (self.query.to_string(), self.run.to_string());
                let done = v1::TaskDone { query_id, attempt, report: bytes.into(), state_deltas, run_id };
                self.send(Message::TaskDone(done)).await;
            }
            Err(status) => self.task_failed(attempt, batch, task, ErrorKind::Fatal, status.message(), None).await,
        }
    }

    /// `unreachable`: the executor that could not be reached; `None` if the failure has another cause.
    pub async fn task_failed(
        &self,
        attempt: AttemptId,
        batch: BatchId,
        task: TaskId,
        kind: ErrorKind,
        message: &str,
        unreachable: Option<ExecutorId>,
    ) {
        self.send(Message::TaskFailed(v1::TaskFailed {
            query_id: self.query.to_string(),
            attempt: Some(convert::attempt_to_proto(attempt, batch)),
            task_id: task.0,
            kind: convert::trouble_kind(kind).into(),
            message: message.to_string(),
            run_id: self.run.to_string(),
            unreachable_executor_id: unreachable.map(|peer| peer.to_string()),
        }))
        .await;
    }

    /// Reports that the query is still being opened here.
    pub async fn opening(&self) {
        let (query_id, run_id) = (self.query.to_string(), self.run.to_string());
        self.send(Message::Heartbeat(v1::TaskHeartbeat { query_id, run_id, attempt: None, tasks: Vec::new() })).await;
    }

    /// Reports the tasks of an attempt that still run, each with the number of steps it has made.
    pub async fn heartbeat(&self, attempt: AttemptId, batch: BatchId, tasks: impl Iterator<Item = (TaskId, u64)>) {
        self.send(Message::Heartbeat(v1::TaskHeartbeat {
            query_id: self.query.to_string(),
            run_id: self.run.to_string(),
            attempt: Some(convert::attempt_to_proto(attempt, batch)),
            tasks: tasks.map(|(task, steps)| v1::TaskSteps { task_id: task.0, steps }).collect(),
        }))
        .await;
    }

    pub async fn published(&self, attempt: AttemptId, batch: BatchId, writer: WriterPlan, outcome: PublishOutcome) {
        let (outcome, kind, message) = match outcome {
            PublishOutcome::Published => (v1::PublishOutcome::Published, None, String::new()),
            PublishOutcome::Unknown => (v1::PublishOutcome::Unknown, None, String::new()),
            PublishOutcome::Failed { kind, message } => (v1::PublishOutcome::Failed, Some(kind), message),
        };
        self.send(Message::Published(v1::WriterPublished {
            query_id: self.query.to_string(),
            attempt: Some(convert::attempt_to_proto(attempt, batch)),
            sink_id: writer.sink.0,
            writer_id: writer.writer.0,
            outcome: outcome.into(),
            message,
            run_id: self.run.to_string(),
            kind: kind.map(convert::trouble_kind).unwrap_or_default().into(),
        }))
        .await;
    }

    /// An empty message means that the trouble is over.
    pub async fn trouble(&self, kind: ErrorKind, message: String) {
        self.send_trouble(kind, message, None, None).await;
    }

    pub async fn out_of_range(&self, range: v1::OffsetOutOfRange) {
        let message = format!("offset {} out of range for {}-{}", range.position, range.topic, range.partition);
        self.send_trouble(ErrorKind::Fix, message, Some(range), None).await;
    }

    /// Reports that a source's topic has another id than the one assigned.
    pub async fn topic_changed(&self, source: SourceId, found: String) {
        let changed = v1::TopicChanged { source_id: source.0, found_id: found };
        self.send_trouble(ErrorKind::Retry, "a topic was recreated".into(), None, Some(changed)).await;
    }

    async fn send_trouble(
        &self,
        kind: ErrorKind,
        message: String,
        out_of_range: Option<v1::OffsetOutOfRange>,
        topic_changed: Option<v1::TopicChanged>,
    ) {
        self.send(Message::Trouble(v1::QueryTrouble {
            query_id: self.query.to_string(),
            run_id: self.run.to_string(),
            kind: convert::trouble_kind(kind).into(),
            message,
            out_of_range,
            topic_changed,
        }))
        .await;
    }
}
