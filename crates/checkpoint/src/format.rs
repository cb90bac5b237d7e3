//! The format of checkpoint files: sections that are compressed and checksummed one by one.
//!
//! Owns: the container. Does not own: the content of sections, the place of files.
//! Layout, integers little-endian: magic `HWCP` · version `u8` · directory length `u32` · directory (postcard
//! list of [`Section`]) · CRC-32 of all before `u32` · the sections' bytes, zstd, in directory order.
//! Invariant: a changed, missing or added byte anywhere is noticed before anything of that section is used.

use crate::error::CheckpointError;
use highwater_protocol::ids::{OperatorId, ShardId};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 4] = b"HWCP";
/// Version of the container and of what its sections hold.
pub const FORMAT_VERSION: u8 = 1;
const PREFIX_LEN: usize = 9;
const CRC_LEN: usize = 4;
/// Fast, with most of the gain that compression can have on state rows.
const ZSTD_LEVEL: i32 = 1;

/// The kind of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// JSON of a `PrepareRecord`, without state bytes.
    Record,
    /// JSON of a `QuerySpec`.
    Spec,
    /// A state delta (`protocol::state_delta`) over the shards `first..end`.
    State { operator: OperatorId, first: ShardId, end: ShardId },
    /// The bytes of a file that rows look up.
    File,
}

/// Directory entry of one section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    pub kind: Kind,
    /// Length before compression.
    pub raw_len: u64,
    /// Length in the file.
    pub stored_len: u64,
    /// CRC-32 of the bytes in the file.
    pub crc32: u32,
}

/// Encodes sections into one file.
pub fn encode<'a>(sections: impl IntoIterator<Item = (Kind, &'a [u8])>) -> Result<Vec<u8>, CheckpointError> {
    let failed = |error: &dyn std::fmt::Display| CheckpointError::Encode(error.to_string());
    let (mut directory, mut body) = (Vec::new(), Vec::new());
    for (kind, raw) in sections {
        let stored = zstd::bulk::compress(raw, ZSTD_LEVEL).map_err(|error| failed(&error))?;
        directory.push(Section {
            kind,
            raw_len: raw.len() as u64,
            stored_len: stored.len() as u64,
            crc32: crc32fast::hash(&stored),
        });
        body.extend_from_slice(&stored);
    }
    let directory = postcard::to_stdvec(&directory).map_err(|error| failed(&error))?;
    let length = u32::try_from(directory.len()).map_err(|error| failed(&error))?;
    let mut bytes = Vec::with_capacity(PREFIX_LEN + directory.len() + CRC_LEN + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(FORMAT_VERSION);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&directory);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes.append(&mut body);
    Ok(bytes)
}

/// A file whose directory has been checked.
#[derive(Debug)]
pub struct Container<'a> {
    /// Name of the file, for messages.
    file: &'a str,
    sections: Vec<(Section, &'a [u8])>,
}

