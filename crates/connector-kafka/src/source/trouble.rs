//! Problems with brokers, reported once when they begin and once when they are over.
//!
//! Owns: ignoring harmless errors (idle connections closed, one broker of many down): an error is reported only if the
//! topic's leaders cannot be reached. Does not own: retrying, which librdkafka does by itself.

use crate::client::{Callbacks, Lookup};
use highwater_connector_api::source::SourceEvent;
use rdkafka::consumer::Consumer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// Longest wait for an answer of the brokers, and shortest time between two requests.
const PROBE: Duration = Duration::from_secs(1);

pub struct Trouble {
    topic: Arc<str>,
    /// The consumer's callbacks, with the last errors about brokers.
    callbacks: Arc<Callbacks>,
    events: UnboundedSender<SourceEvent>,
    /// Whether a problem has been reported and is not over yet.
    told: bool,
    /// The refusal of a login or a certificate that was reported; `None` if the problem is another.
    refusal: Option<String>,
    asked: Option<Instant>,
}

impl Trouble {
    pub fn new(topic: Arc<str>, callbacks: Arc<Callbacks>, events: UnboundedSender<SourceEvent>) -> Self {
        Self { topic, callbacks, events, told: false, refusal: None, asked: None }
    }

    /// Sends an event; ignored if the receiver is gone.
    pub fn send(&self, event: SourceEvent) {
        let _ = self.events.send(event);
    }

    /// Reports an error that may be temporary, if the topic's leaders cannot be reached.
    pub fn begin(&mut self, consumer: &Lookup, message: &str) {
        if self.told || self.asked.is_some_and(|asked| asked.elapsed() < PROBE) {
            return;
        }
        if let Err(reason) = self.probe(consumer) {
            self.tell(message, &reason);
        } else {
            self.callbacks.forget();
            tracing::debug!(topic = %self.topic, message, "a connection failed, but all leaders answer");
        }
    }

    fn tell(&mut self, message: &str, reason: &str) {
        self.told = true;
        self.refusal = self.callbacks.refusal();
        let cause = self.refusal.as_deref().unwrap_or(message);
        let message = format!("the brokers of topic '{}' cannot be reached: {cause} ({reason}); retrying", self.topic);
        tracing::warn!("{message}");
        self.send(SourceEvent::Trouble { message });
    }

    /// Reports that the problem is over. Called when an event arrives from a partition.
    pub fn over(&mut self) {
        if self.told {
            self.told = false;
            self.refusal = None;
            self.callbacks.forget();
            tracing::info!(topic = %self.topic, "the brokers can be reached again");
            self.send(SourceEvent::TroubleOver);
        }
    }

    /// Asks the brokers whether a reported problem is over. Called after a wait without events, since a topic without
    /// new records would not show it.
    pub fn check(&mut self, consumer: &Lookup) {
        if !self.told {
            return;
        }
        match self.probe(consumer) {
            Ok(()) => self.over(),
            // A broker that came back but refuses the login is a new problem.
            Err(reason) if self.callbacks.refusal() != self.refusal => self.tell(&reason, &reason),
            Err(_) => {}
        }
    }

    /// Returns an error if the topic's metadata cannot be fetched, or a partition has no leader. This is a cheap check
    /// that does not contact every leader.
    fn probe(&mut self, consumer: &Lookup) -> Result<(), String> {
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
