//! Generates card payments: mostly small, some large, some abroad.
//!
//! Owns: the records and their rate. Invariant: never more than `rate` records a second on average, so that the
//! broker's five megabytes per partition last for minutes.

use super::sql::PAYMENTS_TOPIC;
use crate::failure::Failure;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CARDS: u32 = 2_000;
const COUNTRIES: [&str; 6] = ["DE", "FR", "GB", "JP", "US", "BR"];
const CATEGORIES: [(&str, &[&str]); 5] = [
    ("fuel", &["Esso Nord", "Aral Mitte"]),
    ("groceries", &["Corner Shop", "Big Basket", "Green Market"]),
    ("restaurants", &["Trattoria Roma", "Sushi Go", "Diner 66"]),
    ("travel", &["Skyline Air", "Hotel Adler", "Night Train"]),
    ("electronics", &["Volt & Co", "Pixel Store"]),
];
/// How often records are handed to the producer.
const TICK: Duration = Duration::from_millis(20);

/// A running generator; it ends when this is dropped.
pub struct Generator {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Generator {
    pub fn start(bootstrap_servers: &str, rate: u32) -> Result<Self, Failure> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20")
            .create()
            .map_err(|error| Failure::failed(format!("cannot start the demo's generator: {error}")))?;
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped) = (sent.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("demo-generator".to_string())
            .spawn(move || generate(&producer, rate, &counter, &stopped))
            .map_err(|error| Failure::failed(format!("cannot start the demo's generator: {error}")))?;
        Ok(Self { sent, stop, thread: Some(thread) })
    }

    /// Number of payments so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was printed.
            let _ = thread.join();
        }
    }
}

fn generate(producer: &BaseProducer, rate: u32, sent: &AtomicU64, stop: &AtomicBool) {
    let mut rng = SmallRng::from_os_rng();
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        for id in sent.load(Ordering::Relaxed)..due {
            let (card, payment) = payment(&mut rng, id);
            send(producer, &card, &payment);
            sent.store(id + 1, Ordering::Relaxed);
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(TICK);
    }
    // Records still in flight may be lost, since the demo is over.
    let _ = producer.flush(Duration::from_secs(2));
}

fn send(producer: &BaseProducer, card: &str, payment: &str) {
    let mut record = BaseRecord::to(PAYMENTS_TOPIC).key(card).payload(payment);
    loop {
        match producer.send(record) {
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(TICK);
                record = back;
            }
            Err((error, _)) => return tracing::warn!(%error, "a generated payment was not sent"),
            Ok(()) => return,
        }
    }
}

/// Creates one payment: its card and its JSON.
fn payment(rng: &mut SmallRng, id: u64) -> (String, String) {
    let number = rng.random_range(0..CARDS);
    let home = COUNTRIES[number as usize % COUNTRIES.len()];
    let country = if rng.random_bool(0.01) { COUNTRIES[rng.random_range(0..COUNTRIES.len())] } else { home };
    let (category, merchants) = CATEGORIES[rng.random_range(0..CATEGORIES.len())];
    let merchant = merchants[rng.random_range(0..merchants.len())];
    let cents = if rng.random_bool(0.0005) {
        rng.random_range(100_000..900_000)
    } else {
        // Small amounts are common, larger ones rarer.
        (100.0 + 2_500.0 * -rng.random_range(0.0001_f64..1.0).ln()) as u32
    };
    let card = format!("card-{number:04}");
    let document = serde_json::json!({
        "id": id,
        "card": card,
        "merchant": merchant,
        "category": category,
        "country": country,
        "home": home,
        "amount": f64::from(cents) / 100.0,
        "ts": chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3f").to_string(),
    });
    (card, document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_match_the_examples_declarations() {
        let mut rng = SmallRng::seed_from_u64(1);
        for id in 0..1000 {
            let (card, text) = payment(&mut rng, id);
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(document["card"], card);
            assert!(document["amount"].as_f64().unwrap() > 0.0 && document["amount"].as_f64().unwrap() < 10_000.0);
            for key in ["id", "merchant", "category", "country", "home", "ts"] {
                assert!(!document[key].is_null(), "{key}");
            }
        }
    }
}
