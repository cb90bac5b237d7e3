//! Topics that sinks need: creating and deleting them, and finding earlier output.
//!
//! Owns: which topics a sink needs, and the checks of a sink at submit. Does not own: the admin client (`topics`). All
//! calls block.

use super::options::{sink_options, transaction_timeout_ms};
use super::sink::{Progress, ProgressKey, ProgressReader, progress_topic};
use super::topics::{
    BROKERS_DEFAULT, TIMEOUT, client_of, ensure, ensure_topic, max_transaction_timeout_ms, timeout_refused,
};
use crate::client;
use crate::error::{classify, classify_code};
use crate::options::KafkaOptions;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::sink::EarlierOutput;
use highwater_protocol::ids::QueryId;
use highwater_protocol::options::IsolationLevel;
use highwater_sql::tables::SinkTable;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;

/// Creates the missing topics of a sink: its own and its progress topic.
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
    // Progress must be as safe as the rows, so it has their replication factor.
    let progress = NewTopic::new(&name, 1, TopicReplication::Fixed(replication)).set("cleanup.policy", "compact");
    ensure(options, &name, progress)
}

/// Returns the smallest number of replicas of a topic's partitions.
fn replication_of(options: &KafkaOptions, topic: &str) -> Result<i32, ConnectorError> {
    let context = format!("looking up topic '{topic}'");
    let looked_up = client::lookup(&client::base(options)?, &context)?;
    let metadata = client::metadata(&looked_up, Some(topic), TIMEOUT, || context.clone())?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let least = partitions.map(|partition| partition.replicas().len()).min();
    Ok(least.and_then(|count| i32::try_from(count).ok()).filter(|count| *count > 0).unwrap_or(BROKERS_DEFAULT))
}

/// Deletes the progress topic of a sink, if it exists.
pub fn delete_progress(sink: &SinkTable, query: QueryId) -> Result<(), ConnectorError> {
    let options = &sink_options(sink)?;
    let name = progress_topic(query, sink.id);
    let context = format!("deleting topic '{name}'");
    let admin = client_of(options, &context)?;
    let settings = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let deleted = futures::executor::block_on(admin.delete_topics(&[&name], &settings))
        .map_err(|error| classify(&context, &error))?;
    for result in deleted {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {}
            Err((_, code)) => return Err(classify_code(context, Some(code), code.to_string())),
        }
    }
    Ok(())
}

/// Refuses a sink whose transaction timeout is longer than its brokers allow.
fn check_transaction_timeout(sink: &SinkTable, options: &KafkaOptions) -> Result<(), ConnectorError> {
    match max_transaction_timeout_ms(options) {
        Some(allowed) if transaction_timeout_ms(options) > allowed => Err(timeout_refused(sink, options)),
        // Without permission to read the brokers' settings, the first transaction finds out.
        _ => Ok(()),
    }
}

/// Finds the output of earlier queries. Each Kafka cluster is read once, on the first lookup of a sink there.
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
