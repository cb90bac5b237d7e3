//! The newest results, read from the demo's topics like any consumer would.
//!
//! Owns: the consumer, and the records it keeps: a few lines, however long the demo runs.

use super::sql::{ALERT_TOPICS, TOTALS_TOPIC};
use crate::failure::Failure;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Number of alerts kept.
const ALERTS: usize = 3;

/// The newest results.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    /// Start of the newest window.
    pub window: String,
    /// Per category of that window: payments and total.
    pub totals: BTreeMap<String, (u64, String)>,
    /// The newest alerts, newest last.
    pub alerts: VecDeque<String>,
    /// Number of all alerts seen.
    pub alert_count: u64,
}

/// A running reader; it ends when this is dropped.
pub struct Results {
    latest: Arc<Mutex<Latest>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Results {
    pub fn start(bootstrap_servers: &str) -> Result<Self, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::failed(format!("cannot read the demo's results: {error}"));
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "highwater-demo-view")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("queued.max.messages.kbytes", "1024")
            .create()
            .map_err(|error| failed(&error))?;
        let mut partitions = TopicPartitionList::new();
        for topic in [TOTALS_TOPIC].into_iter().chain(ALERT_TOPICS) {
            partitions.add_partition_offset(topic, 0, Offset::Beginning).map_err(|error| failed(&error))?;
        }
        consumer.assign(&partitions).map_err(|error| failed(&error))?;
        let (latest, stop) = (Arc::new(Mutex::new(Latest::default())), Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (latest.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("demo-results".to_string())
            .spawn(move || read(&consumer, &shared, &stopped))
            .map_err(|error| failed(&error))?;
        Ok(Self { latest, stop, thread: Some(thread) })
    }

    pub fn latest(&self) -> Latest {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was printed.
            let _ = thread.join();
        }
    }
}

fn read(consumer: &BaseConsumer, latest: &Mutex<Latest>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                let document = message.payload().and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
                if let Some(document) = document {
                    latest.lock().unwrap_or_else(PoisonError::into_inner).add(message.topic(), &document);
                }
            }
            Some(Err(error)) => tracing::debug!(%error, "reading the demo's results"),
            None => {}
        }
    }
}

impl Latest {
    fn add(&mut self, topic: &str, document: &Value) {
        let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or("?").to_string();
        let number = |key: &str| document.get(key).map(Value::to_string).unwrap_or_default();
        if topic == TOTALS_TOPIC {
            let window = text("window_start");
            if window > self.window {
                self.totals.clear();
                self.window.clone_from(&window);
            }
            if window == self.window {
                let payments = document.get("payments").and_then(Value::as_u64).unwrap_or(0);
                self.totals.insert(text("category"), (payments, number("total")));
            }
            return;
        }
        self.alert_count += 1;
        if self.alerts.len() == ALERTS {
            self.alerts.pop_front();
        }
        let (amount, merchant, country) = (number("amount"), text("merchant"), text("country"));
        self.alerts.push_back(format!("{topic:<14} {} paid {amount} at {merchant} ({country})", text("card")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_newest_window_and_a_few_alerts_are_kept() {
        let mut latest = Latest::default();
        let total = |window: &str, category: &str, payments: u64| json!({"window_start": window, "category": category, "payments": payments, "total": 1.5});
        latest.add(TOTALS_TOPIC, &total("2026-01-01T00:00:00", "fuel", 1));
        latest.add(TOTALS_TOPIC, &total("2026-01-01T00:00:10", "travel", 2));
        latest.add(TOTALS_TOPIC, &total("2026-01-01T00:00:00", "fuel", 9));
        assert_eq!(latest.totals.into_iter().collect::<Vec<_>>(), [("travel".to_string(), (2, "1.5".to_string()))]);
        let mut latest = Latest::default();
        for card in 0..10 {
            latest.add("alerts_large", &json!({"card": card.to_string(), "amount": 5}));
        }
        assert_eq!((latest.alerts.len(), latest.alert_count), (ALERTS, 10));
    }
}
