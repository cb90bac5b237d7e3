//! Who may connect and call what: TLS, tokens, roles, and the rule of every call.
//!
//! Owns: certificates and tokens, and reading them again when they change; the connections that servers accept and
//! clients open; the table of rules (`rules`) and the layer that applies it (`guard`); where a server may listen
//! (`exposure`).
//! Does not own: services and routes (`driver`, `executor`), flags (`cli`).
//! Invariants: a call without a rule is refused; secrets are compared in constant time and never shown; if a changed
//! file cannot be read, its previous content stays in use.

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
