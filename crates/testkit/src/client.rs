//! Topics of a test cluster: creating, writing and reading them.
//!
//! Owns: plain (not transactional) access. Invariant: a call returns only after Kafka has completed it.

use crate::cluster::{DEADLINE, KafkaCluster};
use crate::record::{Message, Record};
use futures::executor::block_on;
use rdkafka::Message as _;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Longest wait for one answer, where the request is repeated.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Which records a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Records of committed transactions, and those outside of transactions; waits until no transaction is open.
    Committed,
    /// The same, but only what can be read now: the first open transaction hides all records after it.
    CommittedSoFar,
    /// All records, including those of open and aborted transactions.
    Uncommitted,
}

impl KafkaCluster {
    /// The configuration that every client of this cluster starts from.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap_servers())
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .set("topic.metadata.refresh.fast.interval.ms", "20");
        // Brokers are killed on purpose; errors that matter fail the test anyway.
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Critical);
        config
    }

    pub(crate) fn consumer_config(&self) -> ClientConfig {
        let mut config = self.client_config();
        config
            .set("group.id", "testkit")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error");
        config
    }

    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client_config().create().expect("an admin client can be made")
    }

    /// Creates a topic whose records are kept for ever (`retention.ms=-1`), and waits until all brokers know it.
    #[track_caller]
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.create_topic_with(topic, partitions, &[]);
    }

    /// Like [`Self::create_topic`], with more topic properties.
    #[track_caller]
    pub fn create_topic_with(&self, topic: &str, partitions: i32, properties: &[(&str, &str)]) {
        self.make_topics(&[topic], partitions, properties);
        for partition in 0..partitions {
            self.leader(topic, partition);
        }
    }

    /// Creates a topic of one partition on these brokers; the first one leads it.
    #[track_caller]
    pub fn create_replicated_on(&self, topic: &str, brokers: &[i32], properties: &[(&str, &str)]) {
        let assignment = [brokers];
        let new = NewTopic::new(topic, 1, TopicReplication::Variable(&assignment)).set("retention.ms", "-1");
        let new = properties.iter().fold(new, |new, (key, value)| new.set(key, value));
        let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
        let results = block_on(self.admin().create_topics([&new], &options)).expect("the topic can be made");
        results.into_iter().for_each(|result| {
            result.unwrap_or_else(|(topic, code)| panic!("topic {topic} cannot be made: {code}"));
        });
        self.leader(topic, 0);
    }

    /// Creates a topic with one partition on each of these brokers, not replicated.
    #[track_caller]
    pub fn create_topic_on(&self, topic: &str, brokers: &[i32]) {
        let places: Vec<&[i32]> = brokers.chunks(1).collect();
        let new = NewTopic::new(topic, i32::try_from(brokers.len()).expect("few"), TopicReplication::Variable(&places))
            .set("retention.ms", "-1")
            .set("min.insync.replicas", "1");
        let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
        let results = block_on(self.admin().create_topics(&[new], &options)).expect("the topic can be made");
        results.into_iter().for_each(|result| drop(result.expect("the topic can be made")));
        for (partition, _) in (0..).zip(brokers) {
            self.leader(topic, partition);
        }
    }

    /// Number of replicas of a topic's first partition.
    #[track_caller]
    pub fn replicas(&self, topic: &str) -> usize {
        let consumer: BaseConsumer = self.consumer_config().create().expect("a consumer can be made");
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).expect("metadata can be fetched");
        metadata.topics()[0].partitions()[0].replicas().len()
    }

    /// Returns a function that returns the end of a partition as a `read_committed` reader sees it.
    pub fn stable_ends(&self) -> impl Fn(&str, i32) -> i64 + use<> {
        let mut config = self.consumer_config();
        config.set("isolation.level", "read_committed");
        let connect = move || -> BaseConsumer { config.create().expect("a consumer can be made") };
        let consumer = connect();
        move |topic, partition| {
            let ask = |consumer: &BaseConsumer| consumer.fetch_watermarks(topic, partition, ANSWER_TIMEOUT).ok();
            crate::wait_for("the stable end of a partition", DEADLINE, || {
                // A client whose broker hung may wait for an answer that was lost; a new client asks again.
                ask(&consumer).or_else(|| ask(&connect())).map(|(_, end)| end)
            })
        }
    }

    /// Creates many topics at once, and waits until they are listed.
    #[track_caller]
    pub fn create_topics(&self, topics: &[&str], partitions: i32) {
        self.make_topics(topics, partitions, &[]);
        crate::wait_until("the topics to be listed", DEADLINE, || {
            let listed = self.topics();
            topics.iter().all(|topic| listed.contains(*topic))
        });
    }

    #[track_caller]
    fn make_topics(&self, topics: &[&str], partitions: i32, properties: &[(&str, &str)]) {
        let new = |topic| {
            let replication = TopicReplication::Fixed(i32::try_from(self.size()).expect("small"));
            let new = NewTopic::new(topic, partitions, replication).set("retention.ms", "-1");
            properties.iter().fold(new, |new, (key, value)| new.set(key, value))
        };
        let new: Vec<NewTopic<'_>> = topics.iter().copied().map(new).collect();
        let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
        let mut again = false;
        crate::wait_until("the topics to be made", DEADLINE, || {
            let retried = std::mem::replace(&mut again, true);
            let results = block_on(self.admin().create_topics(&new, &options)).expect("the topics can be made");
            results.into_iter().all(|result| match result {
                Ok(_) => true,
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) if retried => true,
                // A broker that a busy machine held up counts as gone until it is heard of again.
                Err((_, RDKafkaErrorCode::InvalidReplicationFactor)) => false,
                Err((topic, code)) => panic!("topic {topic} cannot be made: {code}"),
            })
        });
    }

    /// Adds partitions to a topic, up to `total`.
    #[track_caller]
    pub fn add_partitions(&self, topic: &str, total: usize) {
        let new = NewPartitions::new(topic, total);
        let results = block_on(self.admin().create_partitions([&new], &AdminOptions::new())).expect("it can grow");
        results.into_iter().for_each(|result| {
            result.unwrap_or_else(|(topic, code)| panic!("topic {topic} cannot grow: {code}"));
        });
        self.leader(topic, i32::try_from(total).expect("few") - 1);
    }

    /// Deletes a topic and waits until it is gone.
    #[track_caller]
    pub fn delete_topic(&self, topic: &str) {
        let results = block_on(self.admin().delete_topics(&[topic], &AdminOptions::new())).expect("it can be deleted");
        results.into_iter().for_each(|result| {
            result.unwrap_or_else(|(topic, code)| panic!("topic {topic} cannot be deleted: {code}"));
        });
        crate::wait_until("the topic to be gone", DEADLINE, || !self.topics().contains(topic));
    }

    /// Number of partitions of a topic.
    #[track_caller]
    pub fn partitions(&self, topic: &str) -> i32 {
        let consumer: BaseConsumer = self.consumer_config().create().expect("a consumer can be made");
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).expect("metadata can be fetched");
        let found = metadata.topics().first().expect("the topic was asked for");
        i32::try_from(found.partitions().len()).expect("few")
    }

    /// Names of all topics.
    pub fn topics(&self) -> BTreeSet<String> {
        let consumer: BaseConsumer = self.consumer_config().create().expect("a consumer can be made");
        let metadata = consumer.fetch_metadata(None, DEADLINE).expect("metadata can be fetched");
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// Deletes the records of a partition below `before`.
    #[track_caller]
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).expect("a valid offset");
        block_on(self.admin().delete_records(&list, &AdminOptions::new())).expect("records can be deleted");
        crate::wait_until("the records to be gone", DEADLINE, || self.ends(topic, partition).0 >= before);
    }

    /// First offset kept and next offset written (`read_uncommitted`) of a partition; waits for a leader that knows
    /// them.
    #[track_caller]
    pub fn ends(&self, topic: &str, partition: i32) -> (i64, i64) {
        let mut config = self.consumer_config();
        config.set("isolation.level", "read_uncommitted");
        let consumer: BaseConsumer = config.create().expect("a consumer can be made");
        crate::wait_for("the ends of a partition", DEADLINE, || {
            consumer.fetch_watermarks(topic, partition, DEADLINE).ok()
        })
    }

    /// Writes records and waits until all are acknowledged. Records without a partition are spread by key.
    #[track_caller]
    pub fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Message>) {
        let producer = self.producer(&[]);
        send_all(&producer, topic, messages);
        producer.flush(DEADLINE).expect("the records are delivered");
    }

    /// Like [`Self::produce`], with a topic per record.
    #[track_caller]
    pub fn produce_to<'a>(&self, messages: impl IntoIterator<Item = (&'a str, Message)>) {
        let producer = self.producer(&[]);
        for (topic, message) in messages {
            send_all(&producer, topic, [message]);
        }
        producer.flush(DEADLINE).expect("the records are delivered");
    }

    /// A producer that fails the test at the first record that is not delivered.
    pub fn producer(&self, properties: &[(&str, &str)]) -> BaseProducer<AllDelivered> {
        let mut config = self.client_config();
        config
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.messages", "1000000")
            .set("linger.ms", "5");
        for (key, value) in properties {
            config.set(*key, *value);
        }
        config.create_with_context(AllDelivered).expect("a producer can be made")
    }

    /// Reads all records of a topic up to its current end, ordered by partition and offset.
    #[track_caller]
    pub fn read_all(&self, topic: &str, isolation: Isolation) -> Vec<Record> {
        let mut records = Vec::new();
        self.read_each(topic, isolation, |record| records.push(record));
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// Passes all records of a topic, up to its current end, to `take`; those of one partition in order.
    #[track_caller]
    pub fn read_each(&self, topic: &str, isolation: Isolation, take: impl FnMut(Record)) {
        let mut config = self.consumer_config();
        let level = if isolation == Isolation::Uncommitted { "read_uncommitted" } else { "read_committed" };
        config.set("isolation.level", level).set("fetch.wait.max.ms", "10");
        let consumer: BaseConsumer = config.create().expect("a consumer can be made");
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).expect("metadata can be fetched");
        let found = metadata.topics().first().expect("the topic was asked for");
        assert!(!found.partitions().is_empty(), "topic {topic} does not exist");
        let mut list = TopicPartitionList::new();
        for partition in found.partitions() {
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a valid offset");
        }
        if isolation == Isolation::Committed {
            self.wait_settled(&consumer, topic, found.partitions().len());
        }
        consumer.assign(&list).expect("the partitions can be assigned");
        read_to_ends(&consumer, topic, found.partitions().len(), take);
    }

    /// Waits until no transaction is open in the topic: the broker acknowledges a commit before its markers are
    /// written, and the committed records are not visible until then.
    #[track_caller]
    fn wait_settled(&self, consumer: &BaseConsumer, topic: &str, partitions: usize) {
        for partition in 0..i32::try_from(partitions).expect("few") {
            crate::wait_until(&format!("the transactions in {topic}-{partition} to end"), DEADLINE, || {
                let end = self.ends(topic, partition).1;
                consumer.fetch_watermarks(topic, partition, DEADLINE).is_ok_and(|(_, stable)| stable >= end)
            });
        }
    }
}

