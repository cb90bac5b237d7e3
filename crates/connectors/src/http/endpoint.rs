//! Sending a request until the endpoint accepts it.
//!
//! Owns: the client, which answers are retried, and the pauses between attempts. Does not own: the content of requests.
//! Invariant: no error contains the value of `authorization`.

use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::tls;
use highwater_sql::references;
use highwater_sql::tables::SinkTable;
use std::time::{Duration, Instant};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// First and longest pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Maximum length of an answer in errors.
const ANSWER_CHARS: usize = 200;
const ANSWER_BYTES: u64 = 16 << 10;

/// The endpoint of a sink.
pub struct Endpoint {
    agent: Agent,
    url: String,
    authorization: Option<String>,
    hidden: Vec<String>,
    retry_timeout: Duration,
    sink: String,
}

/// Why a request was not accepted.
enum Failure {
    /// A later attempt may succeed; `after` is the pause from the answer's `Retry-After`, if there is one.
    Passing {
        message: String,
        after: Option<Duration>,
    },
    Refused(String),
}

impl Endpoint {
    /// Creates the client, which connects at the first request.
    ///
    /// # Errors
    /// A reference cannot be resolved.
    pub fn open(table: &SinkTable) -> Result<Self, ConnectorError> {
        let values = &table.connector.values;
        let url = values.text("url").unwrap_or_default().to_string();
        let ms = |option: &str| Duration::from_millis(values.number(option).unwrap_or_default());
        let config = Agent::config_builder()
            .timeout_global(Some(ms("request_timeout")))
            .http_status_as_error(false)
            .max_redirects(0);
        // Reading the system's certificates takes time, so it is done only for https.
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
        // An answer may contain the token without its scheme.
        hidden.extend(authorization.iter().flat_map(|value| value.split_whitespace().skip(1)).map(String::from));
        Ok(Self {
            agent: config.build().into(),
            url,
            authorization,
            hidden,
            retry_timeout: ms("retry_timeout"),
            sink: table.name.clone(),
        })
    }

    /// POSTs JSON with this `Idempotency-Key`, and repeats it until it is accepted.
    ///
    /// # Errors
    /// The endpoint refuses the request, or has not accepted it within `retry_timeout` or by `end`.
    pub fn post(&self, key: &str, body: &[u8], end: Instant) -> Result<(), ConnectorError> {
        let deadline = end.min(Instant::now() + self.retry_timeout);
        let mut pause = PAUSE;
        loop {
            match self.send(key, body) {
                Ok(()) => return Ok(()),
                Err(Failure::Refused(message)) => {
                    let remedy = "make the endpoint accept it, or correct 'authorization', and start the query again; to \
                                  write to another 'url', submit the script again with --replace";
                    return Err(ConnectorError::Refused {
                        context: self.context(),
                        message: self.shown(&format!("{message}; {remedy}")),
                    });
                }
                Err(Failure::Passing { message, after }) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let wait = after.map_or(pause, |after| after.max(pause));
                    if wait >= left {
                        std::thread::sleep(left);
                        return Err(ConnectorError::Unavailable {
                            context: self.context(),
                            message: self.shown(&format!("{message}; the batch is sent again until it is accepted")),
                        });
                    }
                    tracing::debug!(sink = %self.sink, key, "a request is sent again: {}", self.shown(&message));
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
            Ok(answer) => Err(failure(answer, |text| self.shown(text))),
            Err(ureq::Error::BadUri(reason)) => Err(Failure::Refused(format!("the URL is invalid: {reason}"))),
            Err(ureq::Error::Http(error)) => Err(Failure::Refused(format!("the request cannot be sent: {error}"))),
            Err(error) => Err(Failure::Passing { message: error.to_string(), after: None }),
        }
    }
}

/// Reads an answer, since a connection can be reused only then. Returns its text.
fn drain(mut answer: Response<Body>) -> String {
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec().unwrap_or_default();
    String::from_utf8_lossy(&text).trim().to_string()
}

/// Classifies an answer that is not 2xx. `hide` redacts secrets in a text.
fn failure(answer: Response<Body>, hide: impl Fn(&str) -> String) -> Failure {
    let status = answer.status();
    let after = answer.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // Redacted before it is cut, since a part of a secret would not be found.
    let text: String = hide(&drain(answer)).chars().take(ANSWER_CHARS).collect();
    let message = format!("the endpoint answered {status} {text}").trim_end().to_string();
    let passing = status.is_server_error()
        || matches!(
            status,
            // A request with this key is being processed.
            StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    match passing {
        true => Failure::Passing { message, after: after.map(Duration::from_secs) },
        false => Failure::Refused(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server_tests::{Answer, serve};
    use highwater_protocol::error::ErrorKind;

    /// Posts once, with no time for a second attempt.
    fn answered(answer: Answer) -> ConnectorError {
        let (url, keys) = serve(vec![answer]);
        let script = format!(
            "CREATE TABLE t (id BIGINT) WITH ('connector'='kafka', 'topic'='in', 'bootstrap.servers'='x:1', 'format'='json');
             CREATE TABLE o (id BIGINT) WITH ('connector'='http', 'url'='{url}', 'retry_timeout'='1 ms', 'authorization'='Bearer hunter2');
             INSERT INTO o SELECT id FROM t;"
        );
        let endpoint = Endpoint::open(&highwater_planner::compile(&script).unwrap().sinks[0]).unwrap();
        let error = endpoint.post("k", b"[]", Instant::now() + Duration::from_secs(60)).unwrap_err();
        assert_eq!(keys.join().unwrap(), ["k"]);
        error
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_is_refused_is_not() {
        for (answer, kind) in [
            ("409 Conflict", ErrorKind::Retry),
            ("429 Too Many Requests\r\nRetry-After: 18446744073709551615", ErrorKind::Retry),
            ("502 Bad Gateway", ErrorKind::Retry),
            ("302 Found\r\nLocation: http://127.0.0.1:1/", ErrorKind::Fix),
            ("401 Unauthorized", ErrorKind::Fix),
            ("422 Unprocessable Content", ErrorKind::Fix),
        ] {
            assert_eq!(answered((answer, "")).kind(), kind, "{answer}");
        }
    }

    #[test]
    fn a_secret_in_an_answer_is_hidden_wherever_the_answer_is_cut() {
        for before in [0, 190, 195, 199] {
            let body: &'static str = Box::leak(format!("{}hunter2", "x".repeat(before)).into_boxed_str());
            let error = answered(("401 Unauthorized", body)).to_string();
            assert!(!error.contains("hun"), "{before}: {error}");
        }
    }
}
