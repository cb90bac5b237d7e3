//! The connectors there are.
//!
//! Owns: a line for each. Does not own: what they are (their folders).

use crate::api::Connector;

/// All of them.
pub static CONNECTORS: &[&dyn Connector] =
    &[&crate::kafka::Kafka, &crate::filesystem::Filesystem, &crate::console::Console];
