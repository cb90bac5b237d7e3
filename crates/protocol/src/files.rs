//! Files that rows look up, identified by their content.
//!
//! Owns: how a version of a looked-up table is identified: by its files, be they those of a folder or what else a connector
//! makes of a table. Does not own: reading the table (connectors), storing the content (crate `checkpoint`), looking rows up
//! (crate `operators`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The files of each table, by the table's name, in the order that its connector gives them.
pub type FileVersions = BTreeMap<String, Vec<FileContent>>;

/// The content of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileContent {
    pub digest: ContentDigest,
    pub size_bytes: u64,
}

impl FileContent {
    /// Identifies the content `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: ContentDigest(xxh3_128(bytes)), size_bytes: bytes.len() as u64 }
    }
}

/// XXH3 of a file's bytes, 128 bits. Its text form is 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentDigest(u128);

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The text is not a digest: it is not 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest of content is 32 hex digits")]
pub struct NoDigest;

impl FromStr for ContentDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        match text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => u128::from_str_radix(text, 16).map(Self).map_err(|_| NoDigest),
            false => Err(NoDigest),
        }
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes the [`FileContent`] of content that arrives in parts.
#[derive(Default)]
pub struct ContentHasher {
    hasher: Xxh3,
    size_bytes: u64,
}

impl ContentHasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    pub fn finish(&self) -> FileContent {
        FileContent { digest: ContentDigest(self.hasher.digest128()), size_bytes: self.size_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hash_like_the_whole_and_digests_parse_back() {
        let mut parts = ContentHasher::default();
        parts.update(b"one,");
        parts.update(b"two");
        let whole = FileContent::of(b"one,two");
        assert_eq!(parts.finish(), whole);
        assert_ne!(whole.digest, FileContent::of(b"one,twO").digest);
        let json = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<FileContent>(&json).unwrap(), whole);
        assert_eq!(whole.digest.to_string().parse(), Ok(whole.digest));
        for wrong in ["", "abc", "../../../../../../etc/passwd/aaaa", "+0000000000000000000000000000001"] {
            assert_eq!(wrong.parse::<ContentDigest>(), Err(NoDigest), "{wrong}");
        }
    }
}
