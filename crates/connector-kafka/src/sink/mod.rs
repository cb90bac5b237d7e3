//! The Kafka sink: transactions that hold a batch until it is published, and what tells whether they were.
//!
//! Owns: writers, their progress in Kafka, fencing and asking. Does not own: when to publish (protocol), encoding
//! (`sink::records`). All calls block.
//! Invariants: nothing is visible to a `read_committed` reader before `publish`; recovery concludes nothing before every
//! writer's transactional id is fenced.

mod deliveries;
mod producer;
mod progress_topic;
mod resolve;
mod token;
mod visible;
mod writer;

pub use progress_topic::{Progress, ProgressKey, ProgressReader, progress_topic};
pub(super) use resolve::resolve_writers;
pub use writer::KafkaWriter;
