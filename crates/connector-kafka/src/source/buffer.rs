//! A reader's buffer of one partition: decoded chunks until they are released, and the position.
//!
//! Owns: positions and retention. Does not own: consumers, threads, undecoded records.
//! A pure data structure. Invariants: `start <= sealed_to <= position`; every offset between `start` and `sealed_to` is
//! either in `chunks` or holds no record (markers, compaction).

use super::chunk::DecodedChunk;
use highwater_connector_api::error::ConnectorError;
use highwater_protocol::align::Mark;
use highwater_protocol::offsets::LastRecord;
use std::collections::VecDeque;
use std::sync::Arc;

/// The buffer of one partition.
#[derive(Debug)]
pub struct PartitionBuffer {
    /// Changes when the partition restarts at another position; records read for an earlier generation are discarded.
    pub generation: u64,
    /// Records from this offset on are buffered or not read yet.
    pub start: i64,
    /// The last record before the offset at which this buffer began; `None` if unknown.
    pub last: Option<LastRecord>,
    /// Exclusive end of what is decoded.
    sealed_to: i64,
    /// Exclusive end of what is read.
    position: i64,
    /// Whether `position` was the end of the partition.
    at_end: bool,
    /// Exclusive end of reading; `None` if there is none.
    pub limit: Option<i64>,
    /// A range read waits for records up to this offset: they are read even if memory is full, and decoded at once.
    pub wanted: i64,
    /// Size of the worker's undecoded records in bytes.
    raw_bytes: usize,
    chunk_bytes: usize,
    chunks: VecDeque<Arc<DecodedChunk>>,
    pub failure: Option<ConnectorError>,
    /// Whether availability has changed since it was last reported.
    pub changed: bool,
    /// Watermarks of chunks up to this offset have been reported.
    marked_to: i64,
}

/// The result of looking up a position.
#[derive(Debug)]
pub enum Found {
    Chunk(Arc<DecodedChunk>),
    /// There are no records up to `to`.
    Nothing {
        to: i64,
    },
    /// Not read or not decoded yet.
    NotYet,
    /// The records have been released.
    Gone,
}

impl PartitionBuffer {
    pub fn new(generation: u64, start: i64, limit: Option<i64>) -> Self {
        Self {
            generation,
            start,
            last: None,
            sealed_to: start,
            position: start,
            at_end: false,
            limit,
            wanted: i64::MIN,
            raw_bytes: 0,
            chunk_bytes: 0,
            chunks: VecDeque::new(),
            failure: None,
            changed: true,
            marked_to: i64::MIN,
        }
    }

    /// Returns the position to report, which is never beyond the limit.
    pub fn position(&self) -> i64 {
        self.limit.map_or(self.position, |limit| self.position.min(limit.max(self.start)))
    }

    /// Returns whether the end of the partition or the limit is reached.
    pub fn at_end(&self) -> bool {
        self.at_end || self.limit.is_some_and(|limit| self.position >= limit)
    }

    /// Returns the memory in use in bytes, including the worker's undecoded records.
    pub fn memory_bytes(&self) -> usize {
        self.chunk_bytes + self.raw_bytes
    }

    /// Returns whether a range read waits for records that are not read yet.
    pub fn starved(&self) -> bool {
        self.wanted > self.position
    }

    /// Returns whether the buffer is empty and the limit is not reached.
    pub fn hungry(&self) -> bool {
        self.memory_bytes() == 0 && self.limit.is_none_or(|limit| self.position < limit)
    }

    /// Reports availability and all marks again, since the driver may have lost earlier reports.
    pub fn tell_again(&mut self) {
        self.changed = true;
        self.marked_to = i64::MIN;
    }

    /// Returns the watermark values of chunks that were not reported yet.
    pub fn take_marks(&mut self) -> Vec<Mark> {
        let first = self.chunks.partition_point(|chunk| chunk.last_offset() < self.marked_to);
        let mark = |chunk: &Arc<DecodedChunk>| Mark {
            position: chunk.last_offset() + 1,
            watermark_ms: chunk.max_watermark_ms(),
        };
        let marks: Vec<Mark> = self.chunks.range(first..).map(mark).collect();
        self.marked_to = marks.last().map_or(self.marked_to, |mark| mark.position);
        marks
    }

