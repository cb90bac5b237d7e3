//! Clients of Kafka: their configuration, creating them, and the errors that brokers report to them.
//!
//! Owns: turning `KafkaOptions` into a librdkafka configuration: secrets are resolved, `kafka.*` properties are passed
//! on, and the properties that exactly-once depends on are forced. Does not own: what clients are used for.
//! Invariants: no user property can override a forced one; no text that leaves this module contains a resolved secret.

mod callbacks;
mod login;
mod oidc;

pub use callbacks::Callbacks;

use crate::options::KafkaOptions;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_spec::OptionKind;
use highwater_connector_spec::kafka::PROPERTIES;
use highwater_protocol::options::IsolationLevel;
use highwater_sql::references::{self, REDACTED};
use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::bindings as sys;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext, ThreadedProducer};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A consumer that its owner polls.
pub type Lookup = BaseConsumer<Callbacks>;

/// How long one request for metadata may take before the loop checks whether brokers refuse the client.
const STEP: Duration = Duration::from_secs(1);

/// Number of events polled at a time, more than a client queues about its brokers; one poll takes one event.
const EVENTS: usize = 64;

/// Everything needed to create a client.
pub struct Settings {
    config: ClientConfig,
    /// Source of the client's tokens; `None` if it does not log in by tokens.
    oidc: Option<Arc<oidc::Oidc>>,
    /// Secret values to redact in errors and logs.
    hidden: Vec<String>,
}

impl Deref for Settings {
    type Target = ClientConfig;

    fn deref(&self) -> &ClientConfig {
        &self.config
    }
}

impl DerefMut for Settings {
    fn deref_mut(&mut self) -> &mut ClientConfig {
        &mut self.config
    }
}

impl Settings {
    /// Returns new callbacks for one client.
    pub fn callbacks(&self) -> Callbacks {
        Callbacks::new(self.oidc.clone(), self.hidden.clone())
    }

    /// Creates a client and sets its first token. `context` names its purpose in errors.
    pub fn make<T, C>(&self, context: &str, callbacks: C) -> Result<T, ConnectorError>
    where
        C: ClientContext + AsRef<Callbacks>,
        T: Native<C> + FromClientConfigAndContext<C>,
    {
        let client: T = self.config.create_with_context(callbacks).map_err(|error| self.refused(context, &error))?;
        <C as AsRef<Callbacks>>::as_ref(client.callbacks())
            .log_in(client.native())
            .map_err(|message| ConnectorError::Unavailable { context: context.to_string(), message })?;
        Ok(client)
    }

    /// Returns the error of a client that could not be created, without the secret that librdkafka may quote in it.
    fn refused(&self, context: &str, error: &KafkaError) -> ConnectorError {
        let message = match error {
            KafkaError::ClientConfig(_, description, key, _) if PROPERTIES.kind(key) == OptionKind::Secret => {
                let reason = description.split(['"', '\'']).next().unwrap_or_default().trim();
                format!("property '{key}' is refused: {reason} {REDACTED}")
            }
            KafkaError::ClientConfig(_, description, key, _) => format!("property '{key}' is refused: {description}"),
            other => other.to_string(),
        };
        ConnectorError::Config(references::hide(&format!("{context}: {message}"), &self.hidden))
    }
}

/// A client of any kind.
pub trait Native<C> {
    fn native(&self) -> *mut sys::rd_kafka_t;
    fn callbacks(&self) -> &Arc<C>;
    /// Has librdkafka call the pending callbacks, if no thread does so already.
    fn serve(&self);
}

impl Native<Callbacks> for Lookup {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }

    fn callbacks(&self) -> &Arc<Callbacks> {
        self.client().context()
    }

    fn serve(&self) {
        // The queue of a consumer with an assignment is polled by its owner.
        if self.assignment().is_ok_and(|assigned| assigned.count() == 0) {
            for _ in 0..EVENTS {
                // Nothing is assigned, so no record can be lost here.
                let _ = self.poll(Duration::ZERO);
            }
        }
    }
}

