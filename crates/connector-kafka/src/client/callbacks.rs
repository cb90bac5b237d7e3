//! Callbacks of a client: errors and log lines about its brokers, and renewal of its token.
//!
//! Owns: the last error that the client reported about its brokers, without secrets. Does not own: whether that is an
//! error of a call; the call that fails decides.

use super::login::Login;
use super::oidc::Oidc;
use crate::error::classify_code;
use highwater_connector_api::error::ConnectorError;
use highwater_sql::references;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::bindings as sys;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::Arc;

/// The callbacks of one client.
#[derive(Default)]
pub struct Callbacks {
    heard: Mutex<Heard>,
    login: Option<Login>,
    hidden: Vec<String>,
}

#[derive(Default)]
struct Heard {
    /// Why brokers refuse the login or the certificate; `None` if they have not refused it.
    refusal: Option<String>,
    /// Why connections fail otherwise; `None` if they have not failed.
    trouble: Option<String>,
}

impl Callbacks {
    pub(super) fn new(oidc: Option<Arc<Oidc>>, hidden: Vec<String>) -> Self {
        Self { heard: Mutex::default(), login: oidc.map(Login::new), hidden }
    }

    /// Gives a new client its first token. Does nothing for a client that does not log in by tokens.
    pub(super) fn log_in(&self, native: *mut sys::rd_kafka_t) -> Result<(), String> {
        match &self.login {
            Some(login) => login.begin(native).map_err(|message| self.hide(&message)),
            None => Ok(()),
        }
    }

    /// Renews the token if it is due. Must be called before each use of the client, since nothing else renews it.
    pub fn keep_login(&self, native: *mut sys::rd_kafka_t) {
        if let Some(login) = &self.login {
            login.keep(native, |message| self.hide(message));
        }
    }

    /// Remembers an error that the client reported about its brokers.
    pub fn hear(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut heard = self.heard.lock();
        match code {
            RDKafkaErrorCode::PartitionEOF => {}
            // The earlier error is more precise.
            RDKafkaErrorCode::AllBrokersDown if heard.refusal.is_some() || heard.trouble.is_some() => {}
            code if is_refusal(code, reason) => heard.refusal = Some(self.hide(reason)),
            _ => heard.trouble = Some(self.hide(reason)),
        }
    }

    /// Returns why brokers refuse this client's login or certificate; `None` if they have not refused it.
    pub fn refusal(&self) -> Option<String> {
        self.heard.lock().refusal.clone()
    }

    /// Clears the remembered errors, once brokers answer.
    pub fn forget(&self) {
        *self.heard.lock() = Heard::default();
    }

    /// Returns the error of a call, with the remembered error that may be its cause.
    pub fn explain(&self, context: impl Into<String>, error: &KafkaError) -> ConnectorError {
        self.explain_code(context, error.rdkafka_error_code(), &error.to_string())
    }

    /// As `explain`, for an error given by its code and text.
    pub fn explain_code(
        &self,
        context: impl Into<String>,
        code: Option<RDKafkaErrorCode>,
        error: &str,
    ) -> ConnectorError {
        use RDKafkaErrorCode as C;
        let of_connection =
            matches!(code, Some(C::BrokerTransportFailure | C::OperationTimedOut | C::AllBrokersDown | C::Resolve));
        let cause = match &*self.heard.lock() {
            Heard { refusal: Some(refusal), .. } => Some(refusal.clone()),
            // A listener closes the connection of a client that uses another protocol.
            Heard { trouble: Some(trouble), .. } if of_connection && trouble.contains("Disconnected") => {
                Some(format!("{trouble}; does 'kafka.security.protocol' match the listener?"))
            }
            Heard { trouble: Some(trouble), .. } if of_connection => Some(trouble.clone()),
            _ => None,
        };
        match cause {
            Some(cause) => classify_code(context, code, format!("{cause} ({error})")),
            None => classify_code(context, code, error.to_string()),
        }
    }

    /// Logs a line of librdkafka. Syslog levels: 3 = error, 4 = warning. Closed connections are reported only by log
    /// lines of the facility `FAIL`.
    pub fn log_line(&self, level: i32, facility: &str, line: &str) {
        if facility == "FAIL" {
            let reason = line.split_once("]: ").map_or(line, |(_thread, reason)| reason);
            self.hear(RDKafkaErrorCode::BrokerTransportFailure, reason);
        }
        let line = self.hide(line);
        match level {
            ..=3 => tracing::warn!(target: "librdkafka", facility, "{line}"),
            4..=5 => tracing::info!(target: "librdkafka", facility, "{line}"),
            _ => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }

    /// Returns `text` with its secrets redacted.
    pub fn hide(&self, text: &str) -> String {
        references::hide(text, &self.hidden)
    }
}

/// Returns whether an error means that a login or a certificate is refused. A broker that requires a certificate and
/// gets none closes the connection with a TLS alert.
pub fn is_refusal(code: RDKafkaErrorCode, reason: &str) -> bool {
    use RDKafkaErrorCode as C;
    matches!(code, C::SSL | C::Authentication | C::SaslAuthenticationFailed | C::UnsupportedSASLMechanism)
        || reason.contains("SSL alert")
        || reason.contains("SSL routines")
}

impl AsRef<Self> for Callbacks {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl ClientContext for Callbacks {
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        self.hear(code, reason);
        // The end of a partition is not an error.
        if code != RDKafkaErrorCode::PartitionEOF {
            tracing::debug!(target: "librdkafka", %error, "{}", self.hide(reason));
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.log_line(level as i32, facility, line);
    }
}

impl ConsumerContext for Callbacks {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_before_any_other_trouble_and_without_secrets() {
        let callbacks = Callbacks::new(None, vec!["hunter2".into()]);
        let timed_out = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
        callbacks.hear(RDKafkaErrorCode::Authentication, "no such user: hunter2");
        callbacks.hear(RDKafkaErrorCode::BrokerTransportFailure, "connection refused");
        callbacks.hear(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        let error = callbacks.explain("looking up topic 't'", &timed_out).to_string();
        assert!(error.starts_with("looking up topic 't': no such user: ******"), "{error}");
        callbacks.forget();
        callbacks.hear(RDKafkaErrorCode::BrokerTransportFailure, "connection refused");
        callbacks.hear(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert!(callbacks.explain("", &timed_out).to_string().contains("connection refused"));
        callbacks.log_line(6, "FAIL", "[thrd:h:1/bootstrap]: h:1/bootstrap: SSL routines::alert certificate required");
        assert_eq!(callbacks.refusal().unwrap(), "h:1/bootstrap: SSL routines::alert certificate required");
        callbacks.forget();
        callbacks.hear(RDKafkaErrorCode::BrokerTransportFailure, "connection refused");
        let other = KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert!(!callbacks.explain("", &other).to_string().contains("connection refused"));
    }
}
