//! The connectors there are, and finding that of a table.
//!
//! Owns: the list, asking a table's connector, and the connectors that need no crate of their own: a folder for each. Does
//! not own: what a connector is (`connector-api`), heavy ones (a crate for each, as `connector-kafka`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod console;
mod filesystem;
mod http;
mod list;
pub mod registry;
