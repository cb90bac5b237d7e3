//! Kafka sources: long-lived consumers that prefetch, decode to Arrow and keep uncommitted records.
//!
//! Owns: how records are read. Does not own: which ranges are read (plans), processing the rows (operators).
//! Path of a record: `queue` (librdkafka) → `worker` (a thread) → `raw` (undecoded) → `chunk`
//! (decoded, key and value by `parts`) → `buffer` (kept until released) → `reader` (the async side).

mod buffer;
mod chunk;
mod failing;
mod incarnation;
mod meta;
mod origins;
mod parts;
mod placing;
mod queue;
mod raw;
mod reader;
mod shared;
mod trouble;
mod validation;
mod worker;

pub use reader::KafkaReader;
