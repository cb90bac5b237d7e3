//! The second half of the SQL frontend: a checked script becomes a query that can run.
//!
//! Owns: planning (`plan`), the order of its steps (`compile`), the compiled query (`query`), how it gets the rows of
//! lookup tables (`snapshots`), `explain`. Does not own: syntax and options (crate `sql`), operators and running them
//! (crates `operators` and `dataflow`), reading and writing tables (crate `connectors`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod compile;
pub mod explain;
mod fingerprint;
pub mod plan;
pub mod query;
pub mod snapshots;

pub use compile::compile;
pub use explain::StepText;
pub use query::CompiledQuery;
