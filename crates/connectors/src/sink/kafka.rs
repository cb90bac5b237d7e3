//! The Kafka sink: one transactional producer per writer.
//!
//! Owns: the producer, its transaction, and the topics rows go to. Does not own: encoding (`records`), recovery
//! (`resolve`). Invariants: the transaction is open from the first row to publish or abort; a writer without rows
//! opens none; a producer whose transaction failed in any way is thrown away.

use super::progress::{PROGRESS_PARTITION, PROGRESS_PREFIX, Progress, ProgressKey, progress_topic};
use super::records::{Record, RecordEncoder};
use super::{Published, WriterConfig};
use crate::admin;
use crate::client;
use crate::error::ConnectorError;
use highwater_core::ids::{AttemptId, BatchId, QueryId, WriterId};
use highwater_core::report::{ProgressPosition, WriterReport};
use highwater_engine::delta::DeltaBatch;
use highwater_engine::query::{KafkaOptions, SinkTable};
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Longest wait for brokers in one step of a transaction; then the attempt is tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// A producer that remembers what became of its records.
pub type TransactionalProducer = BaseProducer<Deliveries>;

/// What became of the records of the open transaction.
#[derive(Default)]
pub struct Deliveries {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    failed: Option<(String, KafkaError)>,
    progress_at: Option<ProgressPosition>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) if message.topic().starts_with(PROGRESS_PREFIX) => {
                let place = ProgressPosition { partition: message.partition(), offset: message.offset() };
                self.seen.lock().progress_at = Some(place);
            }
            Ok(_) => {}
            Err((error, message)) => {
                let mut seen = self.seen.lock();
                if seen.failed.is_none() {
                    seen.failed = Some((message.topic().to_string(), error.clone()));
                }
            }
        }
    }
}

/// A producer with the writer's transactional id, initialised: earlier ones are fenced, their transactions ended.
pub fn transactional_producer(
    table: &SinkTable,
    options: &KafkaOptions,
    query: QueryId,
    writer: WriterId,
) -> Result<TransactionalProducer, ConnectorError> {
    let context = format!("sink '{}'", table.name);
    let mut config = client::base(options)?;
    client::set_default(&mut config, "linger.ms", "5");
    client::set_default(&mut config, "compression.type", "lz4");
    client::set_default(&mut config, "queue.buffering.max.messages", "500000");
    client::set_default(&mut config, "queue.buffering.max.kbytes", "131072");
    client::set_default(&mut config, "transaction.timeout.ms", "600000");
    config
        .set("transactional.id", format!("highwater-{query}-{}-{writer}", table.id))
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random");
    let producer: TransactionalProducer =
        config.create_with_context(Deliveries::default()).map_err(|error| client::creation_error(&context, &error))?;
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        match producer.init_transactions(STEP_TIMEOUT) {
            Ok(()) => return Ok(producer),
            Err(error) if is_retriable(&error) && Instant::now() < deadline => {}
            Err(error) => return Err(ConnectorError::kafka(format!("{context}: initialising transactions"), &error)),
        }
    }
}

pub struct KafkaWriter {
    config: WriterConfig,
    options: KafkaOptions,
    encoder: RecordEncoder,
    producer: Option<TransactionalProducer>,
    in_transaction: bool,
    batch: BatchId,
    recompute_only: bool,
    rows: u64,
    digest: u128,
    known_topics: BTreeSet<String>,
}

impl KafkaWriter {
    pub fn open(config: WriterConfig, options: KafkaOptions) -> Result<Self, ConnectorError> {
        let topic = options.topic.clone().unwrap_or_default();
        Ok(Self {
            encoder: RecordEncoder::new(&config.table, &topic),
            // Made sure of at submit.
            known_topics: [topic].into(),
            config,
            options,
            producer: None,
            in_transaction: false,
            batch: BatchId::default(),
            recompute_only: false,
            rows: 0,
            digest: 0,
        })
    }

    pub fn begin(&mut self, batch: BatchId, _attempt: AttemptId, recompute_only: bool) {
        self.abort();
        (self.batch, self.recompute_only, self.rows, self.digest) = (batch, recompute_only, 0, 0);
    }

    fn context(&self) -> String {
        format!("sink '{}'", self.config.table.name)
    }

