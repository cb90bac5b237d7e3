//! Known benchmarks, run by `highwater bench`.
//!
//! Owns: nothing but the list of them.

pub mod nexmark;
