//! The JSON format of Kafka values: reading (`decode`) and writing (`encode`).
//!
//! Owns: the rules of the SQL contract's "JSON in Kafka". Does not own: Kafka.

pub mod decode;
mod decode_column;
mod decode_map;
mod decode_scalar;
pub mod encode;
mod scan;
