//! All operators, one folder each.
//!
//! A folder's `mod.rs` holds the operator's spec: its parameters and its `OperatorSpec` or `RowSpec`. The runtime is
//! beside it (`run`). Does not own: operator traits, stages and code that operators share (crate `dataflow`), planning
//! operators (crate `planner`).

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
