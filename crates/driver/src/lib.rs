//! The driver: plans micro-batches, assigns work to executors, commits checkpoints, answers people.
//!
//! Owns: the servers and their start-up order: open the store, claim the epoch, recover the queries, then
//! listen. Does not own: decisions (core's query machine), storage formats (checkpoint), Kafka (connectors).

mod clock;
mod cluster;
mod cluster_service;
mod effects;
mod error;
mod http;
mod inbox;
mod limits;
mod monitor;
mod progress;
mod queries;
mod query_service;
mod runner;
mod state_limit;
mod status;
mod submit;

pub use error::DriverError;

use clock::Clock;
use cluster::Cluster;
use cluster_service::ClusterApi;
use highwater_checkpoint::CheckpointStore;
use highwater_proto::v1::cluster_service_server::ClusterServiceServer;
use highwater_proto::v1::query_service_server::QueryServiceServer;
use highwater_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use queries::Queries;
use query_service::QueryApi;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tower_http::trace::TraceLayer;

/// How a driver is started.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// gRPC address; port 0 picks one.
    pub listen: SocketAddr,
    /// HTTP address; port 0 picks one.
    pub http: SocketAddr,
    pub data_dir: PathBuf,
    /// How long a silent executor is believed alive.
    pub lease: Duration,
    /// Longest time for one call (streams excepted).
    pub request_timeout: Duration,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 7070).into(),
            http: ([127, 0, 0, 1], 7071).into(),
            data_dir: PathBuf::from("./highwater-data"),
            lease: Duration::from_secs(3),
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// A driver that listens.
#[derive(Debug)]
pub struct Driver {
    /// Bound gRPC address.
    pub address: SocketAddr,
    /// Bound HTTP address.
    pub http_address: SocketAddr,
    servers: tokio::task::JoinHandle<Result<(), DriverError>>,
}

impl Driver {
    /// Opens the store, recovers the queries, and listens. Returns once both ports are open.
    pub async fn start(options: DriverOptions, stop: CancellationToken) -> Result<Self, DriverError> {
        let data_dir = options.data_dir.clone();
        let (store, epoch) = tokio::task::spawn_blocking(move || {
            let store = CheckpointStore::open(&data_dir)?;
            let epoch = store.claim_epoch()?;
            Ok::<_, DriverError>((store, epoch))
        })
        .await??;
        tracing::info!(%epoch, data_dir = %options.data_dir.display(), "driver starting");
        let grpc = bind(options.listen).await?;
        let http = bind(options.http).await?;
        let (address, http_address) = (local(&grpc, options.listen)?, local(&http, options.http)?);
        let cluster = Cluster::new(epoch, options.lease);
        let queries = Queries::new(store, cluster.clone(), Clock::system());
        queries.recover().await?;
        tokio::spawn(cluster.clone().expire_leases(stop.clone()));
        let servers = tokio::spawn(serve(options, grpc, http, cluster, queries, stop));
        tracing::info!(%address, %http_address, "driver ready");
        Ok(Self { address, http_address, servers })
    }

    /// Waits for the servers to end.
    pub async fn join(self) -> Result<(), DriverError> {
        self.servers.await?
    }
}

/// Runs a driver until `stop` is cancelled.
pub async fn run(options: DriverOptions, stop: CancellationToken) -> Result<(), DriverError> {
    Driver::start(options, stop).await?.join().await
}

async fn bind(address: SocketAddr) -> Result<TcpListener, DriverError> {
    TcpListener::bind(address).await.map_err(|source| DriverError::Listen { address, source })
}

fn local(listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, DriverError> {
    listener.local_addr().map_err(|source| DriverError::Listen { address, source })
}

/// The process-wide metrics recorder; several drivers in one process (tests) share it.
fn metrics_handle() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed; /metrics stays empty");
            }
            handle
        })
        .clone()
}

async fn serve(
    options: DriverOptions,
    grpc: TcpListener,
    http: TcpListener,
    cluster: Cluster,
    queries: Queries,
    stop: CancellationToken,
) -> Result<(), DriverError> {
    let api = QueryApi { queries: queries.clone() };
    let router = http::router(http::HttpState { api: api.clone(), metrics: metrics_handle() });
    let http_stop = stop.clone();
    let http_server = tokio::spawn(async move {
        axum::serve(http, router).with_graceful_shutdown(async move { http_stop.cancelled().await }).await
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<QueryServiceServer<QueryApi>>().await;
    health.set_serving::<ClusterServiceServer<ClusterApi>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| DriverError::Server(error.to_string()))?;
    let incoming = TcpListenerStream::new(grpc);
    let stopped = stop.clone();
    let served = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .concurrency_limit_per_connection(256)
        .timeout(options.request_timeout)
        .layer(TraceLayer::new_for_grpc())
        .add_service(health_service)
        .add_service(reflection)
        .add_service(QueryServiceServer::new(api).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(
            ClusterServiceServer::new(ClusterApi::new(cluster, queries)).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .serve_with_incoming_shutdown(incoming, async move {
            // Task streams never end by themselves: the listener closes, and open calls end with the process.
            stopped.cancelled().await;
        });
    tokio::select! {
        served = served => served.map_err(|error| DriverError::Server(error.to_string()))?,
        () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_millis(300)).await } => {}
    }
    http_server.abort();
    Ok(())
}
