//! How a session starts, commands and ends the worker of a query.
//!
//! Owns: the worker's task, which begins only after the worker before it has ended. Does not own: its work (`worker`).

use crate::Shared;
use crate::channels::DriverClient;
use crate::outbox::Outbox;
use crate::worker::{HEARTBEAT, Worker};
use highwater_proto::v1;
use highwater_proto::v1::stream_tasks_response::Message;
use highwater_protocol::ids::{QueryId, RunId};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How long a worker may take to close its consumers and transactions.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// The session's handle to a worker.
pub struct WorkerHandle {
    run: RunId,
    commands: mpsc::UnboundedSender<Message>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl WorkerHandle {
    /// The run that the worker belongs to.
    pub fn run(&self) -> RunId {
        self.run
    }

    pub fn command(&self, message: Message) {
        // Fails if the worker could not open its query; it has reported that already.
        let _ = self.commands.send(message);
    }

    /// Stops the worker's tasks, aborts its transactions and closes its consumers. A worker that hangs is abandoned:
    /// its writers are fenced by the executor that takes them over.
    pub async fn end(self) {
        self.stop.cancel();
        match tokio::time::timeout(END_PATIENCE, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "a query's worker panicked"),
            Err(_) => tracing::error!("a query's worker does not end; it is abandoned"),
        }
    }
}

/// Starts a worker. It opens the query by itself after the worker before it has ended.
pub fn start(
    shared: Shared,
    query: QueryId,
    epoch: u64,
    open: v1::OpenQuery,
    outbox: Outbox,
    client: DriverClient,
    before: Option<WorkerHandle>,
) -> WorkerHandle {
    let (commands, queue) = mpsc::unbounded_channel();
    let run = outbox.run();
    let stop = CancellationToken::new();
    let span = tracing::info_span!("query", name = %open.name, %query);
    let stopped = stop.clone();
    let task = tokio::spawn(
        async move {
            let opening = async {
                if let Some(before) = before {
                    before.end().await;
                }
                Worker::open(shared, query, epoch, &open, outbox.clone(), client).await
            };
            tokio::pin!(opening);
            let mut beats = tokio::time::interval(HEARTBEAT);
            let opened = loop {
                tokio::select! {
                    opened = &mut opening => break opened,
                    _ = beats.tick() => outbox.opening().await,
                }
            };
            match opened {
                Ok(worker) => worker.run(queue, stopped).await,
                Err(error) => outbox.trouble(error.kind(), error.to_string()).await,
            }
        }
        .instrument(span),
    );
    WorkerHandle { run, commands, stop, task }
}
