//! Configuration of Kafka clients, common to sources, sinks and admin.
//!
//! Owns: turning `KafkaOptions` into a librdkafka configuration: secrets resolved, `kafka.*`
//! properties passed through, the properties exactly-once rests on forced. Does not own: clients.
//! Invariant: no user property can weaken a forced one.

use crate::error::ConnectorError;
use crate::secrets;
use highwater_core::options::IsolationLevel;
use highwater_engine::query::KafkaOptions;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A consumer that looks things up, polled by its owner.
pub type Lookup = BaseConsumer<LookupContext>;

/// Callbacks of such a consumer: the end of a partition is an answer, no error to be logged.
pub struct LookupContext;

impl ClientContext for LookupContext {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::debug!(%error, "{reason}");
        }
    }
}

impl ConsumerContext for LookupContext {}

/// Creates a consumer for looking things up.
pub fn lookup(config: &ClientConfig, context: &str) -> Result<Lookup, ConnectorError> {
    config.create_with_context(LookupContext).map_err(|error| creation_error(context, &error))
}

/// Configuration every client starts from: brokers, identity, then the user's properties.
pub fn base(options: &KafkaOptions) -> Result<ClientConfig, ConnectorError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", secrets::resolve("bootstrap.servers", &options.bootstrap_servers)?)
        .set("client.id", "highwater")
        // A broker that comes back is found fast; librdkafka's default backs off to 10 s.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Warning);
    for (key, value) in &options.properties {
        config.set(key, secrets::resolve(&format!("kafka.{key}"), value)?);
    }
    Ok(config)
}

/// Consumers that read explicit positions and never commit.
pub fn consumer(
    options: &KafkaOptions,
    group: &str,
    isolation: IsolationLevel,
) -> Result<ClientConfig, ConnectorError> {
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
    let contexts = match config.get("debug") {
        Some(contexts) => format!("{contexts},metadata"),
        None => "metadata".to_string(),
    };
    config.set("debug", contexts).set_log_level(RDKafkaLogLevel::Debug);
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

/// The error of a client that could not be created. librdkafka quotes the value it refuses, so a
/// secret one is cut away.
pub fn creation_error(context: &str, error: &KafkaError) -> ConnectorError {
    let message = match error {
        KafkaError::ClientConfig(_, description, key, _) if secrets::is_secret(key) => {
            let reason = description.split(['"', '\'']).next().unwrap_or_default().trim();
            format!("property '{key}' is refused: {reason} {}", secrets::REDACTED)
        }
        KafkaError::ClientConfig(_, description, key, _) => format!("property '{key}' is refused: {description}"),
        other => other.to_string(),
    };
    ConnectorError::Config(format!("{context}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_engine::query::Format;

    fn options(properties: &[(&str, &str)]) -> KafkaOptions {
        KafkaOptions {
            topic: Some("t".into()),
            bootstrap_servers: "localhost:1".into(),
            format: Format::Json,
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
        let config = base(&options(&[("no.such.property", "1")])).unwrap();
        let error = creation_error("source 't'", &config.create::<BaseConsumer>().err().unwrap());
        assert!(error.to_string().contains("no.such.property"), "{error}");
        let hidden = KafkaError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "Invalid value \"hunter2\" for configuration property \"ssl.key.password\"".into(),
            "ssl.key.password".into(),
            "hunter2".into(),
        );
        assert!(!creation_error("source 't'", &hidden).to_string().contains("hunter2"));
    }
}