impl<'a> Container<'a> {
    pub fn parse(file: &'a str, bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        let damaged = |reason: &str| CheckpointError::damaged(file, reason);
        if bytes.len() < PREFIX_LEN {
            return Err(damaged("it is truncated"));
        }
        if &bytes[..4] != MAGIC {
            return Err(damaged("it does not begin with its magic bytes"));
        }
        if bytes[4] != FORMAT_VERSION {
            let (found, supported) = (bytes[4].into(), FORMAT_VERSION.into());
            return Err(CheckpointError::UnknownVersion { file: file.to_string(), found, supported });
        }
        let length = u32::from_le_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]) as usize;
        let end = PREFIX_LEN + length;
        let crc = bytes.get(end..end + CRC_LEN).ok_or_else(|| damaged("it is truncated"))?;
        if crc != crc32fast::hash(&bytes[..end]).to_le_bytes() {
            return Err(damaged("the checksum of its directory does not match"));
        }
        let directory: Vec<Section> =
            postcard::from_bytes(&bytes[PREFIX_LEN..end]).map_err(|error| damaged(&error.to_string()))?;
        let mut rest = &bytes[end + CRC_LEN..];
        let mut sections = Vec::with_capacity(directory.len());
        for section in directory {
            let length = usize::try_from(section.stored_len).unwrap_or(usize::MAX);
            let (stored, after) = rest.split_at_checked(length).ok_or_else(|| damaged("it is truncated"))?;
            sections.push((section, stored));
            rest = after;
        }
        if !rest.is_empty() {
            return Err(damaged("it has bytes after its end"));
        }
        Ok(Self { file, sections })
    }

    /// Returns the sections whose kind is wanted, checked and decompressed.
    pub fn read(&self, wanted: impl Fn(Kind) -> bool) -> Result<Vec<(Kind, Vec<u8>)>, CheckpointError> {
        let sections = self.sections.iter().filter(|(section, _)| wanted(section.kind));
        sections.map(|(section, stored)| Ok((section.kind, self.decompress(section, stored)?))).collect()
    }

    /// Returns the only section of a kind.
    pub fn read_one(&self, wanted: Kind) -> Result<Vec<u8>, CheckpointError> {
        let found = self.read(|kind| kind == wanted)?.into_iter().next();
        let (_, bytes) = found.ok_or_else(|| self.damaged(format!("it has no section {wanted:?}")))?;
        Ok(bytes)
    }

    /// One past the highest shard that any state section covers; 0 if there is none.
    pub fn end_shard(&self) -> u16 {
        let ends = self.sections.iter().filter_map(|(section, _)| match section.kind {
            Kind::State { end, .. } => Some(end.0),
            Kind::Record | Kind::Spec | Kind::File => None,
        });
        ends.max().unwrap_or(0)
    }

    fn decompress(&self, section: &Section, stored: &[u8]) -> Result<Vec<u8>, CheckpointError> {
        if crc32fast::hash(stored) != section.crc32 {
            return Err(self.damaged(format!("the checksum of its section {:?} does not match", section.kind)));
        }
        let capacity = usize::try_from(section.raw_len).map_err(|error| self.damaged(error.to_string()))?;
        let raw = zstd::bulk::decompress(stored, capacity).map_err(|error| self.damaged(error.to_string()))?;
        if raw.len() != capacity {
            return Err(self.damaged(format!("its section {:?} has the wrong length", section.kind)));
        }
        Ok(raw)
    }

    fn damaged(&self, reason: String) -> CheckpointError {
        CheckpointError::damaged(self.file, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(operator: u32) -> Kind {
        Kind::State { operator: OperatorId(operator), first: ShardId(0), end: ShardId(64) }
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(Kind, Vec<u8>)>, CheckpointError> {
        Container::parse("f", bytes)?.read(|_| true)
    }

    #[test]
    fn another_version_is_refused() {
        let mut bytes = encode([(Kind::Record, &b"{}"[..])]).unwrap();
        bytes[4] = 7;
        let error = Container::parse("queries/x/batch-1", &bytes).unwrap_err().to_string();
        assert!(error.contains("queries/x/batch-1 has format version 7; this binary reads version 1"), "{error}");
    }

    proptest! {
        #[test]
        fn sections_read_back(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..5)) {
            let sections: Vec<_> = bodies.iter().enumerate().map(|(i, b)| (state(i as u32), b.as_slice())).collect();
            let bytes = encode(sections).unwrap();
            let read: Vec<_> = read_all(&bytes).unwrap().into_iter().map(|(_, body)| body).collect();
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn any_changed_byte_and_any_truncation_is_noticed(body in proptest::collection::vec(any::<u8>(), 1..100), at: usize, bit in 0..8) {
            let bytes = encode([(Kind::Record, &b"{}"[..]), (state(1), &body)]).unwrap();
            let at = at % bytes.len();
            let mut broken = bytes.clone();
            broken[at] ^= 1u8 << bit;
            prop_assert!(read_all(&broken).is_err());
            prop_assert!(read_all(&bytes[..at]).is_err());
            prop_assert!(read_all(&[bytes, vec![0]].concat()).is_err());
        }
    }
}
