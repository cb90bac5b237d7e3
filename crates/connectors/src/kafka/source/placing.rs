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
use highwater_protocol::offsets::LastRecord;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How often a leader is asked from where on a log was rewritten.
const MOST_ASKED: u8 = 20;

/// How far the log of a partition is validated.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// The last record before the next offset to come, where its leader epoch is known.
    pub last: Option<LastRecord>,
    /// The consumer has yet to take the seek.
    due: bool,
    /// The leader has once said that the log was truncated.
    doubted: bool,
    /// How often it was asked although a fetch had failed.
    asked: u8,
}

impl Validation {
    pub fn behind(last: Option<LastRecord>) -> Self {
        Self { last, ..Self::default() }
    }

    /// True when a truncation is told for the first time: the answer may be one to an earlier question, about another
    /// position. False where there is nothing to ask about.
    pub fn ask_again(&mut self) -> bool {
        self.last.is_some() && !std::mem::replace(&mut self.doubted, true)
    }

    /// The log ends at or before the last record, and a fetch was told so before the leader said from where on it was
    /// rewritten: one that is sent between the assignment and the seek. True a limited number of times, since brokers that
    /// do not know the question always let the fetch fail.
    pub fn ask_where(&mut self, latest: i64) -> bool {
        let ask = self.asked < MOST_ASKED && self.last.is_some_and(|last| last.offset >= latest);
        self.asked += u8::from(ask);
        ask
    }

    /// There was no record at `offset` when the log was read up to `next`.
    pub fn is_new(&self, offset: i64, next: i64) -> bool {
        offset < next && self.last.is_some_and(|last| offset > last.offset)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(offset: i64) -> Validation {
        Validation::behind(Some(LastRecord { offset, leader_epoch: 1 }))
    }

    #[test]
    fn a_truncation_is_believed_when_it_is_told_twice_or_cannot_be_asked_about() {
        let mut validation = behind(9);
        assert!(validation.ask_again());
        assert!(!validation.ask_again());
        assert!(!Validation::default().ask_again());
    }

    #[test]
    fn where_a_shorter_log_was_rewritten_is_asked_but_not_for_ever() {
        let mut validation = behind(9);
        assert!(!validation.ask_where(10), "it holds the last record");
        assert_eq!((0..100).filter(|_| validation.ask_where(9)).count(), usize::from(MOST_ASKED));
        assert!(!Validation::default().ask_where(0));
    }

    #[test]
    fn a_record_between_the_last_one_and_the_position_was_not_there_when_they_were_read() {
        // given records up to 9, and markers up to 12
        let (validation, next) = (behind(9), 12);
        // then
        assert_eq!([9, 10, 11, 12].map(|offset| validation.is_new(offset, next)), [false, true, true, false]);
        assert!(!Validation::default().is_new(10, next));
    }
}
