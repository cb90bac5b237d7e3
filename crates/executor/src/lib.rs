//! The executor: reads its partitions, runs its tasks, keeps its shards, holds its transactions.
//!
//! Owns: the process' life: its exchange server, its session with the driver, and joining again after a loss.
//! Does not own: decisions about batches (core's query machine) or attempts (core's participant), operators
//! (engine), Kafka (connectors). Invariant: what a session began ends with it; the checkpoint is the driver's.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod attempt;
mod channels;
mod compute;
mod error;
mod exchange;
mod memory;
mod outbox;
mod publish;
mod restore;
mod server;
mod session;
mod sources;
mod task;
mod worker;
mod writers;

pub use error::ExecutorError;

use exchange::Exchange;
use highwater_core::ids::ExecutorId;
use session::Session;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How an executor is started.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// `http://HOST:PORT` of the driver.
    pub driver_url: String,
    /// Tasks that compute at the same time, of all queries together.
    pub slots: usize,
    /// Address of the exchange service; port 0 picks one.
    pub listen: SocketAddr,
    /// HOST:PORT by which other executors reach it, where that is not `listen`.
    pub advertise: Option<String>,
    /// Memory that the state of one query, and what its joins give at once, may take here, bytes. `None`: a share of the
    /// machine's, or of its control group's.
    pub query_memory: Option<u64>,
    /// Private scratch.
    pub data_dir: Option<PathBuf>,
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
        }
    }
}

/// What all queries of this executor share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub me: ExecutorId,
    pub slots: Arc<Semaphore>,
    pub slot_count: usize,
    /// Of each query, bytes.
    pub query_memory: u64,
    pub exchange: Exchange,
    pub channels: channels::Channels,
}

/// Runs an executor until `stop` is cancelled. A driver that is away is waited for, for ever.
pub async fn run(options: ExecutorOptions, stop: CancellationToken) -> Result<(), ExecutorError> {
    let driver = channels::driver(&options.driver_url)?;
    let slot_count = options.slots.max(1);
    let shared = Shared {
        me: ExecutorId(uuid::Uuid::now_v7()),
        slots: Arc::new(Semaphore::new(slot_count)),
        slot_count,
        query_memory: options.query_memory.unwrap_or_else(memory::query_limit),
        exchange: Exchange::default(),
        channels: channels::Channels::default(),
    };
    let server = server::start(options.listen, shared.exchange.clone(), stop.clone()).await?;
    let address = match options.advertise {
        Some(address) => address,
        None => channels::reachable(server.address, &options.driver_url),
    };
    tracing::info!(executor = %shared.me, %address, slots = slot_count, driver = %options.driver_url, "executor ready");
    let mut sessions = Session::new(shared, driver, address);
    let result = tokio::select! {
        refused = sessions.run_for_ever() => Err(refused),
        () = stop.cancelled() => Ok(()),
        failed = server.failed => Err(failed.unwrap_or_else(|_| ExecutorError::Server("it ended".into()))),
    };
    stop.cancel();
    sessions.close().await;
    result
}
