//! The connection of commands to the driver: one gRPC channel, retried for ten seconds.
//!
//! Owns: connecting, retrying, deadlines. Does not own: the calls, TLS (`highwater_security::dial`).
//! Invariants: a driver that does not answer for [`PATIENCE`] ends the command with exit code 3; one that refuses the
//! client, or that the client does not trust, ends it at once with 1.

use crate::failure::Failure;
use crate::output;
use highwater_proto::MAX_MESSAGE_BYTES;
use highwater_proto::v1::query_service_client::QueryServiceClient;
use highwater_security::credentials::{Authenticated, Credentials};
use highwater_security::dial::{self, Dialer};
use highwater_security::{ClientSecurity, tls};
use std::future::Future;
use std::time::{Duration, Instant};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

/// How long a command waits for a driver that is away.
pub const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Deadline of calls that only read.
pub const LOOK: Duration = Duration::from_secs(30);
/// Deadline of calls that change something; a stop waits for the batch in flight.
pub const CHANGE: Duration = Duration::from_secs(300);

/// A client of the query service.
pub type Client = QueryServiceClient<Authenticated>;

/// The driver's address, ready to connect.
#[derive(Clone, Debug)]
pub struct Driver {
    url: String,
    endpoint: Endpoint,
    dialer: Dialer,
    credentials: Credentials,
}

/// Why a connection failed.
#[derive(Debug)]
pub enum NoConnection {
    /// The driver may be reachable later.
    Away(String),
    /// A retry does not help.
    Refused(String),
}

impl Driver {
    /// A driver on this machine's loopback that requires no credentials.
    pub fn local(url: &str) -> Result<Self, Failure> {
        Self::new(url, &ClientSecurity::default())
    }

    pub fn new(url: &str, security: &ClientSecurity) -> Result<Self, Failure> {
        let refuse = |reason: String| {
            Failure::invalid(format!(
                "{url} is not the URL of a driver ({reason}); it looks like http://127.0.0.1:7070"
            ))
        };
        let endpoint = Endpoint::from_shared(url.to_string())
            .map_err(|error| refuse(dial::reason(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
        match endpoint.uri().scheme_str() {
            Some("http") => {}
            Some("https") if security.ca.is_some() => {}
            Some("https") => {
                return Err(Failure::invalid(format!(
                    "{url} needs --tls-ca F or HIGHWATER_TLS_CA: the CA that signed the driver's certificate"
                )));
            }
            _ => return Err(refuse("neither http:// nor https://".to_string())),
        }
        let dialer = Dialer::new(tls::client(security).map_err(|error| Failure::invalid(error.to_string()))?);
        let credentials = Credentials::new(security.token.as_ref());
        Ok(Self { url: url.to_string(), endpoint, dialer, credentials })
    }

    /// Calls the driver. Retries for up to [`PATIENCE`] while the driver is away or recovering.
    pub async fn call<T, F, R>(&self, call: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> R,
        R: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut bar = None;
        loop {
            let reason = match self.connect().await {
                Ok(client) => match call(client).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) => match self.dialer.explain(self.endpoint.uri(), &status).await {
                        Some(reason) => return Err(self.refused(&reason)),
                        None if status.code() == Code::Unavailable => status.message().to_string(),
                        None => return Err(status.into()),
                    },
                },
                Err(NoConnection::Refused(reason)) => return Err(self.refused(&reason)),
                Err(NoConnection::Away(reason)) => reason,
            };
            if started.elapsed() + pause > PATIENCE {
                return Err(self.unreachable(&reason));
            }
            bar.get_or_insert_with(|| output::spinner(format!("waiting for the driver at {} ({reason})", self.url)));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Tries once to connect. The error is a reason for the user.
    pub async fn connect(&self) -> Result<Client, NoConnection> {
        let connected = self.endpoint.connect_with_connector(self.dialer.clone()).await;
        let channel = connected.map_err(|error| match dial::explain(&error) {
            Some(reason) => NoConnection::Refused(reason),
            None => NoConnection::Away(dial::reason(&error)),
        })?;
        Ok(QueryServiceClient::new(self.credentials.clone().on(channel))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    pub fn refused(&self, reason: &str) -> Failure {
        Failure::failed(format!("no connection with the driver at {}: {reason}", self.url))
    }

    fn unreachable(&self, reason: &str) -> Failure {
        Failure::Unreachable(format!(
            "no driver at {} for {} s: {reason}; start one with `highwater driver`, or name it with --driver or HIGHWATER_DRIVER",
            self.url,
            PATIENCE.as_secs()
        ))
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Creates a request with a deadline that the driver sees, too.
pub fn request<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_usage() {
        for url in ["not a url", "https://secure:1", "ftp://127.0.0.1:7070"] {
            assert_eq!(Driver::local(url).unwrap_err().exit_code(), 2, "{url}");
        }
        assert!(Driver::local("http://127.0.0.1:7070").is_ok());
    }
}
