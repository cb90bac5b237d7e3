//! The list of connectors, and finding a table's.
//!
//! Owns: the list, calling a table's connector, and a folder for each connector without a crate. Does not own: the
//! traits (`connector-api`), connectors with heavy libraries (a crate for each, such as `connector-kafka`).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod console;
mod filesystem;
mod http;
mod list;
pub mod registry;