    /// Returns whether a range read can start at `position` without restarting the consumer.
    pub fn serves(&self, position: i64) -> bool {
        self.failure.is_none() && (self.start..=self.position).contains(&position)
    }

    /// Records the consumer's progress. `undecoded_from` is the offset of the first undecoded record; `None` if all are
    /// decoded. `raw_bytes` is the size of the undecoded records.
    pub fn advance(&mut self, position: i64, at_end: bool, undecoded_from: Option<i64>, raw_bytes: usize) {
        self.changed |= position > self.position || at_end != self.at_end;
        self.position = self.position.max(position);
        self.at_end = at_end;
        self.raw_bytes = raw_bytes;
        self.sealed_to = self.sealed_to.max(undecoded_from.unwrap_or(self.position).min(self.position));
    }

    /// Appends decoded records.
    pub fn push(&mut self, chunk: Arc<DecodedChunk>) {
        debug_assert!(chunk.first_offset() >= self.sealed_to.min(chunk.first_offset()));
        self.sealed_to = self.sealed_to.max(chunk.last_offset() + 1);
        self.changed |= self.sealed_to > self.position;
        self.position = self.position.max(self.sealed_to);
        self.chunk_bytes += chunk.memory_bytes();
        self.chunks.push_back(chunk);
    }

    /// Looks up the position `at`.
    pub fn find(&self, at: i64) -> Found {
        if at < self.start {
            return Found::Gone;
        }
        let index = self.chunks.partition_point(|chunk| chunk.last_offset() < at);
        match self.chunks.get(index) {
            Some(chunk) => Found::Chunk(Arc::clone(chunk)),
            None if self.sealed_to > at => Found::Nothing { to: self.sealed_to },
            None => Found::NotYet,
        }
    }

    /// Frees the chunks whose records are all below `up_to`.
    pub fn release(&mut self, up_to: i64) {
        while let Some(first) = self.chunks.front()
            && first.last_offset() < up_to
        {
            self.chunk_bytes = self.chunk_bytes.saturating_sub(first.memory_bytes());
            self.start = self.start.max(first.last_offset() + 1);
            self.chunks.pop_front();
        }
        // No record lies between the freed chunks and the first one kept.
        let kept = self.chunks.front().map_or(self.sealed_to, |chunk| chunk.first_offset());
        self.start = self.start.max(up_to.min(kept));
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::tests::chunk_of;
    use super::*;

    #[test]
    fn marks_are_told_once_and_again_when_asked() {
        let mut buffer = PartitionBuffer::new(1, 0, None);
        assert!(buffer.hungry());
        buffer.push(Arc::new(chunk_of(&[0, 1])));
        buffer.push(Arc::new(chunk_of(&[2, 5])));
        let positions = |marks: Vec<Mark>| marks.iter().map(|mark| mark.position).collect::<Vec<_>>();
        assert!(!buffer.hungry());
        assert_eq!(positions(buffer.take_marks()), [2, 6]);
        assert!(buffer.take_marks().is_empty());
        buffer.push(Arc::new(chunk_of(&[6])));
        assert_eq!(positions(buffer.take_marks()), [7]);
        buffer.release(2);
        buffer.tell_again();
        assert_eq!(positions(buffer.take_marks()), [6, 7]);
    }

    #[test]
    fn whatever_moves_the_position_is_told() {
        let mut buffer = PartitionBuffer::new(1, 0, Some(2));
        buffer.changed = false;
        buffer.push(Arc::new(chunk_of(&[0, 1])));
        assert_eq!((buffer.position(), buffer.changed), (2, true));
        buffer.changed = false;
        buffer.advance(2, false, None, 0);
        assert!(!buffer.changed, "nothing is new");
        buffer.advance(2, true, None, 0);
        assert!(buffer.changed, "the end is");
    }
}
