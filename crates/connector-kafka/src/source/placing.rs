//! Assigning partitions to the consumer at a position, and validating that the log still holds what was read before.
//!
//! Owns: assigning partitions, and having their logs validated by leader epoch (KIP-320). Does not own: which
//! partitions are read (`worker`), the reaction to a truncated log (`failing`).
//!
//! librdkafka validates a position's leader epoch with the leader when the leader changes and when the application
//! seeks, but not when it assigns. So a partition whose last record is known is assigned behind that record, and the
//! consumer seeks there at once, which costs one round trip before the first fetch. The last record is used and not the
//! position, since the offsets between them (markers, aborted or compacted records) may belong to later leader epochs,
//! which are unknown. No record may appear there.
//! Invariant: events of a partition are ignored until the consumer has accepted the seek.

use super::worker::{Held, Worker};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

impl Held {
    /// Returns whether events of the partition are used.
    pub(super) fn is_read(&self) -> bool {
        !self.parked && !self.validation.due
    }
}

impl Worker {
    /// Assigns `partition` to the consumer at its position; reading continues only if the log still holds the last
    /// record.
    pub(super) fn place(&mut self, partition: i32) -> Result<(), KafkaError> {
        let Some(held) = self.held.get_mut(&partition) else { return Ok(()) };
        let behind = held.validation.last.map(|last| last.offset + 1);
        held.validation.due = behind.is_some();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(behind.unwrap_or(held.next)))?;
        self.queue.consumer().incremental_assign(&list)?;
        self.validate(partition);
        Ok(())
    }

    pub(super) fn place_again(&mut self, partition: i32) -> Result<(), KafkaError> {
        self.unplace(partition)?;
        self.place(partition)
    }

    fn validate(&mut self, partition: i32) {
        let Some(held) = self.held.get_mut(&partition).filter(|held| held.validation.due && !held.parked) else {
            return;
        };
        let Some(last) = held.validation.last else { return };
        match self.queue.seek_behind(&self.topic, partition, last) {
            Ok(taken) => held.validation.due = !taken,
            Err(error) => tracing::debug!(topic = %self.topic, partition, %error, "cannot seek yet"),
        }
    }

    /// Repeats seeks for which the consumer was not ready. Returns true if it is still not ready for one of them.
    pub(super) fn validate_due(&mut self) -> bool {
        let is_due = |held: &Held| held.validation.due && !held.parked;
        let due: Vec<i32> =
            self.held.iter().filter(|(_, held)| is_due(held)).map(|(partition, _)| *partition).collect();
        for partition in due {
            self.validate(partition);
        }
        self.held.values().any(is_due)
    }

    pub(super) fn unplace(&mut self, partition: i32) -> Result<(), KafkaError> {
        let list = self.list_of(partition);
        if let Some(held) = self.held.get_mut(&partition)
            && std::mem::take(&mut held.paused)
        {
            // Otherwise the partition would still be paused when it is assigned again.
            self.queue.consumer().resume(&list)?;
        }
        self.queue.consumer().incremental_unassign(&list)
    }

    pub(super) fn list_of(&self, partition: i32) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition);
        list
    }
}
