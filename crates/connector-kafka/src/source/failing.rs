//! What a reader thread makes of errors: positions outside the log, refusals, another topic under the name.
//!
//! Owns: failing partitions, and telling why. Does not own: what is done about it (the driver decides and assigns anew).
//! Invariant: a partition fails before it is told, so that a new assignment never meets the failure of the old one.

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
    /// Nothing that comes from now on belongs to the topic that was asked for, nor may it be told from what does.
    pub(super) fn topic_changed(&mut self) {
        let held: Vec<i32> =
            self.held.iter().filter(|(_, held)| !held.parked).map(|(partition, _)| *partition).collect();
        if held.is_empty() {
            return;
        }
        let found = self.incarnation.other().unwrap_or_default().to_string();
        let failure = ConnectorError::Unavailable {
            context: format!("reading topic '{}'", self.topic),
            message: format!("the topic of this name has another id now ({found}): it was deleted and recreated"),
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
            // Deleted, perhaps to be created again: the driver looks, and decides how long to wait.
            (C::UnknownTopic | C::UnknownTopicOrPartition | C::UnknownPartition, _) => {
                tracing::debug!(topic = %self.topic, message, "the topic is not there");
            }
            _ if fatal || crate::error::is_refused(code) => self.refused(partition, code, message),
            _ => self.trouble.begin(self.queue.consumer(), &message),
        }
    }

    /// The log does not have the position, or other records below it.
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

    /// There is a record where there was none when the partition was read.
    pub(super) fn rewritten(&mut self, partition: i32, offset: i64) {
        self.lost(partition, Some(offset), "a record that was not there before");
    }

    /// Looks up what the log has, and lets the reads fail.
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
                // Last: whoever hears it may assign the partition anew at once.
                self.trouble.send(SourceEvent::OffsetOutOfRange { tp, position, earliest, latest, diverged });
            }
            // It is there after all, or the brokers do not say: have it fetched again.
            found => {
                if found.is_ok_and(|(earliest, _)| held.validation.last.is_some_and(|last| last.offset + 1 < earliest))
                {
                    // The last record was deleted, and all that followed it up to where the log begins.
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

    /// Reads of the partition fail from now on, until it is assigned again.
    pub(super) fn fail(&mut self, partition: i32, failure: ConnectorError) {
        let Some(held) = self.held.get_mut(&partition) else { return };
        let generation = held.generation;
        if !std::mem::replace(&mut held.parked, true)
            && let Err(error) = self.unplace(partition)
        {
            tracing::debug!(topic = %self.topic, partition, %error, "cannot stop reading a failed partition");
        }
        self.shared.with(|state| {
            // Not the buffer of one that was assigned anew meanwhile: nothing has failed there.
            if let Some(buffer) = current(state, partition, generation) {
                buffer.failure = Some(failure);
                buffer.changed = true;
            }
        });
        self.shared.tell();
    }
}

/// From where on a log was rewritten, of the message by which librdkafka tells that it was truncated.
fn truncated_at(message: &str) -> Option<i64> {
    if !message.contains("log truncation detected") {
        return None;
    }
    let (_, rest) = message.split_once("broker end offset is ")?;
    let number = rest.split(|c: char| c != '-' && !c.is_ascii_digit()).next()?;
    // -1: the log has no record of such an epoch, nor of an earlier one.
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
