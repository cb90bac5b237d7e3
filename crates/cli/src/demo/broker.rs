//! The demo's broker: librdkafka's mock cluster, listening on a real port of this machine.
//!
//! Owns: the broker's life and its topics. Does not own: its behaviour. It accepts transactions but does not keep them,
//! and drops records beyond 5 MiB per partition, so it only demonstrates Highwater and proves nothing.

use super::sql::{ALERT_TOPICS, PAYMENTS_TOPIC, TOTALS_TOPIC};
use crate::failure::Failure;
use rdkafka::mocking::MockCluster;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Number of partitions of the payments topic.
pub const PAYMENT_PARTITIONS: i32 = 6;

/// A running broker; it ends when this is dropped.
pub struct Broker {
    pub bootstrap_servers: String,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    pub fn start() -> Result<Self, Failure> {
        let (stop, stopped) = channel();
        let (ready, started) = channel();
        // The cluster holds a raw pointer and cannot move between threads, so it has its own.
        let thread = std::thread::Builder::new()
            .name("demo-broker".to_string())
            .spawn(move || serve(&ready, &stopped))
            .map_err(|error| Failure::failed(format!("cannot start the demo's broker: {error}")))?;
        let bootstrap_servers = started
            .recv()
            .map_err(|_| Failure::failed("the demo's broker ended before it was ready"))?
            .map_err(|error| Failure::failed(format!("cannot start the demo's broker: {error}")))?;
        Ok(Self { bootstrap_servers, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was printed; there is nothing to clean up.
            let _ = thread.join();
        }
    }
}

fn serve(ready: &Sender<Result<String, rdkafka::error::KafkaError>>, stopped: &Receiver<()>) {
    let cluster = match open() {
        Ok(cluster) => cluster,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    if ready.send(Ok(cluster.bootstrap_servers())).is_ok() {
        // Returns when the other side is dropped.
        let _ = stopped.recv();
    }
}

fn open() -> Result<MockCluster<'static, rdkafka::producer::DefaultProducerContext>, rdkafka::error::KafkaError> {
    let cluster = MockCluster::new(1)?;
    cluster.create_topic(PAYMENTS_TOPIC, PAYMENT_PARTITIONS, 1)?;
    for topic in [TOTALS_TOPIC].into_iter().chain(ALERT_TOPICS) {
        cluster.create_topic(topic, 1, 1)?;
    }
    Ok(cluster)
}
