//! Every operator there is, as planned: one module each.
//!
//! Owns: what an operator is told, and what it says of itself. Does not own: how operators hang together (`dataflow`),
//! building them (`plan`).

pub mod aggregate;
pub mod complete;
pub mod join;
pub mod keyed_sink;
pub mod keyed_source;
pub mod lookup;
pub mod over;
pub mod retracting;
pub mod rows;
pub mod session;
pub mod temporal;
pub mod unnest;