    pub fn write(&mut self, rows: &DeltaBatch) -> Result<(), ConnectorError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if !self.recompute_only {
            self.begin_transaction()?;
        }
        let (context, recompute_only) = (self.context(), self.recompute_only);
        let Self { encoder, producer, options, known_topics, rows: count, digest, .. } = self;
        encoder.encode(rows, |record| {
            *count += 1;
            *digest = digest.wrapping_add(record.digest());
            match producer {
                Some(producer) if !recompute_only => {
                    if !known_topics.contains(record.topic) {
                        admin::ensure_topic(options, record.topic)?;
                        known_topics.insert(record.topic.to_string());
                    }
                    send(producer, &record, &context)
                }
                _ => Ok(()),
            }
        })?;
        if let Some(producer) = producer {
            producer.poll(Duration::ZERO);
        }
        self.check_deliveries()
    }

    fn begin_transaction(&mut self) -> Result<(), ConnectorError> {
        if self.in_transaction {
            return Ok(());
        }
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => transactional_producer(&self.config.table, &self.options, self.config.query, self.config.writer)?,
        };
        *producer.context().seen.lock() = Seen::default();
        producer
            .begin_transaction()
            .map_err(|error| ConnectorError::kafka(format!("{}: beginning a transaction", self.context()), &error))?;
        self.producer = Some(producer);
        self.in_transaction = true;
        Ok(())
    }

    fn check_deliveries(&self) -> Result<(), ConnectorError> {
        let failed = self.producer.as_ref().and_then(|producer| producer.context().seen.lock().failed.clone());
        match failed {
            Some((topic, error)) => Err(delivery_error(&self.context(), &topic, &error)),
            None => Ok(()),
        }
    }

    pub fn flush(&mut self) -> Result<WriterReport, ConnectorError> {
        let mut report =
            WriterReport { plan: self.config.plan(), rows: self.rows, digest: self.digest, progress_at: None };
        if !self.in_transaction {
            return Ok(report);
        }
        let (key, value) = self.progress()?;
        let topic = progress_topic(self.config.query, self.config.table.id);
        let (partition, key, value) = (Some(PROGRESS_PARTITION), Some(key.as_slice()), Some(value.as_slice()));
        let record = Record { topic: &topic, partition, key, value, ..Record::default() };
        let context = self.context();
        let Some(producer) = &self.producer else { return Ok(report) };
        send(producer, &record, &context)?;
        let deadline = Instant::now() + STEP_TIMEOUT;
        while producer.in_flight_count() > 0 {
            // Returns at once when all is delivered.
            let flushed = producer.flush(Duration::from_millis(500));
            self.check_deliveries()?;
            if flushed.is_err() && Instant::now() > deadline {
                return Err(ConnectorError::Unavailable {
                    context,
                    message: format!("brokers did not take all rows within {} seconds", STEP_TIMEOUT.as_secs()),
                });
            }
        }
        self.check_deliveries()?;
        report.progress_at = producer.context().seen.lock().progress_at;
        Ok(report)
    }

    fn progress(&self) -> Result<(Vec<u8>, Vec<u8>), ConnectorError> {
        let config = &self.config;
        let key = ProgressKey { query: config.query.to_string(), sink: config.table.id.0, writer: config.writer.0 };
        let value = Progress {
            batch: self.batch.0,
            digest: format!("{:032x}", self.digest),
            rows: self.rows,
            name: config.query_name.clone(),
            table: config.table.name.clone(),
            topic: self.options.topic.clone(),
            epoch: config.epoch,
        };
        let encoded = serde_json::to_vec(&key).and_then(|key| Ok((key, serde_json::to_vec(&value)?)));
        encoded.map_err(|error| ConnectorError::Fatal(format!("progress cannot be encoded: {error}")))
    }

    pub fn publish(&mut self) -> Result<Published, ConnectorError> {
        if !self.in_transaction {
            return Ok(Published::Committed);
        }
        let Some(producer) = self.producer.take() else { return Ok(Published::Unknown) };
        self.in_transaction = false;
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            match producer.commit_transaction(STEP_TIMEOUT) {
                Ok(()) => {
                    self.producer = Some(producer);
                    return Ok(Published::Committed);
                }
                Err(error) if is_retriable(&error) && Instant::now() < deadline => {}
                Err(error) => {
                    tracing::warn!(sink = %self.config.table.name, %error, "the outcome of a commit is unknown");
                    return Ok(Published::Unknown);
                }
            }
        }
    }

    pub fn abort(&mut self) {
        if !std::mem::take(&mut self.in_transaction) {
            return;
        }
        let Some(producer) = self.producer.take() else { return };
        match producer.abort_transaction(STEP_TIMEOUT) {
            Ok(()) => self.producer = Some(producer),
            // The next producer with this id ends the transaction.
            Err(error) => tracing::debug!(sink = %self.config.table.name, %error, "a transaction could not be aborted"),
        }
    }
}

/// Queues one record, waiting while the queue is full.
fn send(producer: &TransactionalProducer, record: &Record<'_>, context: &str) -> Result<(), ConnectorError> {
    let mut message = BaseRecord::<[u8], [u8]>::to(record.topic);
    message.partition = record.partition;
    message.key = record.key;
    message.payload = record.value;
    message.timestamp = record.timestamp_ms;
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let add =
            |headers: OwnedHeaders, (key, value): &(&str, Option<&[u8]>)| headers.insert(Header { key, value: *value });
        message.headers = Some(record.headers.iter().fold(headers, add));
    }
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        match producer.send(message) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < deadline => {
                producer.poll(POLL);
                message = back;
            }
            Err((error, _)) => return Err(delivery_error(context, record.topic, &error)),
        }
    }
}

fn delivery_error(context: &str, topic: &str, error: &KafkaError) -> ConnectorError {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
        return ConnectorError::Refused {
            context: context.to_string(),
            message: format!(
                "a row is too large for topic '{topic}': raise its max.message.bytes and the sink's \
                 'kafka.message.max.bytes', or write less into one row"
            ),
        };
    }
    ConnectorError::kafka(format!("{context}: writing to topic '{topic}'"), error)
}

/// librdkafka says that the same call may be made again.
fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}
