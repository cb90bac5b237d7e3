//! Trouble with brokers, told once when it begins and once when it is over.
//!
//! Owns: telling real trouble from noise (idle connections closed, one broker of many gone): an
//! error counts only if the topic's leaders cannot be reached. Does not own: retrying, which
//! librdkafka does by itself.

use crate::client::{Callbacks, Lookup};
use highwater_connector_api::source::SourceEvent;
use rdkafka::consumer::Consumer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// How long to wait for brokers to answer, and between two questions.
const PROBE: Duration = Duration::from_secs(1);

pub struct Trouble {
    topic: Arc<str>,
    /// What the consumer has heard.
    callbacks: Arc<Callbacks>,
    events: UnboundedSender<SourceEvent>,
    /// Told as trouble, not yet over.
    told: bool,
    /// The refusal of a login or a certificate that was told.
    refusal: Option<String>,
    asked: Option<Instant>,
}

impl Trouble {
    pub fn new(topic: Arc<str>, callbacks: Arc<Callbacks>, events: UnboundedSender<SourceEvent>) -> Self {
        Self { topic, callbacks, events, told: false, refusal: None, asked: None }
    }

    /// The user may not listen any more; then nobody needs to know.
    pub fn send(&self, event: SourceEvent) {
        let _ = self.events.send(event);
    }

    /// An error that may pass.
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

    /// Data flows.
    pub fn over(&mut self) {
        if self.told {
            self.told = false;
            self.refusal = None;
            self.callbacks.forget();
            tracing::info!(topic = %self.topic, "the brokers can be reached again");
            self.send(SourceEvent::TroubleOver);
        }
    }

    /// To be called when nothing came for a while: a silent topic has no data to show that it is over.
    pub fn check(&mut self, consumer: &Lookup) {
        if !self.told {
            return;
        }
        match self.probe(consumer) {
            Ok(()) => self.over(),
            // A broker that came back and refuses the login says more than one that was away.
            Err(reason) if self.callbacks.refusal() != self.refusal => self.tell(&reason, &reason),
            Err(_) => {}
        }
    }

    /// True leaders of all partitions answer for themselves only by data; metadata is the best cheap sign.
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
