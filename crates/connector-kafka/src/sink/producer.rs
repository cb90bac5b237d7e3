//! Transactional producers: their ids, their configuration, and fencing earlier producers of an id.
//!
//! Owns: creating and initialising them. Does not own: their transactions (`writer`).

use super::deliveries::Deliveries;
use crate::client::{self, Native};
use crate::options::KafkaOptions;
use crate::options::{TRANSACTION_TIMEOUT, TRANSACTION_TIMEOUT_MS};
use crate::topics;
use highwater_connector_api::error::ConnectorError;
use highwater_protocol::ids::{QueryId, SinkId, WriterId};
use highwater_sql::tables::SinkTable;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Longest wait for brokers in one step of a transaction; then the attempt fails and is retried.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one initialisation may take before the loop checks whether brokers refuse the client.
const INIT_STEP: Duration = Duration::from_secs(2);
/// Number of ids fenced at the same time; each needs its own threads and connections.
const FENCED_AT_ONCE: usize = 16;

fn transactional_id(query: QueryId, sink: SinkId, writer: WriterId) -> String {
    format!("highwater-{query}-{sink}-{writer}")
}

/// Returns an initialised producer with the writer's transactional id: earlier producers of the id are fenced, their
/// transactions have ended, and the markers are written.
pub fn initialised<P>(
    table: &SinkTable,
    options: &KafkaOptions,
    query: QueryId,
    writer: WriterId,
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
    client::set_default(&mut config, TRANSACTION_TIMEOUT, &TRANSACTION_TIMEOUT_MS.to_string());
    config
        .set("transactional.id", transactional_id(query, table.id, writer))
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random");
    let producer: P = config.make(&context, Deliveries::new(config.callbacks()))?;
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        let initialised = producer.init_transactions(INIT_STEP);
        producer.serve();
        let callbacks = &producer.callbacks().callbacks;
        let Err(error) = initialised else {
            callbacks.forget();
            return Ok(producer);
        };
        if is_retriable(&error) && Instant::now() < deadline && callbacks.refusal().is_none() {
            continue;
        }
        let fatal = producer.client().fatal_error().map(|(code, _)| code);
        let code = fatal.or(error.rdkafka_error_code());
        if code == Some(RDKafkaErrorCode::InvalidTransactionTimeout) {
            return Err(topics::timeout_refused(table, options));
        }
        let context = format!("{context}: initialising transactions");
        return Err(callbacks.explain_code(context, code, &error.to_string()));
    }
}

/// Fences all earlier producers of these writers' transactional ids, many at the same time.
pub fn fence(
    table: &SinkTable,
    options: &KafkaOptions,
    query: QueryId,
    writers: &BTreeSet<WriterId>,
) -> Result<(), ConnectorError> {
    let writers: Vec<WriterId> = writers.iter().copied().collect();
    for some in writers.chunks(FENCED_AT_ONCE) {
        std::thread::scope(|scope| {
            let fence = |writer| initialised::<BaseProducer<Deliveries>>(table, options, query, writer).map(drop);
            let threads: Vec<_> = some.iter().map(|writer| scope.spawn(move || fence(*writer))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| ConnectorError::Fatal("internal: a fencing thread panicked".into()))?
            })
        })?;
    }
    Ok(())
}

/// Returns whether librdkafka allows the call to be repeated.
pub fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}
