//! The executor's gRPC server: exchange, health and reflection.
//!
//! Owns: listening, limits and tracing. Does not own: the services' work, or who may call them (`Peers`).

use crate::error::ExecutorError;
use crate::exchange::Exchange;
use crate::exchange::service::ExchangeApi;
use highwater_proto::v1::exchange_service_server::ExchangeServiceServer;
use highwater_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use highwater_security::guard::GuardLayer;
use highwater_security::incoming::Incoming;
use highwater_security::peers::Peers;
use highwater_security::reload::Reloading;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tower_http::trace::TraceLayer;

/// Longest duration of one stream of batches.
const STREAM_TIMEOUT: Duration = Duration::from_secs(600);

pub struct Server {
    /// Bound address.
    pub address: SocketAddr,
    /// Receives an error if the server ends by itself.
    pub failed: oneshot::Receiver<ExecutorError>,
}

/// Listens, with TLS if there is a certificate. The server ends when `stop` is cancelled.
pub async fn start(
    listen: SocketAddr,
    exchange: Exchange,
    peers: Peers,
    tls: Option<Reloading<rustls::ServerConfig>>,
    stop: CancellationToken,
) -> Result<Server, ExecutorError> {
    let failed_to = |source| ExecutorError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed_to)?;
    let incoming = Incoming::new(listener, tls, stop.clone()).map_err(failed_to)?;
    let address = incoming.address();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ExchangeServiceServer<ExchangeApi>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| ExecutorError::Server(error.to_string()))?;
    let service = ExchangeServiceServer::new(ExchangeApi { exchange })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (report, failed) = oneshot::channel();
    tokio::spawn(async move {
        let served = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .concurrency_limit_per_connection(1024)
            .timeout(STREAM_TIMEOUT)
            .layer(TraceLayer::new_for_grpc())
            .layer(GuardLayer(peers))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            // If the executor is ending, the receiver is gone.
            let _ = report.send(ExecutorError::Server(error.to_string()));
        } else {
            std::future::pending::<()>().await;
        }
    });
    Ok(Server { address, failed })
}
