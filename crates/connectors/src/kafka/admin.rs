//! Topics that sinks need: finding out whether they are there, making them, and who has written to them.
//!
//! Owns: creating topics with the brokers' defaults, and what brokers must allow. All calls block.

use super::options::sink_options;
use super::sink::{Progress, ProgressKey, ProgressReader, progress_topic, transaction_timeout_ms};
use crate::error::ConnectorError;
use crate::kafka::client::{self, Callbacks, Lookup};
use crate::kafka::options::KafkaOptions;
use crate::sink::EarlierOutput;
use highwater_engine::query::SinkTable;
use highwater_protocol::ids::QueryId;
use highwater_protocol::options::IsolationLevel;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait for brokers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What brokers take for their own defaults.
const BROKERS_DEFAULT: i32 = -1;

/// Makes the topics of a sink that are missing: its own, and the one of its progress.
pub fn ensure_topics(sink: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
    let options = &sink_options(sink)?;
    check_transaction_timeout(sink, options)?;
    let replication = match &options.topic {
        Some(topic) => {
            ensure_topic(options, topic)?;
            replication_of(options, topic)?
        }
        None => BROKERS_DEFAULT,
    };
    let name = progress_topic(query, sink.id);
    // As safe as the rows it tells of.
    let progress = NewTopic::new(&name, 1, TopicReplication::Fixed(replication)).set("cleanup.policy", "compact");
    ensure(options, &name, progress)
}

/// How often a topic's partitions are replicated.
fn replication_of(options: &KafkaOptions, topic: &str) -> Result<i32, ConnectorError> {
    let context = format!("looking at topic '{topic}'");
    let looked_up = client::lookup(&client::base(options)?, &context)?;
    let metadata = client::metadata(&looked_up, Some(topic), TIMEOUT, || context.clone())?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let least = partitions.map(|partition| partition.replicas().len()).min();
    Ok(least.and_then(|count| i32::try_from(count).ok()).filter(|count| *count > 0).unwrap_or(BROKERS_DEFAULT))
}

/// Deletes the topic of a sink's progress, if it is there.
pub fn delete_progress(sink: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
    let options = &sink_options(sink)?;
    let name = progress_topic(query, sink.id);
    let context = format!("deleting topic '{name}'");
    let admin = client_of(options, &context)?;
    let settings = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let deleted = futures::executor::block_on(admin.delete_topics(&[&name], &settings))
        .map_err(|error| ConnectorError::kafka(&context, &error))?;
    for result in deleted {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {}
            Err((_, code)) => return Err(ConnectorError::from_code(context, Some(code), code.to_string())),
        }
    }
    Ok(())
}

/// Refuses a sink whose transactions may be open for longer than its brokers allow.
fn check_transaction_timeout(sink: &SinkTable, options: &KafkaOptions) -> Result<(), ConnectorError> {
    match max_transaction_timeout_ms(options) {
        Some(allowed) if transaction_timeout_ms(options) > allowed => Err(timeout_refused(sink, options)),
        // Who may not look at the brokers' settings is told by the first transaction.
        _ => Ok(()),
    }
}

/// Why brokers refuse a sink's transactions.
pub fn timeout_refused(sink: &SinkTable, options: &KafkaOptions) -> ConnectorError {
    let allowed = max_transaction_timeout_ms(options);
    let at_most = allowed.map_or("less".to_string(), |allowed| format!("at most {allowed} ms"));
    let value = allowed.map_or("…".to_string(), |allowed| allowed.to_string());
    ConnectorError::Config(format!(
        "sink '{}': its transactions may be open for {} ms, but the brokers allow {at_most} \
         (transaction.max.timeout.ms). Set 'kafka.transaction.timeout.ms' = '{value}' (a batch is then planned so that \
         it ends in time), or raise the brokers' setting",
        sink.name,
        transaction_timeout_ms(options)
    ))
}

/// The brokers' longest transaction, milliseconds; `None` when they do not tell.
fn max_transaction_timeout_ms(options: &KafkaOptions) -> Option<i64> {
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

/// A client that changes things. It does not hear why brokers do not answer: ask with a consumer first.
fn client_of(options: &KafkaOptions, context: &str) -> Result<AdminClient<Callbacks>, ConnectorError> {
    let settings = client::base(options)?;
    settings.make(context, settings.callbacks())
}

/// Makes a topic that is missing.
pub fn ensure_topic(options: &KafkaOptions, topic: &str) -> Result<(), ConnectorError> {
    ensure(options, topic, NewTopic::new(topic, BROKERS_DEFAULT, TopicReplication::Fixed(BROKERS_DEFAULT)))
}

fn ensure(options: &KafkaOptions, name: &str, topic: NewTopic<'_>) -> Result<(), ConnectorError> {
    let context = format!("creating topic '{name}'");
    let looked_up = client::lookup(&client::base(options)?, &context)?;
    if exists(&looked_up, name, &context)? {
        return Ok(());
    }
    let admin = client_of(options, &context)?;
    let settings = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let made = futures::executor::block_on(admin.create_topics([&topic], &settings))
        .map_err(|error| ConnectorError::kafka(&context, &error))?;
    for result in made {
        match result {
            Ok(_) => tracing::info!(topic = name, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(ConnectorError::from_code(context, Some(code), code.to_string())),
        }
    }
    let deadline = Instant::now() + TIMEOUT;
    while !exists(&looked_up, name, &context)? {
        if Instant::now() > deadline {
            let message = "it was created, but the brokers do not list it yet".to_string();
            return Err(ConnectorError::Unavailable { context, message });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn exists(consumer: &Lookup, name: &str, context: &str) -> Result<bool, ConnectorError> {
    let metadata = client::metadata(consumer, Some(name), TIMEOUT, || context.to_string())?;
    Ok(metadata.topics().iter().any(|topic| {
        let has_leaders = topic.partitions().iter().all(|partition| partition.leader() >= 0);
        topic.name() == name && !topic.partitions().is_empty() && has_leaders
    }))
}

/// What earlier queries have written through their sinks. Each Kafka cluster is read once, when it is first asked about.
#[derive(Default)]
pub struct EarlierTopics {
    clusters: Vec<(KafkaOptions, BTreeMap<ProgressKey, Progress>)>,
}

impl EarlierOutput for EarlierTopics {
    fn find(&mut self, sink: &SinkTable, name: &str) -> Result<Option<String>, ConnectorError> {
        let options = &sink_options(sink)?;
        let same = |(_, progress): &(&ProgressKey, &Progress)| {
            progress.name == name && progress.table == sink.name && progress.topic == options.topic
        };
        let written = self.written_to(options)?;
        Ok(written.iter().find(same).map(|(key, _)| key.query.clone()))
    }
}

impl EarlierTopics {
    fn written_to(&mut self, options: &KafkaOptions) -> Result<&BTreeMap<ProgressKey, Progress>, ConnectorError> {
        let is_there = |known: &KafkaOptions| {
            known.bootstrap_servers == options.bootstrap_servers && known.properties == options.properties
        };
        let place = match self.clusters.iter().position(|(known, _)| is_there(known)) {
            Some(place) => place,
            None => {
                let reader = ProgressReader::open(options, IsolationLevel::ReadCommitted)?;
                self.clusters.push((options.clone(), reader.read_everything()?));
                self.clusters.len() - 1
            }
        };
        Ok(&self.clusters[place].1)
    }
}
