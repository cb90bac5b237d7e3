//! The driver: plans micro-batches, assigns work to executors, commits checkpoints, serves users.
//!
//! Owns: the servers and their start-up order: check what protects them, open the store, claim the epoch, recover the
//! queries, then listen. Does not own: decisions (`protocol`), storage formats (`checkpoint`), Kafka (`connectors`),
//! who may call what (`security`).

mod clock;
mod cluster;
mod cluster_service;
mod effects;
mod ends;
mod error;
mod http;
mod inbox;
mod limits;
mod monitor;
mod progress_history;
mod queries;
mod query_service;
mod run;
mod run_event;
mod runner;
mod sinks;
mod snapshots;
mod stage_progress;
mod state_limit;
mod status;
mod submit;
mod watched;

pub use error::DriverError;

use clock::Clock;
use cluster::Cluster;
use cluster_service::ClusterApi;
use highwater_checkpoint::CheckpointStore;
use highwater_connector_api::access::AccessPolicy;
use highwater_proto::v1::cluster_service_server::ClusterServiceServer;
use highwater_proto::v1::query_service_server::QueryServiceServer;
use highwater_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use highwater_security::access::Access;
use highwater_security::credentials::Token;
use highwater_security::guard::GuardLayer;
use highwater_security::incoming::Incoming;
use highwater_security::tls::{self, Protocol};
use highwater_security::{DriverSecurity, exposure};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use queries::Queries;
use query_service::QueryApi;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::trace::TraceLayer;

/// Options of a driver.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// gRPC address; port 0 picks one.
    pub listen: SocketAddr,
    /// HTTP address; port 0 picks one.
    pub http: SocketAddr,
    pub data_dir: PathBuf,
    /// How long an executor that does not renew its lease counts as alive.
    pub lease: Duration,
    /// Longest duration of one call (streams excepted).
    pub request_timeout: Duration,
    /// What submitted scripts may reach on this machine.
    pub access: AccessPolicy,
    /// TLS, tokens, client certificates.
    pub security: DriverSecurity,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 7070).into(),
            http: ([127, 0, 0, 1], 7071).into(),
            data_dir: PathBuf::from("./highwater-data"),
            lease: Duration::from_secs(3),
            request_timeout: Duration::from_secs(60),
            access: AccessPolicy::ALL,
            security: DriverSecurity::default(),
        }
    }
}

/// A driver that is running.
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
        exposure::check_driver(&[("--listen", options.listen), ("--http", options.http)], &options.security)?;
        let access = Access::load(&options.security)?;
        let data_dir = options.data_dir.clone();
        let (store, epoch) = tokio::task::spawn_blocking(move || {
            let store = CheckpointStore::open(&data_dir)?;
            let epoch = store.claim_epoch()?;
            Ok::<_, DriverError>((store, epoch))
        })
        .await??;
        tracing::info!(%epoch, data_dir = %options.data_dir.display(), "driver starting");
        let grpc = listen(options.listen, Protocol::Grpc, &options.security, &stop).await?;
        let http = listen(options.http, Protocol::Http, &options.security, &stop).await?;
        access.watch(stop.clone());
        let (address, http_address) = (grpc.address(), http.address());
        let cluster = Cluster::new(epoch, options.lease);
        let queries = Queries::new(store, cluster.clone(), options.access.clone(), Clock::system());
        queries.recover().await?;
        tokio::spawn(cluster.clone().expire_leases(stop.clone()));
        let timeout = options.request_timeout;
        let servers = tokio::spawn(serve(timeout, access, grpc, http, cluster, queries, stop));
        tracing::info!(%address, %http_address, "driver ready");
        Ok(Self { address, http_address, servers })
    }

    /// Waits until the servers have ended.
    pub async fn join(self) -> Result<(), DriverError> {
        self.servers.await?
    }
}

/// Runs a driver until `stop` is cancelled.
pub async fn run(options: DriverOptions, stop: CancellationToken) -> Result<(), DriverError> {
    Driver::start(options, stop).await?.join().await
}

async fn listen(
    address: SocketAddr,
    protocol: Protocol,
    security: &DriverSecurity,
    stop: &CancellationToken,
) -> Result<Incoming, DriverError> {
    let certificate = security.certificate.as_ref();
    let tls = certificate.map(|files| tls::server(files, security.client_ca.as_deref(), protocol)).transpose()?;
    if let Some(tls) = &tls {
        tls.watch(stop.clone());
    }
    let failed = |source| DriverError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    Incoming::new(listener, tls, stop.clone()).map_err(failed)
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
    request_timeout: Duration,
    access: Access,
    grpc: Incoming,
    http: Incoming,
    cluster: Cluster,
    queries: Queries,
    stop: CancellationToken,
) -> Result<(), DriverError> {
    let api = QueryApi { queries: queries.clone() };
    let state = http::HttpState { api: api.clone(), metrics: metrics_handle(), access: access.clone() };
    let http_server = tokio::spawn(http::serve(state, http, stop.clone()));
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<QueryServiceServer<QueryApi>>().await;
    health.set_serving::<ClusterServiceServer<ClusterApi>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| DriverError::Server(error.to_string()))?;
    let (exchange_secret, secured) = (Token::random(), !access.is_open());
    let cluster_api = ClusterApi::new(cluster, queries, exchange_secret, secured);
    let stopped = stop.clone();
    let served = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .concurrency_limit_per_connection(256)
        .timeout(request_timeout)
        .layer(TraceLayer::new_for_grpc())
        .layer(GuardLayer(access))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(QueryServiceServer::new(api).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(ClusterServiceServer::new(cluster_api).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .serve_with_incoming_shutdown(grpc, async move {
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
