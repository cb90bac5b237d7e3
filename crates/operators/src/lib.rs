//! Every operator there is: one folder each.
//!
//! In a folder's `mod.rs` stands the operator as planned: what it is told, and what it says of itself. Beside it (`run`)
//! stands how it runs. Does not own: how operators hang together and what they share (crate `dataflow`), building them
//! (crate `planner`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod aggregate;
pub mod complete;
pub mod first_row;
pub mod join;
pub mod keyed_sink;
pub mod keyed_source;
pub mod lookup;
pub mod over;
pub mod retracting;
pub mod rows;
pub mod session_window;
pub mod temporal;
pub mod timed;
pub mod unnest;
