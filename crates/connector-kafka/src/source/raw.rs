//! Undecoded records.
//!
//! Owns: copying them out of librdkafka into one growing buffer, and their checksums.
//! Invariant: offsets ascend strictly.

use super::queue::{Header, Record};
use highwater_protocol::offsets::LastRecord;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The parts of records to keep besides the payload.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    pub keys: bool,
    pub headers: bool,
}

/// Byte ranges of one record in the buffer; `None` if the part is missing.
#[derive(Clone, Copy, Debug)]
struct Entry {
    payload: Option<(usize, usize)>,
    key: Option<(usize, usize)>,
}

/// Leader epochs of consecutive records. They rarely change, so only the first offset of each epoch is stored.
#[derive(Clone, Debug, Default)]
pub struct LeaderEpochs(Vec<(i64, i32)>);

impl LeaderEpochs {
    /// Adds the next record; -1 means that its leader epoch is unknown.
    pub fn push(&mut self, offset: i64, leader_epoch: i32) {
        if self.0.last().is_none_or(|(_, last)| *last != leader_epoch) {
            self.0.push((offset, leader_epoch));
        }
    }

    /// Returns the record at `offset`; `None` if its leader epoch is unknown.
    pub fn record(&self, offset: i64) -> Option<LastRecord> {
        let after = self.0.partition_point(|(first, _)| *first <= offset);
        let (_, leader_epoch) = *self.0.get(after.checked_sub(1)?)?;
        (leader_epoch >= 0).then_some(LastRecord { offset, leader_epoch })
    }
}

/// Keys and payloads of consecutive records.
#[derive(Clone, Debug, Default)]
pub struct RawParts {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl RawParts {
    fn copy(&mut self, part: Option<&[u8]>) -> Option<(usize, usize)> {
        let part = part?;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(part);
        Some((start, self.bytes.len()))
    }

    pub fn payload(&self, index: usize) -> Option<&[u8]> {
        self.entries[index].payload.map(|(start, end)| &self.bytes[start..end])
    }

    pub fn key(&self, index: usize) -> Option<&[u8]> {
        self.entries[index].key.map(|(start, end)| &self.bytes[start..end])
    }

    /// Returns the memory in use in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<Entry>()
    }
}

/// Consecutive undecoded records of one partition.
#[derive(Debug, Default)]
pub struct RawRecords {
    pub parts: RawParts,
    pub headers: Vec<Vec<Header>>,
    pub offsets: Vec<i64>,
    /// Kafka's timestamps in milliseconds.
    pub timestamps: Vec<Option<i64>>,
    /// Payload bytes of each record.
    pub sizes: Vec<u32>,
    /// Hash of offset and payload of each record.
    pub hashes: Vec<u64>,
    pub leader_epochs: LeaderEpochs,
    /// Records without value.
    tombstones: usize,
}

impl RawRecords {
    pub fn push(&mut self, record: &Record<'_>, keep: Keep) {
        let headers = if keep.headers { Some(record.headers()) } else { None };
        let key = if keep.keys { record.key } else { None };
        self.leader_epochs.push(record.offset, record.leader_epoch);
        self.push_parts(record.offset, record.timestamp_ms, key, record.payload, headers);
    }

    pub fn push_parts(
        &mut self,
        offset: i64,
        timestamp_ms: Option<i64>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: Option<Vec<Header>>,
    ) {
        let entry = Entry { payload: self.parts.copy(payload), key: self.parts.copy(key) };
        self.parts.entries.push(entry);
        self.tombstones += usize::from(payload.is_none());
        self.offsets.push(offset);
        self.timestamps.push(timestamp_ms);
        self.sizes.push(u32::try_from(payload.map_or(0, <[u8]>::len)).unwrap_or(u32::MAX));
        self.hashes.push(hash(offset, payload));
        if let Some(headers) = headers {
            self.headers.push(headers);
        }
    }

    pub fn payload(&self, index: usize) -> Option<&[u8]> {
        self.parts.payload(index)
    }

    pub fn key(&self, index: usize) -> Option<&[u8]> {
        self.parts.key(index)
    }

    pub fn len(&self) -> usize {
        self.parts.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.parts.entries.is_empty()
    }

    pub fn has_tombstones(&self) -> bool {
        self.tombstones > 0
    }

    /// Returns the memory in use in bytes.
    pub fn size_bytes(&self) -> usize {
        // The entries of the vectors count, too.
        self.parts.size_bytes() + self.len() * (8 + 16 + 4 + 8)
    }

    /// Removes the records, but keeps the memory for the next ones.
    pub fn clear(&mut self) {
        self.parts.bytes.clear();
        self.parts.entries.clear();
        self.headers.clear();
        self.offsets.clear();
        self.timestamps.clear();
        self.sizes.clear();
        self.hashes.clear();
        self.leader_epochs.0.clear();
        self.tombstones = 0;
    }
}

/// Hashes a record; a tombstone and an empty payload have different hashes.
fn hash(offset: i64, payload: Option<&[u8]>) -> u64 {
    let seed = offset.cast_unsigned();
    match payload {
        Some(payload) => xxh3_64_with_seed(payload, seed),
        None => !xxh3_64_with_seed(&[], seed),
    }
}
