//! Trouble with brokers, told once when it begins and once when it is over.
//!
//! Owns: telling real trouble from noise (idle connections closed, one broker of many gone): an
//! error counts only if the topic's leaders cannot be reached. Does not own: retrying, which
//! librdkafka does by itself.

use super::SourceEvent;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// How long to wait for brokers to answer, and between two questions.
const PROBE: Duration = Duration::from_secs(1);

pub struct Trouble {
    topic: Arc<str>,
    events: UnboundedSender<SourceEvent>,
    /// Told as trouble, not yet over.
    told: bool,
    asked: Option<Instant>,
}

impl Trouble {
    pub fn new(topic: Arc<str>, events: UnboundedSender<SourceEvent>) -> Self {
        Self { topic, events, told: false, asked: None }
    }

    /// The user may not listen any more; then nobody needs to know.
    pub fn send(&self, event: SourceEvent) {
        let _ = self.events.send(event);
    }

    /// An error that may pass.
    pub fn begin(&mut self, consumer: &BaseConsumer, message: &str) {
        if self.told || self.asked.is_some_and(|asked| asked.elapsed() < PROBE) {
            return;
        }
        if let Err(reason) = self.probe(consumer) {
            self.told = true;
            let message =
                format!("the brokers of topic '{}' cannot be reached: {message} ({reason}); retrying", self.topic);
            tracing::warn!("{message}");
            self.send(SourceEvent::Trouble { message });
        } else {
            tracing::debug!(topic = %self.topic, message, "a connection failed, but all leaders answer");
        }
    }

    /// Data flows.
    pub fn over(&mut self) {
        if self.told {
            self.told = false;
            tracing::info!(topic = %self.topic, "the brokers can be reached again");
            self.send(SourceEvent::TroubleOver);
        }
    }

    /// To be called when nothing came for a while: a silent topic has no data to show that it is over.
    pub fn check(&mut self, consumer: &BaseConsumer) {
        if self.told && self.probe(consumer).is_ok() {
            self.over();
        }
    }

    /// True leaders of all partitions answer for themselves only by data; metadata is the best cheap sign.
    fn probe(&mut self, consumer: &BaseConsumer) -> Result<(), String> {
        let result = consumer.fetch_metadata(Some(&self.topic), PROBE);
        self.asked = Some(Instant::now());
        let metadata = result.map_err(|error| error.to_string())?;
        let topic = metadata.topics().first().ok_or("no metadata")?;
        match topic.partitions().iter().find(|partition| partition.leader() < 0) {
            Some(partition) => Err(format!("partition {} has no leader", partition.id())),
            None => Ok(()),
        }
    }
}
