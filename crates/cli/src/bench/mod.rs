//! Known benchmarks, run by `highwater bench`.
//!
//! Owns: only the list of them.

pub mod nexmark;
