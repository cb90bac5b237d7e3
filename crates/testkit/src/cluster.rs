//! A Kafka cluster of one or three brokers, with its own ports and folder.
//!
//! Owns: which brokers run. Does not own: what is in the topics (see `client`, `transaction`).

use crate::broker::{Broker, ensure_installed};
use crate::ports::free_port;
use crate::wait::wait_until;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::Metadata;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use tempfile::TempDir;

/// Longest wait for brokers to start, or for leaders to move.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Brokers, killed when this is dropped.
pub struct KafkaCluster {
    brokers: Mutex<Vec<Broker>>,
    bootstrap_servers: String,
    size: usize,
    // Declared after the brokers, so that it is removed after they are gone.
    _dir: TempDir,
}

static SHARED: OnceLock<KafkaCluster> = OnceLock::new();

impl KafkaCluster {
    /// Starts `size` brokers (1 or 3; with 3, topics are replicated thrice) and waits until they serve.
    pub fn start(size: usize) -> Self {
        Self::start_with(size, "")
    }

    /// Like [`Self::start`], with more properties for every broker, one per line.
    pub fn start_with(size: usize, properties: &str) -> Self {
        assert!(size == 1 || size == 3, "a cluster has 1 or 3 brokers, not {size}");
        ensure_installed();
        Self::launch(size, folder(), "", properties)
    }

    /// Starts one broker with more listeners: `listeners` are appended to those of every broker (`,NAME://HOST:PORT`),
    /// and `properties` configure them. `dir` holds the files they name, and the broker's data.
    pub(crate) fn start_listening(dir: TempDir, listeners: &str, properties: &str) -> Self {
        ensure_installed();
        Self::launch(1, dir, listeners, properties)
    }

    fn launch(size: usize, dir: TempDir, listeners: &str, properties: &str) -> Self {
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let common = common_properties(&ports);
        let mut brokers: Vec<Broker> = (1..=size)
            .map(|id| {
                let (port, controller) = ports[id - 1];
                let own = format!(
                    "{common}listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}\n\
                     advertised.listeners=PLAINTEXT://127.0.0.1:{port}{listeners}\n{properties}"
                );
                let id_number = i32::try_from(id).expect("small");
                Broker::new(id_number, port, dir.path().join(format!("broker-{id}")), &own)
            })
            .collect();
        for broker in &mut brokers {
            broker.start();
        }
        let servers: Vec<String> = ports.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        let cluster = Self { brokers: Mutex::new(brokers), bootstrap_servers: servers.join(","), size, _dir: dir };
        cluster.wait_serving();
        cluster
    }

