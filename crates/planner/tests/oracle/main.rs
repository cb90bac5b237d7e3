//! Compares streaming results with batch queries: after every commit the sinks hold the batch answer, for all cuts, tasks,
//! kills, replays and resumptions.
//!
//! - [`fixed`]: queries of every operator over two tables with late rows, closing windows and all output modes.
//! - [`grammar`]: random tables, and random queries over them.
//! - [`functions`]: every function runs with every type, or is refused before.
//! - [`lookups`]: rows look up files, version by version.
//! - [`kept`]: the state of every operator can be read as rows.
//! - [`slt`]: the features, one file each, readable: `tests/slt/*.slt`.
//! - [`docs`]: the examples of `docs/sql.md`.
//! - [`fuzz`]: the compiler accepts or refuses any text.
//!
//! All run on [`harness`]: the real dataflow, state and exchange as a driver and executors would run them. Planted
//! faults show that the tests notice errors. More cases: `make oracle CASES=100000`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod batch;
mod calls;
mod compose;
mod data;
mod docs;
mod first_row;
mod fixed;
mod functions;
mod fuzz;
mod gaps;
mod grammar;
mod harness;
mod kept;
mod keyed;
mod lookups;
mod queries;
mod slt;
mod ttl;
mod watch;
mod windows;
