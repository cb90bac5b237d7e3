//! Values of the head store: small, versioned, checksummed.
//!
//! Owns: their shapes and bytes. Layout: version `u8`, CRC-32 of the rest `u32` little-endian, postcard body.
//! Invariant: a value stays little above [`INLINE_MAX_BYTES`], far below the size from which sled moves values to files
//! that it never syncs.

use crate::error::CheckpointError;
use crate::keys::HeadKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of every value in this module.
pub const VALUE_VERSION: u8 = 1;
/// Version of the whole layout: keys, blob names, kinds of values.
pub const STORE_VERSION: u32 = 1;
/// Contents up to this size are kept in the head store itself, which saves two syncs per batch. A leaf of sled holds
/// 16 entries before it is split, so leaves stay under 64 KiB.
pub const INLINE_MAX_BYTES: usize = 4096;
const HEADER_LEN: usize = 5;

/// Where the bytes of a checkpoint file are: in the head store, or in a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Inline(Vec<u8>),
    Blob { name: String, size_bytes: u64 },
}

impl Body {
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob { size_bytes, .. } => *size_bytes,
        }
    }

    pub fn blob(&self) -> Option<&str> {
        match self {
            Self::Inline(_) => None,
            Self::Blob { name, .. } => Some(name),
        }
    }
}

/// A stored query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecEntry {
    pub name: String,
    /// Counts the changes of the spec.
    pub version: u64,
    pub body: Body,
}

/// A prepared batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchEntry {
    pub body: Body,
    /// Milliseconds since the Unix epoch.
    pub prepared_at_ms: i64,
    /// Records read by the batch.
    pub records: u64,
}

/// The whole state after one batch, split by shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEntry {
    pub parts: Vec<SnapshotPart>,
}

/// State of the shards `first..end`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    pub first: u16,
    pub end: u16,
    pub body: Body,
}

impl SnapshotEntry {
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.body.size_bytes()).sum()
    }
}

pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes = vec![VALUE_VERSION, 0, 0, 0, 0];
    bytes = postcard::to_extend(value, bytes).map_err(|error| CheckpointError::Encode(error.to_string()))?;
    let crc = crc32fast::hash(&bytes[HEADER_LEN..]);
    bytes[1..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

pub fn decode<T: DeserializeOwned>(key: &HeadKey, bytes: &[u8]) -> Result<T, CheckpointError> {
    let file = || format!("head store key {key}");
    let damaged = |reason: &str| CheckpointError::damaged(file(), reason);
    let (&version, rest) = bytes.split_first().ok_or_else(|| damaged("it is empty"))?;
    if version != VALUE_VERSION {
        let (found, supported) = (version.into(), VALUE_VERSION.into());
        return Err(CheckpointError::UnknownVersion { file: file(), found, supported });
    }
    let (crc, body) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("it is truncated"))?;
    if u32::from_le_bytes(*crc) != crc32fast::hash(body) {
        return Err(damaged("its checksum does not match"));
    }
    postcard::from_bytes(body).map_err(|error| damaged(&error.to_string()))
}

/// Numbers and ids are stored as text, so that `sled` browsers show them readably.
pub fn decode_text<T: std::str::FromStr>(key: &HeadKey, bytes: &[u8]) -> Result<T, CheckpointError> {
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    text.ok_or_else(|| CheckpointError::damaged(format!("head store key {key}"), "it is not readable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back_and_damage_is_noticed() {
        let entry = BatchEntry { body: Body::Inline(vec![1, 2, 3]), prepared_at_ms: -5, records: 9 };
        let bytes = encode(&entry).unwrap();
        assert_eq!(decode::<BatchEntry>(&HeadKey::Epoch, &bytes).unwrap(), entry);
        for at in 1..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            let error = decode::<BatchEntry>(&HeadKey::Epoch, &broken).unwrap_err();
            assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
        }
        let mut newer = bytes;
        newer[0] = 9;
        let error = decode::<BatchEntry>(&HeadKey::Epoch, &newer).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
    }
}
