//! The driver as commands reach it: one gRPC channel, tried for ten seconds.
//!
//! Owns: connecting, retrying, call deadlines. Does not own: what is asked.
//! Invariant: a driver that gives no answer for [`PATIENCE`] ends the command with exit code 3.

use crate::failure::Failure;
use crate::output;
use highwater_proto::MAX_MESSAGE_BYTES;
use highwater_proto::v1::query_service_client::QueryServiceClient;
use std::error::Error;
use std::future::Future;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How long a driver may be away before a command gives up.
pub const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Deadline of calls that only look.
pub const LOOK: Duration = Duration::from_secs(30);
/// Deadline of calls that change something: a stop waits for the batch in flight.
pub const CHANGE: Duration = Duration::from_secs(300);

/// A client of the query service.
pub type Client = QueryServiceClient<Channel>;

/// The driver's address, ready to connect.
#[derive(Clone, Debug)]
pub struct Driver {
    url: String,
    endpoint: Endpoint,
}

impl Driver {
    pub fn new(url: &str) -> Result<Self, Failure> {
        let refuse = |reason: String| {
            Failure::invalid(format!(
                "{url} is not the URL of a driver ({reason}); it looks like http://127.0.0.1:7070"
            ))
        };
        let endpoint = Endpoint::from_shared(url.to_string())
            .map_err(|error| refuse(cause(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(refuse("only http:// is supported".to_string()));
        }
        Ok(Self { url: url.to_string(), endpoint })
    }

    /// Calls the driver. While it is away or recovering the call is tried again, for [`PATIENCE`] in all.
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
                    Err(status) if status.code() == Code::Unavailable => status.message().to_string(),
                    Err(status) => return Err(status.into()),
                },
                Err(reason) => reason,
            };
            if started.elapsed() + pause > PATIENCE {
                return Err(self.unreachable(&reason));
            }
            bar.get_or_insert_with(|| output::spinner(format!("waiting for the driver at {} ({reason})", self.url)));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One try to connect; the error is a reason for people.
    pub async fn connect(&self) -> Result<Client, String> {
        let channel = self.endpoint.connect().await.map_err(|error| cause(&error))?;
        Ok(QueryServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
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

/// A request with a deadline that the driver sees too.
pub fn request<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// The innermost cause of an error: `connection refused` rather than `transport error`.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_usage() {
        for url in ["not a url", "https://secure:1"] {
            assert_eq!(Driver::new(url).unwrap_err().exit_code(), 2, "{url}");
        }
        assert!(Driver::new("http://127.0.0.1:7070").is_ok());
    }
}
