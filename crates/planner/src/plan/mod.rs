//! The second half of the SQL frontend: turns checked statements into a dataflow.
//!
//! Owns: planning through DataFusion, lineage of event time and keys, stages and exchanges.
//! Does not own: syntax (`sql`), running the dataflow (`dataflow`, runtime modules).
//! Invariants: planning is pure and deterministic, since driver and executors each do it; SQL that would give wrong
//! results is refused by name.

pub mod aggregate;
pub mod as_of;
pub mod builder;
pub mod catalog;
mod closing;
pub mod columns;
mod computed;
mod constants;
pub mod dead_letters;
mod decorrelate;
mod dependencies;
pub mod derived;
pub mod emit;
pub mod errors;
mod field_case;
pub mod fields;
mod first_row;
pub mod formats;
mod grouping;
pub mod insert;
pub mod join;
pub mod late_rows;
pub mod lateral;
pub mod lineage;
pub mod lookup;
pub mod lookup_rows;
pub mod lower;
pub mod not_in;
pub mod optimize;
pub mod over;
mod partitioning;
pub mod physical;
pub mod push_down;
pub mod retracting;
pub mod session_windows;
pub mod sets;
mod sides;
pub mod sinks;
mod sliding;
pub mod sources;
pub mod subqueries;
pub mod table;
pub mod temporal;
pub mod timed;
mod unique;
pub mod unnest;
pub mod upsert;
pub mod using;
pub mod versioned;
pub mod watermark;
pub mod windows;

#[cfg(test)]
mod tests;
