//! When a transaction that was committed can be read.
//!
//! Owns: waiting for that, with the call rdkafka wraps for consumers only, and its unsafe code. A coordinator
//! acknowledges a commit before it writes the markers into the partitions. Until a partition has its marker, readers do
//! not see what was committed there; a later batch in another partition they might see before.

#![allow(unsafe_code)]

use super::deliveries::{Deliveries, First, ends_of};
use rdkafka::bindings as sys;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// Longest wait for one answer of the brokers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks, at first and at most.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// Waits until the transaction that begins at these offsets hides nothing any more. False if that is not known within
/// `patience`: markers are late, or a stranger's transaction, open in the same partition, hides it as well.
pub fn wait_visible(client: &Client<Deliveries>, mut partitions: Vec<First>, patience: Duration) -> bool {
    if partitions.iter().any(|first| first.offset < 0) {
        return false;
    }
    let begun = Instant::now();
    let mut pause = PAUSE;
    loop {
        // What brokers do not say now, they may say in a moment.
        if let Ok(list) = stable_ends(client, &partitions) {
            partitions.retain(|first| !is_visible(&list, first));
        }
        if partitions.is_empty() {
            return true;
        }
        if begun.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn is_visible(ends: &TopicPartitionList, first: &First) -> bool {
    let end = ends.find_partition(&first.topic, first.partition);
    end.is_some_and(|end| end.error().is_ok() && matches!(end.offset(), Offset::Offset(end) if end > first.offset))
}

/// The last stable offsets, from all leaders at the same time. A producer reads `read_committed`, librdkafka's default:
/// the property is a consumer's, and cannot be set for a producer.
fn stable_ends(client: &Client<Deliveries>, partitions: &[First]) -> Result<TopicPartitionList, KafkaError> {
    let list = ends_of(partitions)?;
    let millis = i32::try_from(ANSWER_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: client and list outlive the call, which changes nothing but the list's offsets and errors.
    let code = unsafe { sys::rd_kafka_offsets_for_times(client.native_ptr(), list.ptr(), millis) };
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(list),
        code => Err(KafkaError::OffsetFetch(code)),
    }
}
