//! One executor's membership: registers, renews the lease, obeys the task stream, and does so again after every loss.
//!
//! Owns: the session, and the workers of its queries. Does not own: what a worker does with a command.
//! Invariants: all workers end with the session, because the driver then counts this executor as gone; commands of an
//! epoch below the highest ever seen are refused, whoever sends them.

use crate::Shared;
use crate::channels::DriverClient;
use crate::error::ExecutorError;
use crate::handle::{self, WorkerHandle};
use crate::outbox::Outbox;
use highwater_proto::v1::cluster_service_client::ClusterServiceClient;
use highwater_proto::v1::stream_tasks_response::Message;
use highwater_proto::v1::{self, StreamTasksRequest, stream_tasks_request};
use highwater_proto::{MAX_MESSAGE_BYTES, convert, version};
use highwater_protocol::ids::{QueryId, RunId};
use highwater_security::credentials::Credentials;
use highwater_security::dial::{self, Dialer};
use highwater_security::peers::Peers;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

/// Number of reports that may wait for the driver.
const REPORT_QUEUE: usize = 1024;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long to wait for the driver to acknowledge that this executor leaves.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// How this executor reaches the driver, and how it can be reached.
pub struct Way {
    pub driver: Endpoint,
    pub dialer: Dialer,
    /// Credentials shown to the driver.
    pub credentials: Credentials,
    /// The secret shared by the executors, which the driver sends at registration.
    pub peers: Peers,
    /// HOST:PORT for other executors.
    pub address: String,
    /// True if the exchange service speaks TLS.
    pub tls: bool,
    /// Where the exchange service listens if other machines can reach it, else `None`.
    pub exposed: Option<SocketAddr>,
}

pub struct Session {
    shared: Shared,
    way: Way,
    /// Highest epoch whose commands were obeyed.
    epoch: u64,
    workers: BTreeMap<QueryId, WorkerHandle>,
}

/// Why a session ended.
enum Loss {
    /// This process was told to end.
    Left,
    /// The driver refuses this executor for good.
    Refused(String),
    /// The connection was lost for this reason; the session is retried.
    Lost(String),
    /// The connection broke; the session is retried. The reason may be found in the connection.
    Broken(Status),
}

impl From<Status> for Loss {
    fn from(status: Status) -> Self {
        match status.code() {
            _ if version::is_refusal(&status) => Loss::Refused(status.message().into()),
            // Tokens and certificates may be corrected while this executor waits.
            Code::Unauthenticated | Code::PermissionDenied => {
                let reason = dial::explain(&status).unwrap_or_else(|| status.message().to_string());
                Loss::Lost(format!("the driver refuses this executor: {reason}"))
            }
            _ => Loss::Broken(status),
        }
    }
}

impl Session {
    pub fn new(shared: Shared, way: Way) -> Self {
        Self { shared, way, epoch: 0, workers: BTreeMap::new() }
    }

