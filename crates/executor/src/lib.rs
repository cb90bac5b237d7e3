//! The executor: reads its partitions, runs its tasks, keeps its shards of state, holds its transactions.
//!
//! Owns: the life of the process: its exchange server, its session with the driver, and rejoining after a loss. Does
//! not own: decisions about batches (`protocol::query`) and attempts (`protocol::participant`), operators
//! (`operators`), Kafka (`connectors`). Invariant: everything that a session began ends with it; the checkpoint belongs
//! to the driver.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attempt;
mod channels;
mod compute;
mod driver_session;
mod error;
mod exchange;
mod handle;
mod loading;
mod memory;
mod outbox;
mod publish;
mod restore;
mod running;
mod scratch;
mod server;
mod snapshots;
mod sources;
mod steps;
mod stopwatch;
mod task;
mod worker;
mod writers;

pub use error::ExecutorError;

use driver_session::{Session, Way};
use exchange::Exchange;
use highwater_connector_api::access::AccessPolicy;
use highwater_protocol::ids::ExecutorId;
use highwater_security::credentials::Credentials;
use highwater_security::dial::Dialer;
use highwater_security::peers::Peers;
use highwater_security::reload::Reloading;
use highwater_security::tls::{self, Protocol};
use highwater_security::{ClientSecurity, SecurityError, exposure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Options of an executor.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// `http://HOST:PORT` or `https://HOST:PORT` of the driver.
    pub driver_url: String,
    /// Number of tasks, of all queries together, that compute at the same time.
    pub slots: usize,
    /// Address of the exchange service; port 0 picks one.
    pub listen: SocketAddr,
    /// HOST:PORT at which other executors reach it; `None`: derived from `listen`.
    pub advertise: Option<String>,
    /// How much memory the state of one query, with the rows that its joins emit at once, may take here, bytes. `None`:
    /// half of the memory of the machine or its control group.
    pub query_memory: Option<u64>,
    /// Parent of the private scratch folder; `None`: the system's temporary folder.
    pub data_dir: Option<PathBuf>,
    /// What the scripts of queries may reach on this machine.
    pub access: AccessPolicy,
    /// The CA that verifies the driver and other executors, and the credentials shown to them. With a certificate, the
    /// exchange uses TLS.
    pub security: ClientSecurity,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        Self {
            driver_url: "http://127.0.0.1:7070".into(),
            slots: std::thread::available_parallelism().map_or(1, usize::from),
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            query_memory: None,
            data_dir: None,
            access: AccessPolicy::ALL,
            security: ClientSecurity::default(),
        }
    }
}

/// What all queries of this executor share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub me: ExecutorId,
    pub slots: Arc<Semaphore>,
    pub slot_count: usize,
    /// Memory limit of each query, bytes.
    pub query_memory: u64,
    pub exchange: Exchange,
    pub channels: channels::Channels,
    pub access: Arc<AccessPolicy>,
    /// Folder for files that are removed with the process.
    pub scratch: Arc<Path>,
}

/// Runs an executor until `stop` is cancelled. Waits without limit for a driver that is away.
pub async fn run(options: ExecutorOptions, stop: CancellationToken) -> Result<(), ExecutorError> {
    let security = &options.security;
    exposure::check_executor(options.listen, &options.driver_url, security)?;
    if exposure::shows_token(&options.driver_url, security) {
        tracing::warn!("HIGHWATER_TOKEN is sent to {} in the clear; use https://", options.driver_url);
    }
    let driver = channels::driver(&options.driver_url, security.ca.is_some())?;
    let (dialer, server_tls) = encryption(security, &stop)?;
    let (peers, tls) = (Peers::default(), server_tls.is_some());
    let slot_count = options.slots.max(1);
    let me = ExecutorId(uuid::Uuid::now_v7());
    let parent = options.data_dir.unwrap_or_else(std::env::temp_dir);
    let scratch = scratch::Scratch::create(&parent, me)?;
    let shared = Shared {
        me,
        slots: Arc::new(Semaphore::new(slot_count)),
        slot_count,
        query_memory: options.query_memory.unwrap_or_else(memory::query_limit),
        exchange: Exchange::default(),
        channels: channels::Channels::new(dialer.clone(), peers.clone()),
        access: Arc::new(options.access),
        scratch: scratch.path().into(),
    };
    let server =
        server::start(options.listen, shared.exchange.clone(), peers.clone(), server_tls, stop.clone()).await?;
    let address = match options.advertise {
        Some(address) => address,
        None => channels::reachable(server.address, &options.driver_url),
    };
    tracing::info!(scratch = %scratch.path().display(), "scratch folder created");
    tracing::info!(executor = %shared.me, %address, slots = slot_count, driver = %options.driver_url, "executor ready");
    let credentials = Credentials::new(security.token.as_ref());
    let exposed = (!exposure::is_local(options.listen)).then_some(options.listen);
    let way = Way { driver, dialer, credentials, peers, address, tls, exposed };
    let mut sessions = Session::new(shared, way);
    let result = tokio::select! {
        ended = sessions.run_until(&stop) => ended,
        failed = server.failed => Err(failed.unwrap_or_else(|_| ExecutorError::Server("it ended".into()))),
    };
    stop.cancel();
    sessions.close().await;
    result
}

/// TLS of this executor's connections, and of its exchange service; both follow changes of their files.
fn encryption(
    security: &ClientSecurity,
    stop: &CancellationToken,
) -> Result<(Dialer, Option<Reloading<rustls::ServerConfig>>), SecurityError> {
    let client = tls::client(security)?;
    let certificate = security.certificate.as_ref();
    let server = certificate.map(|files| tls::server(files, security.ca.as_deref(), Protocol::Grpc)).transpose()?;
    if let Some(client) = &client {
        client.watch(stop.clone());
    }
    if let Some(server) = &server {
        server.watch(stop.clone());
    }
    Ok((Dialer::new(client), server))
}
