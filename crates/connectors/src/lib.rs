//! Connectors: everything that touches Kafka, and the formats of its records.
//!
//! Owns: reading sources, writing sinks, encoding, and looking at topics. Does not own: deciding
//! what to read or when to publish (core, driver, executor), SQL (engine).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod admin;
pub mod client;
pub mod error;
pub mod formats;
pub mod monitor;
pub mod sink;
pub mod source;
mod topic_id;

pub use error::ConnectorError;
