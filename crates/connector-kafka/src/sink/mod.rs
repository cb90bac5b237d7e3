//! The Kafka sink: transactions that hold a batch until it is published, and records of progress that recovery reads.
//!
//! Owns: writers, their progress in Kafka, fencing, and finding out what was published. Does not own: when to publish
//! (protocol), encoding (`sink::records` in `connector-api`). All calls block.
//! Invariants: nothing is visible to a `read_committed` reader before `publish`; recovery draws no conclusion before
//! every writer's transactional id is fenced.

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
