//! Waiting until a committed transaction is visible to readers.
//!
//! Owns: that wait, and the unsafe call that rdkafka wraps for consumers only. A coordinator acknowledges a commit
//! before it writes the markers into the partitions. Until a partition has its marker, readers do not see the committed
//! records there, but could already see a later batch in another partition.

#![allow(unsafe_code)]

use super::deliveries::{Deliveries, First, ends_of};
use rdkafka::bindings as sys;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// Longest wait for one answer of the brokers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between two requests.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// Waits until the last stable offsets have passed the first offsets of a transaction, so that readers see it. Returns
/// false if they have not within `patience`: markers are late, or another producer's open transaction hides the
/// records.
pub fn wait_visible(client: &Client<Deliveries>, mut partitions: Vec<First>, patience: Duration) -> bool {
    if partitions.iter().any(|first| first.offset < 0) {
        return false;
    }
    let begun = Instant::now();
    let mut pause = PAUSE;
    loop {
        // An error may be temporary.
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

/// Returns the last stable offsets, from all leaders at the same time. The request is `read_committed`: this is
/// librdkafka's default, and a producer cannot change it, since the property belongs to consumers.
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