impl<C: ProducerContext> Native<C> for BaseProducer<C> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }

    fn callbacks(&self) -> &Arc<C> {
        self.client().context()
    }

    fn serve(&self) {
        for _ in 0..EVENTS {
            self.poll(Duration::ZERO);
        }
    }
}

impl<C: ProducerContext + 'static> Native<C> for ThreadedProducer<C> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }

    fn callbacks(&self) -> &Arc<C> {
        self.client().context()
    }

    /// Does nothing: the producer has a thread that calls them.
    fn serve(&self) {}
}

impl Native<Callbacks> for AdminClient<Callbacks> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.inner().native_ptr()
    }

    fn callbacks(&self) -> &Arc<Callbacks> {
        self.inner().context()
    }

    /// Does nothing: an admin client cannot be polled. Use a consumer to find out why brokers do not answer.
    fn serve(&self) {}
}

/// Creates a consumer.
pub fn lookup(settings: &Settings, context: &str) -> Result<Lookup, ConnectorError> {
    settings.make(context, settings.callbacks())
}

/// Asks brokers for the metadata of `topic`, or of all topics if it is `None`. Waits up to `timeout`, but fails at once
/// if a login or a certificate is refused. `context` names the purpose in errors.
pub fn metadata(
    consumer: &Lookup,
    topic: Option<&str>,
    timeout: Duration,
    context: impl Fn() -> String,
) -> Result<Metadata, ConnectorError> {
    use RDKafkaErrorCode as C;
    let callbacks = consumer.callbacks();
    let deadline = Instant::now() + timeout;
    loop {
        callbacks.keep_login(consumer.native());
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match consumer.fetch_metadata(topic, left.min(STEP)) {
            Ok(metadata) => {
                callbacks.forget();
                return Ok(metadata);
            }
            Err(error) => error,
        };
        consumer.serve();
        let passes = matches!(
            error.rdkafka_error_code(),
            Some(C::BrokerTransportFailure | C::OperationTimedOut | C::AllBrokersDown | C::RequestTimedOut)
        );
        if !passes || callbacks.refusal().is_some() || Instant::now() >= deadline {
            return Err(callbacks.explain(context(), &error));
        }
    }
}

/// Returns the error of a call, with the error reported about brokers that may be its cause.
pub fn failed(consumer: &Lookup, context: impl Into<String>, error: &KafkaError) -> ConnectorError {
    consumer.serve();
    consumer.callbacks().explain(context, error)
}

/// Returns the settings that every client starts from: brokers, client id, then the user's properties.
pub fn base(options: &KafkaOptions) -> Result<Settings, ConnectorError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.bootstrap_servers)
        .set("client.id", "highwater")
        // Finds a broker that comes back quickly; librdkafka's default backs off to 10 s.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false")
        // The reasons why connections end are logged at this level; `Callbacks::log_line` decides what is shown.
        .set_log_level(RDKafkaLogLevel::Info);
    let mut hidden = Vec::new();
    let mut properties = resolve(&options.properties, &mut hidden)?;
    let oidc = oidc::take(&mut properties).map_err(ConnectorError::Config)?.map(Arc::new);
    let is_encrypted = properties.get("security.protocol").is_some_and(|protocol| {
        let protocol = protocol.to_ascii_lowercase();
        protocol == "ssl" || protocol == "sasl_ssl"
    });
    if is_encrypted && !properties.contains_key("ssl.ca.location") && !properties.contains_key("ssl.ca.pem") {
        // OpenSSL is linked statically and does not know the system's folder of certificates.
        config.set("ssl.ca.location", "probe");
    }
    for (key, value) in properties {
        config.set(key, value);
    }
    Ok(Settings { config, oidc, hidden })
}

