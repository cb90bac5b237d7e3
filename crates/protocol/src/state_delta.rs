//! Encoding of state changes, as executors send them, checkpoints store them and new owners of shards load them.
//!
//! Owns: the bytes (version 1) and their order-independent digest. Does not own: the meaning of keys and values (crate
//! `operators`), compression and checksums (crate `checkpoint`).
//!
//! Layout, little-endian: magic `HWD`, version `u8`, operator `u32`; then per entry shard `u16`, key length
//! `u32`, value length `u32` (`u32::MAX` = deleted), key, value.

use crate::ids::{OperatorId, ShardId};
use std::collections::BTreeMap;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: &[u8; 3] = b"HWD";
/// Format version written and read here.
pub const VERSION: u8 = 1;
const HEADER_LEN: usize = 8;
const ENTRY_LEN: usize = 10;
const DELETED: u32 = u32::MAX;

/// Why some bytes are not a delta of this version.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeltaError {
    #[error("not a state delta: it does not begin with its magic bytes")]
    NotADelta,
    #[error("state delta of format version {0}; this binary reads version {VERSION}; use the version that wrote it")]
    UnknownVersion(u8),
    #[error("state delta is truncated at byte {0}")]
    CutOff(usize),
}

/// One changed key of one shard; a `value` of `None` means that the key was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaEntry<'a> {
    pub shard: ShardId,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Builds one delta. The caller pushes each key of a shard at most once.
#[derive(Clone, Debug)]
pub struct DeltaWriter {
    bytes: Vec<u8>,
    keys: u64,
    digest: u128,
}

impl DeltaWriter {
    pub fn new(operator: OperatorId) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&operator.0.to_le_bytes());
        Self { bytes, keys: 0, digest: 0 }
    }

    pub fn push(&mut self, shard: ShardId, key: &[u8], value: Option<&[u8]>) {
        let start = self.bytes.len();
        let len = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
        self.bytes.extend_from_slice(&shard.0.to_le_bytes());
        self.bytes.extend_from_slice(&len(key));
        self.bytes.extend_from_slice(&value.map_or(DELETED.to_le_bytes(), len));
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.digest = self.digest.wrapping_add(xxh3_128(&self.bytes[start..]));
        self.keys += 1;
    }

    /// Entries so far.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Digest of the entries so far. It does not depend on their order.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Returns the entries of an encoded delta, without its header.
pub fn entries(bytes: &[u8]) -> &[u8] {
    bytes.get(HEADER_LEN..).unwrap_or_default()
}

/// Reads the entries of one delta, in the order in which they were written.
#[derive(Clone, Debug)]
pub struct DeltaReader<'a> {
    operator: OperatorId,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> DeltaReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, DeltaError> {
        if bytes.len() < HEADER_LEN || &bytes[..3] != MAGIC {
            return Err(DeltaError::NotADelta);
        }
        if bytes[3] != VERSION {
            return Err(DeltaError::UnknownVersion(bytes[3]));
        }
        let operator = OperatorId(u32_at(bytes, 4)?);
        Ok(Self { operator, bytes, at: HEADER_LEN })
    }

    pub fn operator(&self) -> OperatorId {
        self.operator
    }

    fn entry(&mut self) -> Result<DeltaEntry<'a>, DeltaError> {
        let at = self.at;
        let shard = self.bytes.get(at..at + 2).ok_or(DeltaError::CutOff(at))?;
        let shard = ShardId(u16::from_le_bytes([shard[0], shard[1]]));
        let key_len = u32_at(self.bytes, at + 2)? as usize;
        let value_len = u32_at(self.bytes, at + 6)?;
        let key_end = at + ENTRY_LEN + key_len;
        let key = self.bytes.get(at + ENTRY_LEN..key_end).ok_or(DeltaError::CutOff(at))?;
        let (value, end) = match value_len {
            DELETED => (None, key_end),
            len => {
                let end = key_end + len as usize;
                (Some(self.bytes.get(key_end..end).ok_or(DeltaError::CutOff(at))?), end)
            }
        };
        self.at = end;
        Ok(DeltaEntry { shard, key, value })
    }
}

impl<'a> Iterator for DeltaReader<'a> {
    type Item = Result<DeltaEntry<'a>, DeltaError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.at = self.bytes.len();
        }
        Some(entry)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, DeltaError> {
    let part = bytes.get(at..at + 4).ok_or(DeltaError::CutOff(at))?;
    Ok(u32::from_le_bytes([part[0], part[1], part[2], part[3]]))
}

/// Merges deltas of one operator, oldest first, into one: the newest entry of a key wins. Leaves out shards for which
/// `keep` returns false, and deletions if `drop_deleted` (right for a snapshot, wrong for a delta).
pub fn merge(deltas: &[&[u8]], keep: impl Fn(ShardId) -> bool, drop_deleted: bool) -> Result<Vec<u8>, DeltaError> {
    let mut operator = OperatorId::default();
    let mut newest: BTreeMap<(ShardId, &[u8]), Option<&[u8]>> = BTreeMap::new();
    for delta in deltas {
        let reader = DeltaReader::new(delta)?;
        operator = reader.operator();
        for entry in reader {
            let entry = entry?;
            if keep(entry.shard) {
                newest.insert((entry.shard, entry.key), entry.value);
            }
        }
    }
    let mut writer = DeltaWriter::new(operator);
    for ((shard, key), value) in newest {
        if value.is_some() || !drop_deleted {
            writer.push(shard, key, value);
        }
    }
    Ok(writer.finish())
}

