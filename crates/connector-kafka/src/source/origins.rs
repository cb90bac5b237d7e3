//! The record that each row of a chunk was decoded from.
//!
//! Owns: finding it, with its key and payload where they are kept. Does not own: decoding (`chunk`).
//! Invariant: rows are good records in offset order.

use super::raw::RawParts;
use bytes::Bytes;
use highwater_connector_api::source::{BadRecord, Origins};
use highwater_protocol::offsets::TopicPartition;
use std::sync::Arc;

/// The records of a decoded chunk.
#[derive(Debug)]
pub struct Records {
    pub tp: TopicPartition,
    pub offsets: Vec<i64>,
    /// Kafka's timestamps in milliseconds.
    pub timestamps: Vec<Option<i64>>,
    /// Records that did not decode, and so have no row, in offset order.
    pub bad: Vec<BadRecord>,
    /// Keys and payloads of all records; `None` = they are not kept.
    pub raw: Option<RawParts>,
}

impl Records {
    /// Returns the memory in use in bytes.
    pub fn memory_bytes(&self) -> usize {
        let bad: usize = self.bad.iter().map(|bad| bad.payload.as_ref().map_or(0, Bytes::len) + 128).sum();
        self.offsets.len() * (8 + 16) + bad + self.raw.as_ref().map_or(0, RawParts::size_bytes)
    }

    /// Returns the index of the record of a row, which has one for each bad record before it, too.
    fn of_row(&self, row: usize) -> usize {
        let place = |bad: &BadRecord| self.offsets.partition_point(|offset| *offset < bad.offset);
        self.bad.iter().map(place).fold(row, |index, bad| if bad <= index { index + 1 } else { index })
    }
}

/// The records of the rows of a slice of a chunk.
#[derive(Debug)]
pub struct RowOrigins {
    pub records: Arc<Records>,
    /// The slice's first row in the chunk.
    pub first_row: usize,
}

impl Origins for RowOrigins {
    fn bad(&self, row: usize, reason: String) -> BadRecord {
        let records = &self.records;
        let index = records.of_row(self.first_row + row);
        let copy = |part: fn(&RawParts, usize) -> Option<&[u8]>| {
            records.raw.as_ref().and_then(|raw| part(raw, index)).map(Bytes::copy_from_slice)
        };
        BadRecord {
            tp: records.tp.clone(),
            offset: records.offsets[index],
            reason,
            key: copy(RawParts::key),
            payload: copy(RawParts::payload),
            timestamp_ms: records.timestamps[index],
        }
    }
}
