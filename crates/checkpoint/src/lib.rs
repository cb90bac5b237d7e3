//! The checkpoint: where queries, offsets and state are durable.
//!
//! Owns: what is on disk, in which order it is written, and what a crash can leave. Does not own: what a batch is
//! (crate `protocol`), what state means (crate `operators`). Two small traits store the bytes: [`blob::BlobStore`] for
//! files, and [`head::HeadStore`] for the small values that point to them, changed in one transaction. `marks` are
//! separate files that record the newest epoch and batch, so that a head store that lost writes is noticed.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod blob;
mod compact;
mod entries;
mod error;
mod export;
mod files;
mod format;
pub mod head;
mod inspect;
mod keys;
mod lock;
mod marks;
mod prepare;
mod read;
mod specs;
mod store;
#[cfg(test)]
mod tests;
mod values;
mod writers;

pub use compact::{CompactionPolicy, CompactionReport};
pub use entries::StateSize;
pub use error::CheckpointError;
pub use export::Exported;
pub use inspect::{BatchSummary, Verification};
pub use read::Head;
pub use store::CheckpointStore;
