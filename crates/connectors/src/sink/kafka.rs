//! The Kafka sink: one transactional producer per writer.
//!
//! Owns: the producer, its transaction, and the topics rows go to. Does not own: encoding (`records`), recovery
//! (`resolve`).
//! A writer has two transactional ids, for even and odd batches: for some milliseconds after a commit the coordinator
//! still ends that transaction, and librdkafka would wait 20 ms before it begins another one of the same id.
//! Invariants: the transaction is open from the first row to publish or abort; a writer without rows
//! opens none; a producer whose transaction failed in any way is thrown away.

use super::progress::{PROGRESS_PARTITION, PROGRESS_PREFIX, Progress, ProgressKey, progress_topic};
use super::records::{Record, RecordEncoder};
use super::{Published, WriterConfig};
use crate::admin;
use crate::client::{self, Callbacks, Native};
use crate::error::ConnectorError;
use highwater_core::ids::{AttemptId, BatchId, QueryId, SinkId, WriterId};
use highwater_core::report::{ProgressPosition, WriterReport};
use highwater_engine::delta::DeltaBatch;
use highwater_engine::query::{KafkaOptions, SinkTable};
use parking_lot::{Condvar, Mutex};
use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Longest wait for brokers in one step of a transaction; then the attempt is tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long initialising waits before it is looked whether brokers refuse to talk.
const INIT_STEP: Duration = Duration::from_secs(2);
/// How long a full queue is given to take more, if no delivery makes room before.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// A producer that remembers what became of its records. Its own thread takes the delivery reports: whoever waits for
/// them is woken by the last one, and an abort need not wait for anybody to ask.
type TransactionalProducer = ThreadedProducer<Deliveries>;

/// What became of the records of the open transaction.
pub struct Deliveries {
    callbacks: Callbacks,
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    /// Records handed over and not yet reported on.
    outstanding: usize,
    failed: Option<(String, KafkaError)>,
    progress_at: Option<ProgressPosition>,
}

