//! The Kafka sink: one writer's transactions.
//!
//! Owns: the transaction, and creating the topics that rows name. Does not own: encoding (`records`), recovery
//! (`resolve`), producers and their ids (`producer`).
//! Invariants: the transaction is open from the first row to publish or abort; a writer without rows opens none; a
//! transaction counts as published once readers see all of it; a producer whose transaction failed is discarded.

use super::deliveries::{TransactionalProducer, delivery_error};
use super::producer::{STEP_TIMEOUT, initialised, is_retriable};
use super::progress_topic::{PROGRESS_PARTITION, Progress, ProgressKey, progress_topic};
use super::token::ProgressPosition;
use super::visible::wait_visible;
use crate::client::Native;
use crate::error::classify;
use crate::options::KafkaOptions;
use crate::options::sink_options;
use crate::topics;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::sink::records::{Record, RecordEncoder};
use highwater_connector_api::sink::{Published, Writer, WriterConfig};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::ids::{AttemptId, BatchId};
use highwater_protocol::report::WriterReport;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Pause before a record is sent again to a full queue, unless a delivery makes room earlier.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// How long partitions are asked whether a commit is visible, before the coordinator is asked instead. The answer
/// rarely takes more than a few milliseconds, unless other producers keep transactions open there; the next wait is
/// then shorter.
const VISIBLE_PATIENCE: Duration = Duration::from_millis(500);
const VISIBLE_PATIENCE_MIN: Duration = Duration::from_millis(20);

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
    visible_patience: Duration,
}

impl KafkaWriter {
    pub fn open(config: WriterConfig) -> Result<Self, ConnectorError> {
        let options = sink_options(&config.table)?;
        let topic = options.topic.clone().unwrap_or_default();
        Ok(Self {
            encoder: RecordEncoder::new(&config.table, &topic)?,
            // Created at submit.
            known_topics: [topic].into(),
            config,
            options,
            producer: None,
            in_transaction: false,
            batch: BatchId::default(),
            recompute_only: false,
            rows: 0,
            digest: 0,
            visible_patience: VISIBLE_PATIENCE,
        })
    }

    fn context(&self) -> String {
        format!("sink '{}'", self.config.table.name)
    }

    fn begin_transaction(&mut self) -> Result<(), ConnectorError> {
        if self.in_transaction {
            return Ok(());
        }
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => self.initialised()?,
        };
        producer.context().callbacks.keep_login(producer.native());
        producer.context().reset();
        producer
            .begin_transaction()
            .map_err(|error| classify(format!("{}: beginning a transaction", self.context()), &error))?;
        self.producer = Some(producer);
        self.in_transaction = true;
        Ok(())
    }

    fn initialised(&self) -> Result<TransactionalProducer, ConnectorError> {
        let config = &self.config;
        initialised(&config.table, &self.options, config.query, config.writer)
    }

    fn check_deliveries(&self) -> Result<(), ConnectorError> {
        match &self.producer {
            Some(producer) => producer.context().failed(&self.context()),
            None => Ok(()),
        }
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

    /// Waits until the committed rows are visible, so that no row of the next batch is seen earlier. If the partitions
    /// do not confirm it in time, a new producer with the same id does: initialising it waits for the markers.
    fn visible(&mut self, producer: TransactionalProducer) -> Published {
        if wait_visible(producer.client(), producer.context().first(), self.visible_patience) {
            self.visible_patience = VISIBLE_PATIENCE;
            self.producer = Some(producer);
            return Published::Committed;
        }
        self.visible_patience = (self.visible_patience / 2).max(VISIBLE_PATIENCE_MIN);
        drop(producer);
        match self.initialised() {
            Ok(producer) => {
                self.producer = Some(producer);
                Published::Committed
            }
            Err(error) => {
                tracing::warn!(sink = %self.config.table.name, %error, "it is unknown whether a commit is visible");
                Published::Unknown
            }
        }
    }
}

impl Writer for KafkaWriter {
    fn begin(&mut self, batch: BatchId, _attempt: AttemptId, recompute_only: bool) {
        self.abort();
        (self.batch, self.recompute_only, self.rows, self.digest) = (batch, recompute_only, 0, 0);
    }

    fn write(&mut self, rows: &ChangeBatch) -> Result<(), ConnectorError> {
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
                        topics::ensure_topic(options, record.topic)?;
                        known_topics.insert(record.topic.to_string());
                    }
                    send(producer, &record, &context)
                }
                _ => Ok(()),
            }
        })?;
        self.check_deliveries()
    }

    fn flush(&mut self) -> Result<WriterReport, ConnectorError> {
        let mut report = WriterReport { plan: self.config.plan(), rows: self.rows, digest: self.digest, token: None };
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
        if !producer.context().wait(STEP_TIMEOUT) {
            return Err(ConnectorError::Unavailable {
                context,
                message: match producer.context().callbacks.refusal() {
                    Some(refusal) => refusal,
                    None => format!("the brokers accepted no row for {} seconds", STEP_TIMEOUT.as_secs()),
                },
            });
        }
        self.check_deliveries()?;
        producer.context().callbacks.forget();
        report.token = producer.context().progress_at().and_then(ProgressPosition::token);
        Ok(report)
    }

    fn publish(&mut self) -> Result<Published, ConnectorError> {
        if !self.in_transaction {
            return Ok(Published::Committed);
        }
        let Some(producer) = self.producer.take() else { return Ok(Published::Unknown) };
        self.in_transaction = false;
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            match producer.commit_transaction(STEP_TIMEOUT) {
                Ok(()) => return Ok(self.visible(producer)),
                Err(error) if is_retriable(&error) && Instant::now() < deadline => {}
                Err(error) => {
                    tracing::warn!(sink = %self.config.table.name, %error, "the outcome of a commit is unknown");
                    return Ok(Published::Unknown);
                }
            }
        }
    }

    fn abort(&mut self) {
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

/// Queues one record; waits up to `STEP_TIMEOUT` while the queue is full.
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
    let deliveries = producer.context();
    loop {
        deliveries.sending();
        let (error, back) = match producer.send(message) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let is_full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
        if !is_full || Instant::now() > deadline {
            deliveries.refused(None);
            return Err(delivery_error(context, record.topic, &error));
        }
        deliveries.refused(Some(FULL_PAUSE));
        message = back;
    }
}
