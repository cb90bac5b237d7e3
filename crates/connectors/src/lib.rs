//! Connectors: everything that touches what tables are stored in, and the formats of records.
//!
//! Owns: reading sources, writing sinks, encoding. Does not own: deciding what to read or when to publish (protocol,
//! driver, executor), SQL (sql, planner). Each connector is a folder and a line in `list`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod api;
mod console;
pub mod error;
mod filesystem;
pub mod formats;
mod http;
pub mod kafka;
mod list;
pub mod registry;
pub mod sink;
pub mod source;
mod tls;

pub use error::ConnectorError;
