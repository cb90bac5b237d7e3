//! Clients of Kafka: their configuration, how they are made, and what they say when brokers do not take them.
//!
//! Owns: turning `KafkaOptions` into a librdkafka configuration: secrets resolved, `kafka.*`
//! properties passed through, the properties exactly-once rests on forced. Does not own: what clients are used for.
//! Invariants: no user property can weaken a forced one; no text that leaves here holds a resolved secret.

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

/// A consumer, polled by its owner.
pub type Lookup = BaseConsumer<Callbacks>;

/// How long brokers are asked before it is looked whether they refuse to talk.
const STEP: Duration = Duration::from_secs(1);

/// More than a client says of its brokers at a time; one poll takes one event.
const EVENTS: usize = 64;

/// What a client is made with.
pub struct Settings {
    config: ClientConfig,
    /// Where it gets its tokens from, if it logs in by tokens.
    oidc: Option<Arc<oidc::Oidc>>,
    /// Values that are not to be seen.
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
    /// The callbacks of one client.
    pub fn callbacks(&self) -> Callbacks {
        Callbacks::new(self.oidc.clone(), self.hidden.clone())
    }

    /// Makes a client, logged in as far as that needs no broker. `context` says what it is for.
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

    /// The error of a client that could not be made. librdkafka quotes the value it refuses.
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
    /// Has the callbacks called, where nothing else does.
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
        // What an assigned consumer's queue holds is its owner's.
        if self.assignment().is_ok_and(|assigned| assigned.count() == 0) {
            for _ in 0..EVENTS {
                // Nothing is assigned: no record can come.
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

    /// It has a thread for that.
    fn serve(&self) {}
}

impl Native<Callbacks> for AdminClient<Callbacks> {
    fn native(&self) -> *mut sys::rd_kafka_t {
        self.inner().native_ptr()
    }

    fn callbacks(&self) -> &Arc<Callbacks> {
        self.inner().context()
    }

    /// Nobody can: use a consumer to find out what is wrong.
    fn serve(&self) {}
}

/// Makes a consumer.
pub fn lookup(settings: &Settings, context: &str) -> Result<Lookup, ConnectorError> {
    settings.make(context, settings.callbacks())
}

/// What the brokers know of a topic, or of all. A login or a certificate that is refused is told at once, not when the
/// time is over. `context` says what was tried.
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

/// The error of a call, with what brokers said that may be its cause.
pub fn failed(consumer: &Lookup, context: impl Into<String>, error: &KafkaError) -> ConnectorError {
    consumer.serve();
    consumer.callbacks().explain(context, error)
}

/// Configuration every client starts from: brokers, identity, then the user's properties.
pub fn base(options: &KafkaOptions) -> Result<Settings, ConnectorError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.bootstrap_servers)
        .set("client.id", "highwater")
        // A broker that comes back is found fast; librdkafka's default backs off to 10 s.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false")
        // Why connections end is told at this level; what of it is shown is decided where lines are logged.
        .set_log_level(RDKafkaLogLevel::Info);
    let mut hidden = Vec::new();
    let mut properties = resolve(&options.properties, &mut hidden)?;
    let oidc = oidc::take(&mut properties).map_err(ConnectorError::Config)?.map(Arc::new);
    let is_encrypted = properties.get("security.protocol").is_some_and(|protocol| {
        let protocol = protocol.to_ascii_lowercase();
        protocol == "ssl" || protocol == "sasl_ssl"
    });
    if is_encrypted && !properties.contains_key("ssl.ca.location") && !properties.contains_key("ssl.ca.pem") {
        // OpenSSL is linked in and knows no folder of the system's.
        config.set("ssl.ca.location", "probe");
    }
    for (key, value) in properties {
        config.set(key, value);
    }
    Ok(Settings { config, oidc, hidden })
}

/// The properties with their references resolved; what must not be seen is added to `hidden`.
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

/// Consumers that read explicit positions and never commit.
pub fn consumer(options: &KafkaOptions, group: &str, isolation: IsolationLevel) -> Result<Settings, ConnectorError> {
    let mut config = base(options)?;
    // librdkafka needs a group to assign by hand; nothing is ever committed to it.
    set_default(&mut config, "group.id", group);
    set_default(&mut config, "fetch.queue.backoff.ms", "5");
    // A long poll returns at once when records arrive; short, so that a newly assigned partition
    // does not wait behind the one in flight.
    set_default(&mut config, "fetch.wait.max.ms", "50");
    set_default(&mut config, "fetch.error.backoff.ms", "50");
    set_default(&mut config, "queued.max.messages.kbytes", "16384");
    set_default(&mut config, "queued.min.messages", "200000");
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        // Not polling is back-pressure here, never a sign of death.
        .set("max.poll.interval.ms", "86400000")
        .set("isolation.level", isolation_name(isolation));
    Ok(config)
}

/// Has a client note in its log whenever it is told an id of a topic (see `source::incarnation`).
pub fn note_topic_ids(config: &mut ClientConfig) {
    config.set("debug", "metadata").set_log_level(RDKafkaLogLevel::Debug);
}

/// Sets `key` unless the user did.
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