impl Deliveries {
    fn new(callbacks: Callbacks) -> Self {
        Self { callbacks, seen: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until all records are reported on, or one failed. False: neither happened in time.
    fn wait(&self, deadline: Instant) -> bool {
        let mut seen = self.seen.lock();
        while seen.outstanding > 0 && seen.failed.is_none() {
            if self.changed.wait_until(&mut seen, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    fn failed(&self, context: &str) -> Result<(), ConnectorError> {
        match &self.seen.lock().failed {
            Some((topic, error)) => Err(delivery_error(context, topic, error)),
            None => Ok(()),
        }
    }
}

impl AsRef<Callbacks> for Deliveries {
    fn as_ref(&self) -> &Callbacks {
        &self.callbacks
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        self.callbacks.error(error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.callbacks.log(level, facility, line);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut seen = self.seen.lock();
        seen.outstanding = seen.outstanding.saturating_sub(1);
        match result {
            Ok(message) if message.topic().starts_with(PROGRESS_PREFIX) => {
                seen.progress_at = Some(ProgressPosition { partition: message.partition(), offset: message.offset() });
            }
            Ok(_) => {}
            // Of a transaction that was aborted.
            Err((error, _)) if is_purged(error) => {}
            Err((error, message)) => {
                if seen.failed.is_none() {
                    seen.failed = Some((message.topic().to_string(), error.clone()));
                }
            }
        }
        if seen.outstanding == 0 || seen.failed.is_some() {
            self.changed.notify_all();
        }
    }
}

fn is_purged(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(error.rdkafka_error_code(), Some(C::PurgeQueue | C::PurgeInflight))
}

/// Which of a writer's two transactional ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Even,
    Odd,
}

impl Side {
    pub const ALL: [Self; 2] = [Self::Even, Self::Odd];

    fn of(batch: BatchId) -> Self {
        if batch.0.is_multiple_of(2) { Self::Even } else { Self::Odd }
    }

    fn transactional_id(self, query: QueryId, sink: SinkId, writer: WriterId) -> String {
        match self {
            Self::Even => format!("highwater-{query}-{sink}-{writer}"),
            Self::Odd => format!("highwater-{query}-{sink}-{writer}-odd"),
        }
    }
}

/// Initialises one of a writer's transactional ids: earlier producers of it are fenced, their transactions ended.
pub fn fence(
    table: &SinkTable,
    options: &KafkaOptions,
    query: QueryId,
    writer: WriterId,
    side: Side,
) -> Result<(), ConnectorError> {
    initialised::<BaseProducer<Deliveries>>(table, options, query, writer, side).map(drop)
}

/// A producer with the writer's transactional id, initialised.
fn initialised<P>(
    table: &SinkTable,
    options: &KafkaOptions,
    query: QueryId,
    writer: WriterId,
    side: Side,
) -> Result<P, ConnectorError>
where
    P: FromClientConfigAndContext<Deliveries> + Producer<Deliveries> + Native<Deliveries>,
{
    let context = format!("sink '{}'", table.name);
    let mut config = client::base(options)?;
    client::set_default(&mut config, "linger.ms", "1");
    client::set_default(&mut config, "compression.type", "lz4");
    client::set_default(&mut config, "queue.buffering.max.messages", "500000");
    client::set_default(&mut config, "queue.buffering.max.kbytes", "131072");
    client::set_default(&mut config, "transaction.timeout.ms", "600000");
    config
        .set("transactional.id", side.transactional_id(query, table.id, writer))
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random");
    let producer: P = config.make(&context, Deliveries::new(config.callbacks()))?;
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        let Err(error) = producer.init_transactions(INIT_STEP) else { return Ok(producer) };
        producer.serve();
        let callbacks = &producer.callbacks().callbacks;
        let refused = callbacks.refusal().is_some();
        if refused || !is_retriable(&error) || Instant::now() >= deadline {
            return Err(callbacks.explain(format!("{context}: initialising transactions"), &error));
        }
    }
}

pub struct KafkaWriter {
    config: WriterConfig,
    options: KafkaOptions,
    encoder: RecordEncoder,
    side: Side,
    /// Of this side.
    producer: Option<TransactionalProducer>,
    /// Of the other one.
    resting: Option<TransactionalProducer>,
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
            side: Side::Even,
            producer: None,
            resting: None,
            in_transaction: false,
            batch: BatchId::default(),
            recompute_only: false,
            rows: 0,
            digest: 0,
        })
    }

    pub fn begin(&mut self, batch: BatchId, _attempt: AttemptId, recompute_only: bool) {
        self.abort();
        if self.side != Side::of(batch) {
            self.side = Side::of(batch);
            std::mem::swap(&mut self.producer, &mut self.resting);
        }
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
        self.check_deliveries()
    }

    fn begin_transaction(&mut self) -> Result<(), ConnectorError> {
        if self.in_transaction {
            return Ok(());
        }
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => initialised::<TransactionalProducer>(
                &self.config.table,
                &self.options,
                self.config.query,
                self.config.writer,
                self.side,
            )?,
        };
        let deliveries = producer.callbacks();
        deliveries.callbacks.keep_login(producer.native());
        *deliveries.seen.lock() = Seen::default();
        producer
            .begin_transaction()
            .map_err(|error| ConnectorError::kafka(format!("{}: beginning a transaction", self.context()), &error))?;
        self.producer = Some(producer);
        self.in_transaction = true;
        Ok(())
    }

    fn check_deliveries(&self) -> Result<(), ConnectorError> {
        match &self.producer {
            Some(producer) => producer.context().failed(&self.context()),
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
        if !producer.context().wait(Instant::now() + STEP_TIMEOUT) {
            return Err(ConnectorError::Unavailable {
                context,
                message: match producer.context().callbacks.refusal() {
                    Some(refusal) => refusal,
                    None => format!("brokers did not take all rows within {} seconds", STEP_TIMEOUT.as_secs()),
                },
            });
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
    let deliveries = producer.context();
    loop {
        // Before it is sent: its report may come at once.
        deliveries.seen.lock().outstanding += 1;
        let (error, back) = match producer.send(message) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let mut seen = deliveries.seen.lock();
        seen.outstanding = seen.outstanding.saturating_sub(1);
        if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) || Instant::now() > deadline {
            return Err(delivery_error(context, record.topic, &error));
        }
        let _ = deliveries.changed.wait_for(&mut seen, FULL_PAUSE);
        message = back;
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
