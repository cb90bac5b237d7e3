//! Progress topics of other queries may be deleted at any time, without delaying this one.

use highwater_connector_kafka::options::KafkaOptions;
use highwater_connector_kafka::sink::{ProgressReader, progress_topic};
use highwater_protocol::ids::{QueryId, SinkId};
use highwater_protocol::options::IsolationLevel;
use highwater_testkit::KafkaCluster;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

#[test]
fn a_deleted_topic_is_noticed_and_skipped_when_all_are_read() {
    let kafka = KafkaCluster::shared();
    let there = progress_topic(QueryId(Uuid::from_u128(1)), SinkId(0));
    kafka.create_topic(&there, 1);
    let options =
        KafkaOptions { topic: None, bootstrap_servers: kafka.bootstrap_servers().into(), properties: BTreeMap::new() };
    let reader = ProgressReader::open(&options, IsolationLevel::ReadCommitted).unwrap();
    let gone = progress_topic(QueryId(Uuid::from_u128(2)), SinkId(0));
    let began = Instant::now();
    let error = reader.read(&BTreeMap::from([(there, None), (gone.clone(), None)])).unwrap_err().to_string();
    assert!(error.contains(&format!("topic '{gone}' was deleted")), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    reader.read_everything().unwrap();
}
