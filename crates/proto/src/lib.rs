//! Generated protobuf types and gRPC services of `highwater.v1`.
//!
//! Owns: the wire format. Does not own: any behaviour.

pub mod convert;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "fuzz_tests.rs"]
mod fuzz;
pub mod json;
pub mod version;

/// Package `highwater.v1`.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("highwater.v1");
}

/// Encoded file descriptor set, for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/highwater_descriptor.bin"));

/// Largest message either side accepts, bytes. Larger things (state, Arrow batches) are streamed in chunks.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Largest state delta of one operator in one task and batch, bytes: the driver holds it in memory until the batch is
/// prepared.
pub const MAX_DELTA_BYTES: usize = 1024 * 1024 * 1024;