    /// One broker that all tests of this process share. Never kill it.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::start(1))
    }

    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Number of brokers, running or not.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Kills broker `id` (1, 2, …, as in Kafka's metadata) with SIGKILL.
    pub fn kill_broker(&self, id: i32) {
        self.with(id, Broker::kill);
    }

    /// Restarts a killed broker with its data, and waits until the whole cluster serves.
    pub fn restart_broker(&self, id: i32) {
        self.with(id, Broker::start);
        self.wait_serving();
    }

    /// Restarts a killed broker with its data, without waiting for it or the others.
    pub fn start_broker(&self, id: i32) {
        self.with(id, Broker::start);
    }

    /// Stops a broker with SIGSTOP: it hangs, and its connections stay open.
    pub fn freeze_broker(&self, id: i32) {
        self.with(id, |broker| broker.freeze());
    }

    /// Ends [`Self::freeze_broker`].
    pub fn thaw_broker(&self, id: i32) {
        self.with(id, |broker| broker.thaw());
    }

    /// Kills all brokers with SIGKILL.
    pub fn stop_all(&self) {
        self.lock().iter_mut().for_each(Broker::kill);
    }

    /// Starts all brokers that do not run, and waits until they serve.
    pub fn start_all(&self) {
        for broker in self.lock().iter_mut().filter(|broker| !broker.is_running()) {
            broker.start();
        }
        self.wait_serving();
    }

    /// Returns the broker that leads this partition; waits until a running broker does.
    pub fn leader(&self, topic: &str, partition: i32) -> i32 {
        let consumer = self.metadata_client();
        let running: Vec<i32> = self.lock().iter().filter(|b| b.is_running()).map(|b| b.id).collect();
        crate::wait_for(&format!("a leader of {topic}-{partition}"), DEADLINE, || {
            let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(2)).ok()?;
            let topic = metadata.topics().first()?;
            let leader = topic.partitions().iter().find(|p| p.id() == partition)?.leader();
            running.contains(&leader).then_some(leader)
        })
    }

    /// Returns the broker that coordinates the transactions of this `transactional.id`, which was used before.
    pub fn transaction_coordinator(&self, transactional_id: &str) -> i32 {
        let consumer = self.metadata_client();
        let partitions = crate::wait_for("the transaction log", DEADLINE, || {
            let metadata = consumer.fetch_metadata(Some("__transaction_state"), Duration::from_secs(2)).ok()?;
            metadata.topics().first().map(|topic| topic.partitions().len()).filter(|count| *count > 0)
        });
        let partitions = i32::try_from(partitions).expect("few");
        self.leader("__transaction_state", java_hash(transactional_id).wrapping_abs().max(0) % partitions)
    }

    /// Waits until every replica of every partition of `topic` is in sync.
    pub fn wait_in_sync(&self, topic: &str) {
        let consumer = self.metadata_client();
        wait_until(&format!("all replicas of {topic} in sync"), DEADLINE, || {
            consumer.fetch_metadata(Some(topic), Duration::from_secs(2)).is_ok_and(|metadata| {
                metadata.topics().iter().all(|topic| {
                    !topic.partitions().is_empty()
                        && topic.partitions().iter().all(|p| p.isr().len() == p.replicas().len() && p.leader() > 0)
                })
            })
        });
    }

    /// Returns the logs of all brokers, for the message of a failed test.
    pub fn logs(&self) -> String {
        self.lock().iter().map(|broker| format!("== broker {}\n{}", broker.id, broker.log())).collect()
    }

    fn wait_serving(&self) {
        let consumer = self.metadata_client();
        let all = |metadata: &Metadata| metadata.brokers().len() == self.size;
        wait_until("Kafka to serve", DEADLINE, || {
            self.lock().iter_mut().for_each(Broker::assert_alive);
            consumer.fetch_metadata(None, Duration::from_millis(500)).is_ok_and(|metadata| all(&metadata))
        });
    }

    fn metadata_client(&self) -> BaseConsumer {
        self.consumer_config().create().expect("a consumer can be made")
    }

    fn with(&self, id: i32, act: impl FnOnce(&mut Broker)) {
        let mut brokers = self.lock();
        let broker = brokers.iter_mut().find(|broker| broker.id == id).unwrap_or_else(|| panic!("no broker {id}"));
        act(broker);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Broker>> {
        // A test that panicked while it held the lock must not hide its own message.
        self.brokers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Creates a folder for brokers.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("highwater-kafka-").tempdir().expect("a folder can be made")
}

/// Java's `String.hashCode`, which Kafka uses to spread transactional ids.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

fn common_properties(ports: &[(u16, u16)]) -> String {
    let size = ports.len();
    let voters: Vec<String> =
        ports.iter().enumerate().map(|(i, (_, port))| format!("{}@127.0.0.1:{port}", i + 1)).collect();
    let mut text = format!("controller.quorum.voters={}\n", voters.join(","));
    if size > 1 {
        for key in [
            "default.replication.factor",
            "offsets.topic.replication.factor",
            "transaction.state.log.replication.factor",
        ] {
            let _ = writeln!(text, "{key}={size}");
        }
        // Writes continue after the death of one broker.
        for key in ["min.insync.replicas", "transaction.state.log.min.isr"] {
            let _ = writeln!(text, "{key}=2");
        }
    }
    text
}
