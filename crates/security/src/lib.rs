//! Who may connect and who may call what: TLS, tokens, roles, and the rule of every call.
//!
//! Owns: certificates and tokens and reading them again when they change; the connections servers accept and clients
//! open; the table of rules (`rules`) and the layer that applies it (`guard`); where a server may listen (`exposure`).
//! Does not own: services and routes (driver, executor), flags (cli).
//! Invariants: a call without a rule is refused; secrets are compared in constant time and never shown; a file that
//! no longer reads leaves what was read before in force.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod credentials;
pub mod dial;
mod error;
pub mod exposure;
pub mod guard;
pub mod incoming;
pub mod options;
pub mod peers;
pub mod reload;
pub mod rules;
pub mod stream;
pub mod tls;
pub mod tokens;
mod trust;

pub use error::SecurityError;
pub use options::{CertificateFiles, ClientSecurity, DriverSecurity};
