//! What tests need around the product: a real Apache Kafka, and processes that can be killed.
//!
//! Owns: brokers of its own on free ports, records in and out of topics, child processes, clusters of the binary
//! under test, waiting with deadlines.
//! Does not own: anything of the product, of which it is never part: it knows Highwater by its command line only.
//! Invariants: everything it starts ends with the test process, however that ends. It panics where a test
//! would: what fails here is a failed test.

pub mod broker;
pub mod certificates;
pub mod client;
pub mod cluster;
pub mod highwater;
pub mod ledger;
pub mod payments;
pub mod ports;
pub mod process;
pub mod record;
pub mod secure;
pub mod tokens;
pub mod transaction;
pub mod wait;

pub use client::Isolation;
pub use cluster::KafkaCluster;
pub use highwater::Highwater;
pub use ledger::Ledger;
pub use payments::Payments;
pub use process::Process;
pub use record::{Message, Record};
pub use secure::SecureKafka;
pub use wait::{wait_for, wait_until};
