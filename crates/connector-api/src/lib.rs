//! The traits of connectors (sources, sinks, lookups), the formats of records, and code that connectors share.
//!
//! Owns: the traits, rows as records, the formats, access policy for scripts. Does not own: any connector
//! (`connectors`, and a crate for each heavy one), deciding what to read or when to publish (protocol, driver,
//! executor), SQL (sql, planner).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod api;
pub mod error;
pub mod formats;
pub mod lookup;
pub mod sink;
pub mod source;
pub mod tls;

pub use error::ConnectorError;
