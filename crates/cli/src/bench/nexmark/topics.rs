//! The topics of a run: created, filled, and deleted.
//!
//! Owns: access to Kafka. Does not own: the records (`events`). All calls block.
//! Invariant: when the call that fills a topic returns, every record was acknowledged.

use super::events::{Settings, Stream, records};
use crate::failure::Failure;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest wait for a broker's answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the last records to be acknowledged.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause when the producer's queue is full.
const PAUSE: Duration = Duration::from_millis(5);
const BROKERS_DEFAULT: i32 = -1;

/// A connection of the benchmark to Kafka.
pub struct Topics {
    bootstrap_servers: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Topics {
    /// Connects. The error says what to do if there is no Kafka.
    pub fn connect(bootstrap_servers: &str) -> Result<Self, Failure> {
        let failed = |error: KafkaError| {
            Failure::failed(format!(
                "no Kafka answers at {bootstrap_servers}: {error}; `make kafka` starts one on localhost:9092, \
                 --bootstrap-servers names another"
            ))
        };
        let admin: AdminClient<DefaultClientContext> = config(bootstrap_servers).create().map_err(failed)?;
        admin.inner().fetch_metadata(None, TIMEOUT).map_err(failed)?;
        Ok(Self { bootstrap_servers: bootstrap_servers.to_string(), admin })
    }

    /// Creates topics whose records are kept until the topics are deleted.
    pub fn create(&self, topics: &[String], partitions: u32) -> Result<(), Failure> {
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        let new = |topic| NewTopic::new(topic, partitions, TopicReplication::Fixed(BROKERS_DEFAULT));
        let wanted: Vec<NewTopic<'_>> = topics.iter().map(|topic| new(topic).set("retention.ms", "-1")).collect();
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
        let made = futures::executor::block_on(self.admin.create_topics(&wanted, &options))
            .map_err(|error| Failure::failed(format!("cannot create topics: {error}")))?;
        match made.into_iter().find_map(Result::err) {
            Some((topic, code)) => Err(Failure::failed(format!("cannot create topic {topic}: {code}"))),
            None => Ok(()),
        }
    }

    /// Deletes topics; ignores topics that do not exist.
    pub fn delete(&self, topics: &[String]) -> Result<(), Failure> {
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
        let deleted = futures::executor::block_on(self.admin.delete_topics(&topics, &options))
            .map_err(|error| Failure::failed(format!("cannot delete topics: {error}")))?;
        let refused = deleted.into_iter().filter_map(Result::err);
        match refused.into_iter().find(|(_, code)| *code != RDKafkaErrorCode::UnknownTopicOrPartition) {
            Some((topic, code)) => Err(Failure::failed(format!("cannot delete topic {topic}: {code}"))),
            None => Ok(()),
        }
    }

    /// Writes all events to the topics `PREFIX-person`, `PREFIX-auction` and `PREFIX-bid`, which must exist.
    pub fn fill(&self, prefix: &str, settings: Settings, stop: &CancellationToken) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("cannot write the events: {error}"));
        let trouble = Trouble::default();
        let mut config = config(&self.bootstrap_servers);
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "200000")
            .set("queue.buffering.max.kbytes", "131072");
        let producer: ThreadedProducer<Trouble> =
            config.create_with_context(trouble.clone()).map_err(|error| failed(&error))?;
        let topics = Stream::ALL.map(|stream| topic(prefix, stream.name()));
        for record in records(settings) {
            let record = record.map_err(|error| failed(&error))?;
            let topic = &topics[record.stream as usize];
            let partition = i32::try_from(record.partition).unwrap_or(i32::MAX);
            let mut message: BaseRecord<'_, (), [u8]> =
                BaseRecord::to(topic).partition(partition).payload(&record.value);
            while let Err((error, refused)) = producer.send(message) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(failed(&error));
                }
                if stop.is_cancelled() {
                    return Err(Failure::Interrupted(String::new()));
                }
                trouble.check().map_err(|error| failed(&error))?;
                std::thread::sleep(PAUSE);
                message = refused;
            }
        }
        producer.flush(FLUSH_TIMEOUT).map_err(|error| failed(&error))?;
        trouble.check().map_err(|error| failed(&error))
    }
}

/// Name of a topic of a run.
pub fn topic(prefix: &str, name: &str) -> String {
    format!("{prefix}-{name}")
}

fn config(bootstrap_servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap_servers).set("client.id", "highwater-bench");
    // Errors that matter are returned.
    config.set_log_level(RDKafkaLogLevel::Critical);
    config
}

/// The first record that was not delivered.
#[derive(Clone, Default)]
struct Trouble(Arc<Mutex<Option<KafkaError>>>);

impl Trouble {
    fn check(&self) -> Result<(), KafkaError> {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl rdkafka::ClientContext for Trouble {}

impl ProducerContext for Trouble {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}