/// Returns the properties with references resolved, and adds their secret values to `hidden`.
fn resolve(
    properties: &BTreeMap<String, String>,
    hidden: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, ConnectorError> {
    let mut resolved = BTreeMap::new();
    for (key, value) in properties {
        let kind = PROPERTIES.kind(key);
        let text = match kind.takes_references() {
            false => value.clone(),
            true => references::resolve(value, hidden)
                .map_err(|reason| ConnectorError::Config(format!("option 'kafka.{key}': {reason}")))?,
        };
        if kind == OptionKind::Secret {
            hidden.push(text.clone());
        }
        resolved.insert(key.clone(), text);
    }
    Ok(resolved)
}

/// Returns the settings of consumers that read from explicit positions and never commit.
pub fn consumer(options: &KafkaOptions, group: &str, isolation: IsolationLevel) -> Result<Settings, ConnectorError> {
    let mut config = base(options)?;
    // librdkafka needs a group for manual assignment; nothing is ever committed to it.
    set_default(&mut config, "group.id", group);
    set_default(&mut config, "fetch.queue.backoff.ms", "5");
    // Short, so that a newly assigned partition does not wait long for the fetch in flight. A fetch returns at once
    // when records arrive.
    set_default(&mut config, "fetch.wait.max.ms", "50");
    set_default(&mut config, "fetch.error.backoff.ms", "50");
    set_default(&mut config, "queued.max.messages.kbytes", "16384");
    set_default(&mut config, "queued.min.messages", "200000");
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        // Highwater stops polling for back-pressure, so the consumer must not time out.
        .set("max.poll.interval.ms", "86400000")
        .set("isolation.level", isolation_name(isolation));
    Ok(config)
}

/// Makes a client log every change of a topic's id that it learns (see `source::incarnation`).
pub fn note_topic_ids(config: &mut ClientConfig) {
    config.set("debug", "metadata").set_log_level(RDKafkaLogLevel::Debug);
}

/// Sets `key` unless the user has set it.
pub fn set_default(config: &mut ClientConfig, key: &str, value: &str) {
    if config.get(key).is_none() {
        config.set(key, value);
    }
}

fn isolation_name(isolation: IsolationLevel) -> &'static str {
    match isolation {
        IsolationLevel::ReadCommitted => "read_committed",
        IsolationLevel::ReadUncommitted => "read_uncommitted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(properties: &[(&str, &str)]) -> KafkaOptions {
        KafkaOptions {
            topic: Some("t".into()),
            bootstrap_servers: "localhost:1".into(),
            properties: properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        }
    }

    #[test]
    fn users_tune_but_cannot_weaken() {
        let config = consumer(
            &options(&[("fetch.wait.max.ms", "7"), ("auto.offset.reset", "latest"), ("enable.auto.commit", "true")]),
            "g",
            IsolationLevel::ReadCommitted,
        )
        .unwrap();
        assert_eq!(config.get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
        assert_eq!(config.get("isolation.level"), Some("read_committed"));
    }

    #[test]
    fn a_wrong_property_is_named_and_a_secret_hidden() {
        let settings = base(&options(&[("linger.ms", "soon"), ("ssl.key.password", "hunter2")])).unwrap();
        let error = lookup(&settings, "source 't'").err().unwrap().to_string();
        assert!(error.contains("linger.ms"), "{error}");
        let hidden = KafkaError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "Invalid value \"hunter2\" for configuration property \"ssl.key.password\"".into(),
            "ssl.key.password".into(),
            "hunter2".into(),
        );
        assert!(!settings.refused("source 't'", &hidden).to_string().contains("hunter2"));
        let quoted = KafkaError::ClientCreation("it quotes hunter2".into());
        assert!(settings.refused("source 't'", &quoted).to_string().contains("it quotes ******"));
    }

    #[test]
    fn the_systems_authorities_are_trusted_where_none_are_named() {
        let ca = |properties: &[(&str, &str)]| {
            base(&options(properties)).unwrap().get("ssl.ca.location").map(str::to_string)
        };
        assert_eq!(ca(&[("security.protocol", "SASL_SSL")]).as_deref(), Some("probe"));
        assert_eq!(ca(&[("security.protocol", "ssl"), ("ssl.ca.location", "/ca")]).as_deref(), Some("/ca"));
        assert_eq!(ca(&[("security.protocol", "ssl"), ("ssl.ca.pem", "…")]), None);
        assert_eq!(ca(&[]), None);
    }
}