/// Splits a delta into deltas of about `size_bytes`, in order; a single larger entry stays whole.
pub fn split(delta: &[u8], size_bytes: usize) -> Result<Vec<Vec<u8>>, DeltaError> {
    if delta.len() <= size_bytes {
        return Ok(vec![delta.to_vec()]);
    }
    let reader = DeltaReader::new(delta)?;
    let operator = reader.operator();
    let mut parts = Vec::new();
    let mut writer = DeltaWriter::new(operator);
    for entry in reader {
        let entry = entry?;
        writer.push(entry.shard, entry.key, entry.value);
        if writer.bytes.len() >= size_bytes {
            parts.push(std::mem::replace(&mut writer, DeltaWriter::new(operator)).finish());
        }
    }
    if writer.keys() > 0 {
        parts.push(writer.finish());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Model = BTreeMap<(u16, Vec<u8>), Option<Vec<u8>>>;
    type Entries<'a> = Vec<(&'a (u16, Vec<u8>), &'a Option<Vec<u8>>)>;

    fn encode(model: &Model) -> Vec<u8> {
        let mut writer = DeltaWriter::new(OperatorId(7));
        for ((shard, key), value) in model {
            writer.push(ShardId(*shard), key, value.as_deref());
        }
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Model {
        let entries = DeltaReader::new(bytes).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| ((e.shard.0, e.key.to_vec()), e.value.map(<[u8]>::to_vec))).collect()
    }

    fn model() -> impl Strategy<Value = Model> {
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9));
        proptest::collection::btree_map((0u16..4, proptest::collection::vec(any::<u8>(), 0..3)), value, 0..20)
    }

    proptest! {
        #[test]
        fn a_written_delta_reads_back(model in model()) {
            prop_assert_eq!(decode(&encode(&model)), model);
        }

        #[test]
        fn merging_is_overwriting_in_order(a in model(), b in model(), shard in 0u16..4) {
            let merged = merge(&[&encode(&a), &encode(&b)], |s| s.0 == shard, true).unwrap();
            let mut expected = a;
            expected.extend(b);
            expected.retain(|key, value| key.0 == shard && value.is_some());
            prop_assert_eq!(decode(&merged), expected);
        }

        #[test]
        fn deltas_merge_in_any_grouping_and_keep_deletions_until_a_snapshot(
            models in proptest::collection::vec(model(), 1..6),
            cut in 0usize..6,
        ) {
            let deltas: Vec<Vec<u8>> = models.iter().map(encode).collect();
            let fold = |deltas: &[Vec<u8>], drop_deleted| {
                let slices: Vec<&[u8]> = deltas.iter().map(Vec::as_slice).collect();
                merge(&slices, |_| true, drop_deleted).unwrap()
            };
            let mut expected = Model::new();
            models.into_iter().for_each(|model| expected.extend(model));
            prop_assert_eq!(&decode(&fold(&deltas, false)), &expected);
            // A delta merged from older ones replaces them.
            let (old, new) = deltas.split_at(cut.min(deltas.len()));
            let mut compacted = if old.is_empty() { Vec::new() } else { vec![fold(old, false)] };
            compacted.extend_from_slice(new);
            prop_assert_eq!(fold(&compacted, false), fold(&deltas, false));
            expected.retain(|_, value| value.is_some());
            prop_assert_eq!(decode(&fold(&compacted, true)), expected);
        }

        #[test]
        fn splitting_loses_nothing(model in model(), size in 1usize..64) {
            let parts = split(&encode(&model), size).unwrap();
            let joined: Model = parts.iter().flat_map(|part| decode(part)).collect();
            prop_assert_eq!(joined, model);
        }

        #[test]
        fn the_digest_ignores_order_and_nothing_else(model in model()) {
            let digest = |entries: Entries<'_>| {
                let mut writer = DeltaWriter::new(OperatorId(7));
                entries.iter().for_each(|((s, k), v)| writer.push(ShardId(*s), k, v.as_deref()));
                writer.digest()
            };
            let forward: Vec<_> = model.iter().collect();
            let backward: Vec<_> = model.iter().rev().collect();
            prop_assert_eq!(digest(forward.clone()), digest(backward));
            if !forward.is_empty() {
                prop_assert_ne!(digest(forward.clone()), digest(forward[1..].to_vec()));
            }
        }
    }

    #[test]
    fn other_versions_and_truncated_bytes_are_refused() {
        let mut bytes = encode(&Model::from([((1, b"k".to_vec()), Some(b"v".to_vec()))]));
        let cut = bytes.len() - 1;
        assert!(matches!(DeltaReader::new(&bytes[..cut]).unwrap().next(), Some(Err(DeltaError::CutOff(_)))));
        bytes[3] = 9;
        assert!(DeltaReader::new(&bytes).unwrap_err().to_string().contains("version 9"));
    }
}
