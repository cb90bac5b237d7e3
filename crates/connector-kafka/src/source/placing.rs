//! Where the consumer reads a partition, and that the log there is the one that was read before.
//!
//! Owns: assigning partitions to the consumer, and having their logs validated (KIP-320). Does not own: which partitions
//! are read (`worker`), what a truncated log leads to (`failing`).
//!
//! librdkafka asks a leader about the leader epoch of a position when the leader changes and when the application seeks,
//! not when it assigns. So a partition whose last record is known is assigned behind that record, and sought to at once: the
//! answer costs one round trip before the first fetch. The last record, not the position: what lies between (markers,
//! aborted records, what compaction took) may be of later leaders whose epochs nobody has told. No record may be there.
//! Invariant: nothing the consumer says of a partition counts before it has taken the seek.

use super::worker::{Held, Worker};
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

impl Held {
    /// What the consumer says of the partition counts.
    pub(super) fn is_read(&self) -> bool {
        !self.parked && !self.validation.due
    }
}

impl Worker {
    /// Has the consumer read `partition` on from where it is, if the log is still the one it was.
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

    /// Seeks again where the consumer was not ready. True: somewhere it still is not.
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
            // librdkafka keeps the pause for the next time the partition is assigned.
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
