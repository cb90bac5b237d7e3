//! gRPC channels to the driver and to the exchange services of other executors.
//!
//! Owns: one channel per address, with its timeouts, keep-alives and credentials. A channel connects when it is first
//! used, and reconnects by itself. Does not own: TLS (`highwater_security::dial`).

use crate::error::{ExecutorError, TaskError};
use highwater_proto::v1::cluster_service_client::ClusterServiceClient;
use highwater_security::credentials::Authenticated;
use highwater_security::dial::Dialer;
use highwater_security::peers::Peers;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Streams to an executor that does not answer a ping within this time break.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client of the driver.
pub type DriverClient = ClusterServiceClient<Authenticated>;

/// Channels to other executors. Cheap to clone; all clones share them.
#[derive(Clone, Debug)]
pub struct Channels {
    dialer: Dialer,
    peers: Peers,
    by_address: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Channels {
    pub fn new(dialer: Dialer, peers: Peers) -> Self {
        Self { dialer, peers, by_address: Arc::default() }
    }

    /// Returns the channel to HOST:PORT or https://HOST:PORT; its calls carry the secret of this session.
    pub fn get(&self, address: &str) -> Result<Authenticated, TaskError> {
        let known = self.by_address.lock().get(address).cloned();
        let channel = match known {
            Some(channel) => channel,
            None => {
                let url = if address.contains("://") { address.to_string() } else { format!("http://{address}") };
                let endpoint = endpoint(url)
                    .map_err(|error| TaskError::Exchange(format!("executor address '{address}': {error}")))?;
                let channel = endpoint.connect_with_connector_lazy(self.dialer.clone());
                self.by_address.lock().insert(address.to_string(), channel.clone());
                channel
            }
        };
        Ok(self.peers.credentials().on(channel))
    }

    /// Drops all channels, since members change with the session.
    pub fn clear(&self) {
        self.by_address.lock().clear();
    }
}

fn endpoint(url: String) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024))
}

/// Builds the driver's endpoint. `tls`: whether a CA is configured to verify its certificate.
pub fn driver(url: &str, tls: bool) -> Result<Endpoint, ExecutorError> {
    let refuse = |message: String| ExecutorError::DriverUrl { url: url.to_string(), message };
    let endpoint = endpoint(url.to_string()).map_err(|error| refuse(error.to_string()))?;
    match endpoint.uri().scheme_str() {
        Some("https") if !tls => Err(refuse("https:// needs --tls-ca, the CA of its certificate".into())),
        Some("http" | "https") => Ok(endpoint),
        _ => Err(refuse("it begins with neither http:// nor https://".into())),
    }
}

/// The address at which others reach `listen`: itself, or, if it is unspecified (0.0.0.0), the one that faces the
/// driver.
pub fn reachable(listen: SocketAddr, driver_url: &str) -> String {
    if !listen.ip().is_unspecified() {
        return listen.to_string();
    }
    let host = driver_url.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
    let facing = host.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()).and_then(|driver| {
        // Connecting a UDP socket sends nothing: it asks the system for the route.
        let socket = UdpSocket::bind((listen.ip(), 0)).ok()?;
        socket.connect(driver).ok()?;
        socket.local_addr().ok()
    });
    match facing {
        Some(facing) => SocketAddr::new(facing.ip(), listen.port()).to_string(),
        None => listen.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_becomes_the_one_that_faces_the_driver() {
        let listen: SocketAddr = "0.0.0.0:4711".parse().unwrap();
        assert_eq!(reachable(listen, "http://127.0.0.1:7070"), "127.0.0.1:4711");
        let plain: SocketAddr = "127.0.0.1:4712".parse().unwrap();
        assert_eq!(reachable(plain, "http://127.0.0.1:7070"), "127.0.0.1:4712");
    }

    #[test]
    fn a_wrong_driver_url_is_named() {
        let error = driver("not a url", false).unwrap_err().to_string();
        assert!(error.contains("not a url") && error.contains("http://HOST:PORT"), "{error}");
        let error = driver("https://d:1", false).unwrap_err().to_string();
        assert!(error.contains("--tls-ca"), "{error}");
        assert!(driver("https://d:1", true).is_ok() && driver("http://d:1", false).is_ok());
    }
}
