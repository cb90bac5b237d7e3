//! How a reader thread handles errors: positions outside the log, refusals, a recreated topic.
//!
//! Owns: failing partitions, and reporting why. Does not own: the reaction (the driver decides and assigns again).
//! Invariant: a partition is failed before the failure is reported, so that a failure never hits a later assignment.

use super::worker::{Worker, current};
use crate::error::{classify, classify_code};
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::source::SourceEvent;
use highwater_protocol::offsets::TopicPartition;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::time::Duration;

/// Longest wait for the ends of a log.
const ENDS_TIMEOUT: Duration = Duration::from_secs(5);

impl Worker {
    /// Fails all partitions, since records of a recreated topic cannot be told apart from those of the expected topic.
    pub(super) fn topic_changed(&mut self) {
        let held: Vec<i32> =
            self.held.iter().filter(|(_, held)| !held.parked).map(|(partition, _)| *partition).collect();
        if held.is_empty() {
            return;
        }
        let found = self.incarnation.other().unwrap_or_default().to_string();
        let failure = ConnectorError::Unavailable {
            context: format!("reading topic '{}'", self.topic),
            message: format!("the topic was deleted and recreated: its id is now {found}"),
        };
        tracing::warn!("{failure}");
        for partition in held {
            self.fail(partition, failure.clone());
        }
        self.trouble.send(SourceEvent::TopicChanged { found });
    }

    pub(super) fn take_failure(
        &mut self,
        partition: Option<i32>,
        code: RDKafkaErrorCode,
        message: String,
        fatal: bool,
    ) {
        use RDKafkaErrorCode as C;
        let message = if message.is_empty() { code.to_string() } else { message };
        match (code, partition) {
            (C::AutoOffsetReset | C::OffsetOutOfRange, Some(partition)) => self.out_of_range(partition, &message),
            // The topic was deleted and may be recreated: the driver checks it, and decides how long to wait.
            (C::UnknownTopic | C::UnknownTopicOrPartition | C::UnknownPartition, _) => {
                tracing::debug!(topic = %self.topic, message, "the topic does not exist");
            }
            _ if fatal || crate::error::is_refused(code) => self.refused(partition, code, message),
            _ => self.trouble.begin(self.queue.consumer(), &message),
        }
    }

    /// Handles a position that is outside the log, or a log that was truncated below it.
    fn out_of_range(&mut self, partition: i32, message: &str) {
        let Some(held) = self.held.get_mut(&partition).filter(|held| !held.parked) else { return };
        let diverged = truncated_at(message);
        if !held.is_read() || (diverged.is_some() && held.validation.ask_again()) {
            if let Err(error) = self.place_again(partition) {
                self.fail_to_place(partition, &error);
            }
            return;
        }
        self.lost(partition, diverged, message);
    }

    /// Handles a record at an offset that held none when the partition was read.
    pub(super) fn rewritten(&mut self, partition: i32, offset: i64) {
        self.lost(partition, Some(offset), "there is a record at an offset that held none before");
    }

    /// Looks up the bounds of the log, then fails and reports the partition. If the position is valid after all, places
    /// the partition again.
    fn lost(&mut self, partition: i32, diverged: Option<i64>, message: &str) {
        let Some(held) = self.held.get_mut(&partition) else { return };
        let position = held.next;
        let tp = TopicPartition::new(self.topic.clone(), partition);
        match self.queue.consumer().fetch_watermarks(&self.topic, partition, ENDS_TIMEOUT) {
            Ok((earliest, latest))
                if (position < earliest || position > latest || diverged.is_some())
                    && !(diverged.is_none() && held.validation.ask_where(latest)) =>
            {
                tracing::warn!(%tp, position, earliest, latest, message, "offset out of range");
                self.fail(partition, ConnectorError::OffsetOutOfRange { tp: tp.clone(), position, earliest, latest });
                // Last, since the driver may then assign the partition again at once.
                self.trouble.send(SourceEvent::OffsetOutOfRange { tp, position, earliest, latest, diverged });
            }
            // The position is in the log after all, or the brokers did not answer: fetch again.
            found => {
                if found.is_ok_and(|(earliest, _)| held.validation.last.is_some_and(|last| last.offset + 1 < earliest))
                {
                    // Retention deleted the last record, so the leader can no longer be asked about it.
                    held.validation.last = None;
                }
                if let Err(error) = self.place_again(partition) {
                    self.fail_to_place(partition, &error);
                }
            }
        }
    }

    pub(super) fn fail_to_place(&mut self, partition: i32, error: &KafkaError) {
        let tp = TopicPartition::new(self.topic.clone(), partition);
        self.fail(partition, classify(format!("assigning {tp}"), error));
    }

    fn refused(&mut self, partition: Option<i32>, code: RDKafkaErrorCode, message: String) {
        let context = match partition {
            Some(partition) => format!("Kafka refuses to read {}-{partition}", self.topic),
            None => format!("Kafka refuses to read '{}'", self.topic),
        };
        let failure = classify_code(context, Some(code), message);
        self.trouble.send(SourceEvent::Refused { message: failure.to_string() });
        let all = self.held.keys().copied().collect();
        for partition in partition.map_or(all, |partition| vec![partition]) {
            self.fail(partition, failure.clone());
        }
    }

    /// Makes range reads of the partition fail until it is assigned again.
    pub(super) fn fail(&mut self, partition: i32, failure: ConnectorError) {
        let Some(held) = self.held.get_mut(&partition) else { return };
        let generation = held.generation;
        if !std::mem::replace(&mut held.parked, true)
            && let Err(error) = self.unplace(partition)
        {
            tracing::debug!(topic = %self.topic, partition, %error, "cannot stop reading a failed partition");
        }
        self.shared.with(|state| {
            // A partition that was assigned again meanwhile has not failed.
            if let Some(buffer) = current(state, partition, generation) {
                buffer.failure = Some(failure);
                buffer.changed = true;
            }
        });
        self.shared.tell();
    }
}

/// Parses the offset from which a log was rewritten out of librdkafka's message about a truncation; `None` for any
/// other message.
fn truncated_at(message: &str) -> Option<i64> {
    if !message.contains("log truncation detected") {
        return None;
    }
    let (_, rest) = message.split_once("broker end offset is ")?;
    let number = rest.split(|c: char| c != '-' && !c.is_ascii_digit()).next()?;
    // -1 means that the log has no record of this epoch or an earlier one.
    number.parse().ok().map(|at: i64| at.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncation_tells_from_where_on_the_log_was_rewritten() {
        let message = "Partition log truncation detected at offset 12 (leader epoch 3): broker end offset is 7 (offset \
                       leader epoch 2). Reset to INVALID.: Local: Partition log truncation detected";
        assert_eq!(truncated_at(message), Some(7));
        let nothing = "No epoch found less or equal to offset 12 (leader epoch 3): broker end offset is -1 (offset leader \
                       epoch -1). Reset using configured policy.: Local: Partition log truncation detected (broker 2)";
        assert_eq!(truncated_at(nothing), Some(0), "nothing of it is as it was");
        let gone = "fetch failed due to requested offset not available on the broker: Broker: Offset out of range";
        assert_eq!(truncated_at(gone), None);
    }
}
