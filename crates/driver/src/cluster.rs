//! The members of the cluster: registered executors, their leases, and how to send to each.
//!
//! Owns: executor sessions and leases. Does not own: queries (they watch [`Cluster::watch`]).
//! Invariant: an executor is a member only while its task stream is open and its lease has not lapsed.

use highwater_proto::v1::{StreamTasksResponse, stream_tasks_response::Message};
use highwater_protocol::ids::{Epoch, ExecutorId};
use highwater_protocol::query::ExecutorInfo;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Number of commands that may wait for one executor. A full queue means that it does not read: its session ends.
const COMMAND_QUEUE: usize = 16_384;

type CommandSender = mpsc::Sender<Result<StreamTasksResponse, tonic::Status>>;
pub(crate) type CommandReceiver = mpsc::Receiver<Result<StreamTasksResponse, tonic::Status>>;

/// Cheap to clone; all clones share one cluster.
#[derive(Clone)]
pub struct Cluster {
    epoch: Epoch,
    lease: Duration,
    members: Arc<Mutex<BTreeMap<ExecutorId, Member>>>,
    live: watch::Sender<Vec<ExecutorInfo>>,
    next_session: Arc<AtomicU64>,
}

struct Member {
    info: ExecutorInfo,
    deadline: Instant,
    /// Set once the task stream is open.
    session: Option<Session>,
}

struct Session {
    id: u64,
    commands: CommandSender,
}

impl Cluster {
    pub fn new(epoch: Epoch, lease: Duration) -> Self {
        Self { epoch, lease, members: Arc::default(), live: watch::channel(Vec::new()).0, next_session: Arc::default() }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Watches the live executors, in order of id. Changes are seen at once.
    /// Admits an executor. It is not live until its task stream opens.
    pub fn watch(&self) -> watch::Receiver<Vec<ExecutorInfo>> {
        self.live.subscribe()
    }

    /// Admits an executor. It is not live before its task stream opens.
    pub fn register(&self, info: ExecutorInfo) {
        tracing::info!(executor = %info.id, address = %info.address, slots = info.slots, "executor registered");
        let deadline = Instant::now() + self.lease;
        self.members.lock().insert(info.id, Member { info, deadline, session: None });
        self.announce();
    }

    /// Renews a lease. Returns false if the executor is unknown and must register again.
    pub fn renew(&self, id: ExecutorId) -> bool {
        let mut members = self.members.lock();
        let Some(member) = members.get_mut(&id) else { return false };
        member.deadline = Instant::now() + self.lease;
        true
    }

    /// Opens the session of a registered executor. Returns its number, which closes it, and its command queue; `None`
    /// if the executor is not registered. True if the session is the executor's newest and its lease has not lapsed.
    pub(crate) fn open_session(&self, id: ExecutorId) -> Option<(u64, CommandReceiver)> {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let number = {
            let mut members = self.members.lock();
            let member = members.get_mut(&id)?;
            let number = self.next_session.fetch_add(1, Ordering::Relaxed);
            member.info.session = number;
            member.session = Some(Session { id: number, commands });
            member.deadline = Instant::now() + self.lease;
            number
        };
        self.announce();
        Some((number, receiver))
    }

    /// The session is the executor's newest, and its lease runs.
    pub(crate) fn is_current(&self, id: ExecutorId, number: u64) -> bool {
        let members = self.members.lock();
        members.get(&id).and_then(|member| member.session.as_ref()).is_some_and(|session| session.id == number)
    }

    /// Ends a session: from now on the executor is gone for every query.
    pub(crate) fn close_session(&self, id: ExecutorId, number: u64) {
        {
            let mut members = self.members.lock();
            let current = members.get(&id).and_then(|member| member.session.as_ref()).map(|session| session.id);
            if current != Some(number) {
                return;
            }
            members.remove(&id);
        }
        tracing::warn!(executor = %id, "executor lost: its task stream ended");
        self.announce();
    }

    /// Sends one command. Drops an executor that is gone or does not read; its queries learn of that from
    /// [`Cluster::watch`].
    pub fn send(&self, id: ExecutorId, message: Message) {
        let command = StreamTasksResponse { epoch: self.epoch.0, message: Some(message) };
        let failed = {
            let members = self.members.lock();
            match members.get(&id).and_then(|member| member.session.as_ref()) {
                Some(session) => session.commands.try_send(Ok(command)).is_err().then_some(session.id),
                None => None,
            }
        };
        if let Some(number) = failed {
            self.close_session(id, number);
        }
    }

    /// Drops members whose lease has lapsed, until `stop` is cancelled.
    pub async fn expire_leases(self, stop: tokio_util::sync::CancellationToken) {
        let mut ticks = tokio::time::interval((self.lease / 10).max(Duration::from_millis(20)));
        loop {
            tokio::select! {
                _ = ticks.tick() => self.drop_expired(),
                () = stop.cancelled() => return,
            }
        }
    }

    fn drop_expired(&self) {
        let now = Instant::now();
        let expired: Vec<ExecutorId> = {
            let mut members = self.members.lock();
            let expired: Vec<_> = members.iter().filter(|(_, m)| m.deadline < now).map(|(id, _)| *id).collect();
            for id in &expired {
                members.remove(id);
            }
            expired
        };
        for id in &expired {
            tracing::warn!(executor = %id, lease_ms = self.lease.as_millis(), "executor lost: its lease lapsed");
        }
        if !expired.is_empty() {
            self.announce();
        }
    }

    fn announce(&self) {
        let members = self.members.lock();
        let live: Vec<ExecutorInfo> =
            members.values().filter(|member| member.session.is_some()).map(|member| member.info.clone()).collect();
        metrics::gauge!("highwater_executors").set(live.len() as f64);
        self.live.send_if_modified(|current| {
            let changed = *current != live;
            if changed {
                *current = live;
            }
            changed
        });
    }
}
