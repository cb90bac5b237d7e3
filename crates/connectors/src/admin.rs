//! Topics that sinks need: finding out whether they are there, making them, and who has written to them.
//!
//! Owns: creating topics with the brokers' defaults. All calls block.

use crate::client::{self, Callbacks, Lookup};
use crate::error::ConnectorError;
use crate::sink::{Progress, ProgressKey, ProgressReader, progress_topic};
use highwater_core::ids::QueryId;
use highwater_core::options::IsolationLevel;
use highwater_engine::query::{ConnectorOptions, KafkaOptions, SinkTable};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait for brokers.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What brokers take for their own defaults.
const BROKERS_DEFAULT: i32 = -1;

/// Makes the topics of a sink that are missing: its own, and the one of its progress.
pub fn ensure_topics(sink: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
    let ConnectorOptions::Kafka(options) = &sink.connector else { return Ok(()) };
    let name = progress_topic(query, sink.id);
    let progress = NewTopic::new(&name, 1, TopicReplication::Fixed(BROKERS_DEFAULT)).set("cleanup.policy", "compact");
    ensure(options, &name, progress)?;
    match &options.topic {
        Some(topic) => ensure_topic(options, topic),
        None => Ok(()),
    }
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
    let config = client::base(options)?;
    let admin: AdminClient<Callbacks> = config.make(&context, config.callbacks())?;
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
pub struct EarlierOutput {
    clusters: Vec<(KafkaOptions, BTreeMap<ProgressKey, Progress>)>,
}

impl EarlierOutput {
    /// The UUID of a query of this name that wrote to the sink's topic, if there was one.
    pub fn find(&mut self, sink: &SinkTable, name: &str) -> Result<Option<String>, ConnectorError> {
        let ConnectorOptions::Kafka(options) = &sink.connector else { return Ok(None) };
        let same = |(_, progress): &(&ProgressKey, &Progress)| {
            progress.name == name && progress.table == sink.name && progress.topic == options.topic
        };
        let written = self.written_to(options)?;
        Ok(written.iter().find(same).map(|(key, _)| key.query.clone()))
    }

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
