//! The engine: SQL scripts to dataflows, and dataflows over Arrow batches with weights.
//!
//! Owns: the SQL frontend (`sql`, `plan`), the declarations of `formats`, the compiled query (`query`, `dataflow`), the incremental operators
//! (`runtime`) and their state (`state`). Does not own: Kafka, the network, storage, threads.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod changelog;
pub mod compile;
pub mod dataflow;
pub mod error;
pub mod explain;
pub mod files;
pub mod formats;
mod lookup;
pub mod operators;
pub mod plan;
pub mod query;
pub mod references;
pub mod runtime;
pub mod sql;
pub mod state;

pub use compile::compile;
pub use query::{CompiledQuery, SinkTable, SourceTable};