    /// Runs one session after the other, until `stop` is cancelled or the driver refuses this executor for good.
    pub async fn run_until(&mut self, stop: &CancellationToken) -> Result<(), ExecutorError> {
        let mut pause = PAUSE_MIN;
        let mut logged = String::new();
        loop {
            let began = Instant::now();
            let loss = self.run_once(stop).await;
            self.close().await;
            let message = match loss {
                Loss::Left => return Ok(()),
                Loss::Refused(message) => return Err(ExecutorError::Refused(message)),
                Loss::Lost(message) => message,
                Loss::Broken(status) => {
                    let explained = self.way.dialer.explain(self.way.driver.uri(), &status).await;
                    explained.unwrap_or_else(|| status.message().to_string())
                }
            };
            // The same message is not logged on every attempt.
            if logged != message {
                tracing::warn!("no session with the driver: {message}; trying again until there is one");
            }
            logged = message;
            let lasted = began.elapsed() > Duration::from_secs(2);
            if lasted {
                logged.clear();
            }
            pause = if lasted { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Ends all workers, and waits until they have closed their consumers and transactions.
    pub async fn close(&mut self) {
        let workers = std::mem::take(&mut self.workers).into_values();
        futures::future::join_all(workers.map(WorkerHandle::end)).await;
        self.shared.exchange.clear();
        self.shared.channels.clear();
        self.way.peers.leave();
    }

    async fn run_once(&mut self, stop: &CancellationToken) -> Loss {
        let channel = tokio::select! {
            channel = self.way.driver.connect_with_connector(self.way.dialer.clone()) => match channel {
                Ok(channel) => channel,
                Err(error) => return Loss::Lost(format!("{} ({})", dial::reason(&error), self.way.driver.uri())),
            },
            () = stop.cancelled() => return Loss::Left,
        };
        let client = ClusterServiceClient::new(self.way.credentials.clone().on(channel))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        match self.join(client, stop).await {
            Ok(()) => Loss::Lost("the driver ended the task stream".into()),
            Err(loss) => loss,
        }
    }

    async fn join(&mut self, mut client: DriverClient, stop: &CancellationToken) -> Result<(), Loss> {
        let request = v1::RegisterExecutorRequest {
            executor_id: self.shared.me.to_string(),
            address: self.way.address.clone(),
            slots: self.shared.slot_count as u32,
            version: version::VERSION.into(),
            protocol: version::PROTOCOL,
            tls: self.way.tls,
        };
        let joined = client.register_executor(request).await?.into_inner();
        if joined.epoch < self.epoch {
            return Err(Loss::Lost(format!("its epoch {} is outdated: epoch {} was seen", joined.epoch, self.epoch)));
        }
        self.epoch = joined.epoch;
        self.meet_peers(&joined)?;
        let (reports, waiting) = mpsc::channel(REPORT_QUEUE);
        let hello = v1::Hello { executor_id: self.shared.me.to_string(), epoch: self.epoch };
        let hello = StreamTasksRequest { message: Some(stream_tasks_request::Message::Hello(hello)) };
        reports.send(hello).await.map_err(|_| Loss::Lost("internal: no stream".into()))?;
        let mut commands = client.stream_tasks(ReceiverStream::new(waiting)).await?.into_inner();
        tracing::info!(epoch = self.epoch, "joined the driver");
        let lease = Duration::from_millis(joined.lease_ms.max(1));
        let renewals = renew(client.clone(), self.shared.me.to_string(), self.epoch, lease);
        tokio::pin!(renewals);
        loop {
            let command = tokio::select! {
                command = commands.message() => command?,
                loss = &mut renewals => return Err(loss),
                () = stop.cancelled() => {
                    leave(&reports, &mut commands).await;
                    return Err(Loss::Left);
                }
            };
            let Some(command) = command else { return Ok(()) };
            if command.epoch < self.epoch {
                return Err(Loss::Lost(format!("a command of the outdated epoch {}", command.epoch)));
            }
            let Some(message) = command.message else { continue };
            self.obey(message, &client, &reports)?;
        }
    }

    /// Takes over the secret that lets only other executors of this driver in.
    fn meet_peers(&self, joined: &v1::RegisterExecutorResponse) -> Result<(), Loss> {
        if let (Some(address), false) = (self.way.exposed, joined.secured) {
            return Err(Loss::Refused(format!(
                "--listen {address} can be reached from other machines, and the driver tells the secret of the exchange to \
                 anybody who asks: start the driver with --tokens or --tls-client-ca, or let this executor listen on \
                 127.0.0.1"
            )));
        }
        self.way.peers.join(&joined.exchange_secret, joined.secured).map_err(Loss::Refused)
    }

    /// Hands a command to its query's worker, without waiting, since the next one may be about another query.
    fn obey(
        &mut self,
        message: Message,
        client: &DriverClient,
        reports: &mpsc::Sender<StreamTasksRequest>,
    ) -> Result<(), Loss> {
        let query = convert::query_id(query_of(&message))?;
        match message {
            Message::OpenQuery(open) => {
                let before = self.workers.remove(&query);
                let run: RunId = convert::run_id(&open.run_id)?;
                let outbox = Outbox::new(query, run, reports.clone());
                let handle =
                    handle::start(self.shared.clone(), query, self.epoch, open, outbox, client.clone(), before);
                self.workers.insert(query, handle);
            }
            message => {
                let run = convert::run_id(run_of(&message))?;
                let open = self.workers.get(&query).filter(|worker| worker.run() == run);
                match (open, message) {
                    (None, _) => tracing::debug!(%query, %run, "ignoring a command for a run that is not open here"),
                    (Some(_), Message::CloseQuery(_)) => {
                        // Aborting transactions and closing consumers must not delay the stream.
                        if let Some(worker) = self.workers.remove(&query) {
                            tokio::spawn(worker.end());
                        }
                    }
                    (Some(worker), message) => worker.command(message),
                }
            }
        }
        Ok(())
    }
}

fn query_of(message: &Message) -> &str {
    match message {
        Message::OpenQuery(m) => &m.query_id,
        Message::CloseQuery(m) => &m.query_id,
        Message::AssignPartitions(m) => &m.query_id,
        Message::RunTasks(m) => &m.query_id,
        Message::AbortAttempt(m) => &m.query_id,
        Message::PublishWriters(m) => &m.query_id,
        Message::BatchCommitted(m) => &m.query_id,
    }
}

fn run_of(message: &Message) -> &str {
    match message {
        Message::OpenQuery(m) => &m.run_id,
        Message::CloseQuery(m) => &m.run_id,
        Message::AssignPartitions(m) => &m.run_id,
        Message::RunTasks(m) => &m.run_id,
        Message::AbortAttempt(m) => &m.run_id,
        Message::PublishWriters(m) => &m.run_id,
        Message::BatchCommitted(m) => &m.run_id,
    }
}

/// Tells the driver that this executor ends because it was told to, and waits for the driver to close the stream.
async fn leave(reports: &mpsc::Sender<StreamTasksRequest>, commands: &mut Streaming<v1::StreamTasksResponse>) {
    let goodbye = StreamTasksRequest { message: Some(stream_tasks_request::Message::Goodbye(v1::Goodbye {})) };
    let told = async {
        if reports.send(goodbye).await.is_ok() {
            while let Ok(Some(_)) = commands.message().await {}
        }
    };
    if tokio::time::timeout(LEAVE_PATIENCE, told).await.is_err() {
        tracing::warn!("the driver did not acknowledge that this executor leaves");
    }
}

/// Renews the lease three times within its length. Returns when it is lost.
async fn renew(mut client: DriverClient, me: String, epoch: u64, lease: Duration) -> Loss {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(lease / 3).await;
        let request = v1::RenewLeaseRequest { executor_id: me.clone(), epoch };
        match tokio::time::timeout(lease / 3, client.renew_lease(request)).await {
            Ok(Ok(_)) => renewed = Instant::now(),
            Ok(Err(status)) if is_final(status.code()) => return status.into(),
            _ if renewed.elapsed() > lease => return Loss::Lost("the lease could not be renewed".into()),
            _ => {}
        }
    }
}

/// True if the driver has answered and would answer the same again.
fn is_final(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::FailedPrecondition | Code::Unauthenticated | Code::PermissionDenied)
}
