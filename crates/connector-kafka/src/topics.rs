//! Creating topics, and reading brokers' settings.
//!
//! Owns: the admin client. Does not own: which topics a sink needs (`admin`).

use super::options::transaction_timeout_ms;
use crate::client::{self, Callbacks, Lookup};
use crate::error::{classify, classify_code};
use crate::options::KafkaOptions;
use highwater_connector_api::error::ConnectorError;
use highwater_sql::tables::SinkTable;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use std::time::{Duration, Instant};

/// Longest wait for brokers.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Number of partitions or replicas that means the brokers' default.
pub const BROKERS_DEFAULT: i32 = -1;

/// Returns the error of a sink whose transaction timeout is longer than the brokers allow.
pub fn timeout_refused(sink: &SinkTable, options: &KafkaOptions) -> ConnectorError {
    let allowed = max_transaction_timeout_ms(options);
    let at_most = allowed.map_or("less".to_string(), |allowed| format!("at most {allowed} ms"));
    let value = allowed.map_or("…".to_string(), |allowed| allowed.to_string());
    ConnectorError::Config(format!(
        "sink '{}': its transactions can be open for {} ms, but the brokers allow {at_most} \
         (transaction.max.timeout.ms). Set 'kafka.transaction.timeout.ms' = '{value}' (a batch is then planned so that \
         it ends in time), or raise the brokers' setting",
        sink.name,
        transaction_timeout_ms(options)
    ))
}

/// Returns the brokers' `transaction.max.timeout.ms`; `None` if it cannot be read.
pub fn max_transaction_timeout_ms(options: &KafkaOptions) -> Option<i64> {
    let context = "looking at a broker's settings";
    let looked_up = client::lookup(&client::base(options).ok()?, context).ok()?;
    let metadata = client::metadata(&looked_up, None, TIMEOUT, || context.to_string()).ok()?;
    let broker = metadata.brokers().first()?.id();
    let admin = client_of(options, context).ok()?;
    let settings = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let brokers = [ResourceSpecifier::Broker(broker)];
    let found = admin.describe_configs(&brokers, &settings);
    let found = futures::executor::block_on(found).ok()?.into_iter().next()?.ok()?;
    found.get("transaction.max.timeout.ms")?.value.as_ref()?.parse().ok()
}

/// Creates an admin client. It does not learn why brokers do not answer, so a consumer should contact them first.
pub fn client_of(options: &KafkaOptions, context: &str) -> Result<AdminClient<Callbacks>, ConnectorError> {
    let settings = client::base(options)?;
    settings.make(context, settings.callbacks())
}

/// Creates a topic with the brokers' defaults if it is missing.
pub fn ensure_topic(options: &KafkaOptions, topic: &str) -> Result<(), ConnectorError> {
    ensure(options, topic, NewTopic::new(topic, BROKERS_DEFAULT, TopicReplication::Fixed(BROKERS_DEFAULT)))
}

pub fn ensure(options: &KafkaOptions, name: &str, topic: NewTopic<'_>) -> Result<(), ConnectorError> {
    let context = format!("creating topic '{name}'");
    let looked_up = client::lookup(&client::base(options)?, &context)?;
    if exists(&looked_up, name, &context)? {
        return Ok(());
    }
    let admin = client_of(options, &context)?;
    let settings = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let made = futures::executor::block_on(admin.create_topics([&topic], &settings))
        .map_err(|error| classify(&context, &error))?;
    for result in made {
        match result {
            Ok(_) => tracing::info!(topic = name, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(classify_code(context, Some(code), code.to_string())),
        }
    }
    let deadline = Instant::now() + TIMEOUT;
    while !exists(&looked_up, name, &context)? {
        if Instant::now() > deadline {
            let message = "the topic was created, but the brokers do not list it yet".to_string();
            return Err(ConnectorError::Unavailable { context, message });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub fn exists(consumer: &Lookup, name: &str, context: &str) -> Result<bool, ConnectorError> {
    let metadata = client::metadata(consumer, Some(name), TIMEOUT, || context.to_string())?;
    Ok(metadata.topics().iter().any(|topic| {
        let has_leaders = topic.partitions().iter().all(|partition| partition.leader() >= 0);
        topic.name() == name && !topic.partitions().is_empty() && has_leaders
    }))
}
