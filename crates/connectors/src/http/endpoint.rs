//! Sending a request until it is taken.
//!
//! Owns: the client, which answers are worth another try, and the pauses between tries. Does not own: what is sent.
//! Invariant: no error holds the value of `authorization`.

use crate::error::ConnectorError;
use crate::tls;
use highwater_sql::references;
use highwater_sql::tables::SinkTable;
use std::time::{Duration, Instant};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// Between two tries, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// So much of an answer is shown.
const ANSWER_CHARS: usize = 200;
const ANSWER_BYTES: u64 = 16 << 10;

/// Where the rows of a sink go.
pub struct Endpoint {
    agent: Agent,
    url: String,
    authorization: Option<String>,
    hidden: Vec<String>,
    retry_timeout: Duration,
    sink: String,
}

/// Why a request was not taken.
enum Failure {
    /// It may be the next time; the endpoint may say when.
    Passing {
        message: String,
        after: Option<Duration>,
    },
    Refused(String),
}

impl Endpoint {
    /// Connects at the first request, not here.
    ///
    /// # Errors
    /// A reference leads nowhere.
    pub fn open(table: &SinkTable) -> Result<Self, ConnectorError> {
        let values = &table.connector.values;
        let url = values.text("url").unwrap_or_default().to_string();
        let ms = |option: &str| Duration::from_millis(values.number(option).unwrap_or_default());
        let config = Agent::config_builder()
            .timeout_global(Some(ms("request_timeout")))
            .http_status_as_error(false)
            .max_redirects(0);
        // Certificates are read where they are needed only.
        let config = match url.starts_with("https://") {
            true => config.tls_config(tls::config(tls::system_authorities())),
            false => config,
        };
        let mut hidden = Vec::new();
        let authorization = values.text("authorization").map(|value| references::resolve(value, &mut hidden));
        let authorization = authorization.transpose().map_err(|reason| {
            ConnectorError::Config(format!("table '{}': option 'authorization': {reason}", table.name))
        })?;
        hidden.extend(authorization.clone());
        Ok(Self {
            agent: config.build().into(),
            url,
            authorization,
            hidden,
            retry_timeout: ms("retry_timeout"),
            sink: table.name.clone(),
        })
    }

    /// POSTs JSON under this key until it is taken.
    ///
    /// # Errors
    /// The endpoint refuses it, or did not take it for `retry_timeout`.
    pub fn post(&self, key: &str, body: &[u8]) -> Result<(), ConnectorError> {
        let deadline = Instant::now() + self.retry_timeout;
        let mut pause = PAUSE;
        loop {
            match self.send(key, body) {
                Ok(()) => return Ok(()),
                Err(Failure::Refused(message)) => {
                    let remedy =
                        "correct 'url' or 'authorization', or what the endpoint takes, and start the query again";
                    return Err(ConnectorError::Refused {
                        context: self.context(),
                        message: self.shown(&format!("{message}; {remedy}")),
                    });
                }
                Err(Failure::Passing { message, after }) => {
                    let wait = after.map_or(pause, |after| after.max(pause));
                    if Instant::now() + wait >= deadline {
                        return Err(ConnectorError::Unavailable {
                            context: self.context(),
                            message: self.shown(&format!("{message}; the batch is sent again until it is taken")),
                        });
                    }
                    tracing::debug!(sink = %self.sink, key, "sent again: {}", self.shown(&message));
                    std::thread::sleep(wait);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn context(&self) -> String {
        format!("sink '{}': POST {}", self.sink, self.url)
    }

    fn shown(&self, message: &str) -> String {
        references::hide(message, &self.hidden)
    }

    fn send(&self, key: &str, body: &[u8]) -> Result<(), Failure> {
        let mut request =
            self.agent.post(&self.url).header("Content-Type", "application/json").header("Idempotency-Key", key);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let answer = request.send(body);
        match answer {
            Ok(answer) if answer.status().is_success() => {
                drain(answer);
                Ok(())
            }
            Ok(answer) => Err(failure(answer)),
            Err(ureq::Error::BadUri(reason)) => Err(Failure::Refused(format!("it is no URL: {reason}"))),
            Err(ureq::Error::Http(error)) => Err(Failure::Refused(format!("it cannot be sent: {error}"))),
            Err(error) => Err(Failure::Passing { message: error.to_string(), after: None }),
        }
    }
}

/// A connection is used again only if its answer was read.
fn drain(mut answer: Response<Body>) -> String {
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec().unwrap_or_default();
    String::from_utf8_lossy(&text).trim().chars().take(ANSWER_CHARS).collect()
}

fn failure(answer: Response<Body>) -> Failure {
    let status = answer.status();
    let after = answer.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let text = drain(answer);
    let message = format!("it answers {status} {text}").trim_end().to_string();
    let passing = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    match passing {
        true => Failure::Passing { message, after: after.map(Duration::from_secs) },
        false => Failure::Refused(message),
    }
}
