//! Declarations of connectors: what scripts may say of each, and what it can do.
//!
//! Owns: the declarations and the list of them, chosen options, the tables of docs/connectors.md. Does not own: where a
//! script says what and checking it (SQL frontend), doing it (crate `connectors` has a folder for each declaration).
//! Invariants: declarations are data, so that validation, suggestions, redaction, `explain` and docs are made from one
//! place; nothing outside a declaration's file asks which connector it is.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod console;
pub mod docs;
mod filesystem;
mod http;
pub mod kafka;
mod list;
mod spec;

pub use console::CONSOLE;
pub use filesystem::FILESYSTEM;
pub use http::HTTP;
pub use list::{CONNECTORS, find, is_secret, may_hide_secret, reading, settable, unaliased};
pub use spec::{
    ConnectorSpec, Default, Encoding, Fault, FaultAt, LookupKind, OptionKind, OptionSpec, OptionValue, OptionValues,
    PlaceSpec, PropertySpec, Reading, Use,
};
