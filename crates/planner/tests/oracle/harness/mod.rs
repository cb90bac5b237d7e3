//! A cluster in one thread, for any script and any records, on which the random oracle, the `.slt` files and the examples
//! of the documentation run.
//!
//! Owns: records as partitions of topics ([`records`]), driver and executors with every way to disturb them
//! ([`cluster`]), lookup tables ([`snapshots`]), the content of sinks ([`fold`]), DataFusion's batch answers
//! ([`answer`]), scripts written down statement by statement ([`scenario`]), random cases that can be repeated
//! ([`cases`]).
//! Does not own: the queries and the expected answers.

pub mod answer;
pub mod cases;
pub mod cluster;
pub mod fold;
pub mod records;
pub mod scenario;
pub mod snapshots;
pub mod statements;

pub use cluster::{Cluster, Commit, Fault, Step, Take};
pub use records::Records;
pub use snapshots::Snapshots;