fn read_to_ends(consumer: &BaseConsumer, topic: &str, partitions: usize, mut take: impl FnMut(Record)) {
    let (mut read, mut last) = (0_u64, Instant::now());
    let mut ended = BTreeSet::new();
    while ended.len() < partitions {
        assert!(last.elapsed() < DEADLINE, "topic {topic} could not be read to its end; read {read}");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                take(to_record(&message));
                (read, last) = (read + 1, Instant::now());
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            // Temporary errors: brokers are killed in tests. The deadline decides.
            Some(Err(_)) => {}
        }
    }
}

fn to_record(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
    });
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

/// Queues records, waiting while the producer's queue is full.
pub(crate) fn send_all<C>(producer: &BaseProducer<C>, topic: &str, messages: impl IntoIterator<Item = Message>)
where
    C: ProducerContext<DeliveryOpaque = ()>,
{
    for message in messages {
        let headers = message
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_ref() }));
        let mut record: BaseRecord<'_, [u8], [u8], ()> = BaseRecord::to(topic).headers(headers);
        record.partition = message.partition;
        record.key = message.key.as_deref();
        record.payload = message.payload.as_deref();
        record.timestamp = message.timestamp_ms;
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "record refused: {error}");
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        producer.poll(Duration::ZERO);
    }
}

/// Fails the test if a record is not delivered.
pub struct AllDelivered;

impl rdkafka::ClientContext for AllDelivered {}

impl ProducerContext for AllDelivered {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            // Purged records belong to a transaction that the test aborts.
            let purged = error
                .rdkafka_error_code()
                .is_some_and(|code| matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight));
            assert!(purged, "a record to {} was not delivered: {error}", message.topic());
        }
    }
}
