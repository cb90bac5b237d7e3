//! Declarations of connectors: the options that scripts may set, and what each connector can do.
//!
//! Owns: the declarations and the list of them, the values of a table's options, the tables of docs/connectors.md. Does
//! not own: parsing and checking a script's options (crate `sql`), reading and writing (crate `connectors` has a folder
//! for each declaration).
//! Invariants: declarations are data, and validation, suggestions, redaction, `explain` and docs are derived from them;
//! nothing outside a connector's own files depends on which connector it is.

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
