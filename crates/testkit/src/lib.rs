//! What tests need besides the product: a real Apache Kafka, and processes that can be killed.
//!
//! Owns: brokers on free ports, records in and out of topics, child processes, clusters of the binary under test,
//! waiting with deadlines.
//! Does not own: any part of the product, which it uses through the command line only; it is never part of the product.
//! Invariants: everything it starts ends with the test process, however that ends. It panics like a test: a failure
//! here is a failed test.

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
