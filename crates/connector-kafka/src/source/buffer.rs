//! What a reader holds of one partition: decoded chunks until released, and how far it is.
//!
//! Owns: positions and retention. Does not own: consumers, threads, undecoded records.
//! A pure data structure. Invariants: `start <= sealed_to <= position`; everything between `start`
//! and `sealed_to` is either in `chunks` or known to be no record (markers, compaction).

use super::chunk::DecodedChunk;
use highwater_connector_api::error::ConnectorError;
use highwater_protocol::align::Mark;
use highwater_protocol::offsets::LastRecord;
use std::collections::VecDeque;
use std::sync::Arc;

/// One partition.
#[derive(Debug)]
pub struct PartitionBuffer {
    /// Changes when the partition starts anew elsewhere; what a consumer read before is then void.
    pub generation: u64,
    /// Records from here on are held or still to come.
    pub start: i64,
    /// The last record before what this buffer began with.
    pub last: Option<LastRecord>,
    /// Up to here everything is decoded.
    sealed_to: i64,
    /// Up to here everything is read.
    position: i64,
    /// `position` was the end of the partition.
    at_end: bool,
    /// Nothing is read at or beyond this.
    pub limit: Option<i64>,
    /// Someone reads up to here: what is read is decoded at once, memory bound or not.
    pub wanted: i64,
    /// Undecoded records at the worker, in bytes.
    raw_bytes: usize,
    chunk_bytes: usize,
    chunks: VecDeque<Arc<DecodedChunk>>,
    pub failure: Option<ConnectorError>,
    /// Something about it changed since its availability was last told.
    pub changed: bool,
    /// Watermarks of chunks up to here were told.
    marked_to: i64,
}

/// What a reader at some position finds.
#[derive(Debug)]
pub enum Found {
    Chunk(Arc<DecodedChunk>),
    /// No records up to this position.
    Nothing {
        to: i64,
    },
    /// Not read or not decoded yet.
    NotYet,
    /// Released already.
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

    /// Position to tell, never beyond the limit.
    pub fn position(&self) -> i64 {
        self.limit.map_or(self.position, |limit| self.position.min(limit.max(self.start)))
    }

    /// The end, or the limit, was reached.
    pub fn at_end(&self) -> bool {
        self.at_end || self.limit.is_some_and(|limit| self.position >= limit)
    }

    /// Memory held, the worker's share included.
    pub fn memory_bytes(&self) -> usize {
        self.chunk_bytes + self.raw_bytes
    }

    /// A read waits for records this buffer does not have yet.
    pub fn starved(&self) -> bool {
        self.wanted > self.position
    }

    /// Nothing waits in it, and there may be more.
    pub fn hungry(&self) -> bool {
        self.memory_bytes() == 0 && self.limit.is_none_or(|limit| self.position < limit)
    }

    /// Whoever listens may have forgotten what it was told.
    pub fn tell_again(&mut self) {
        self.changed = true;
        self.marked_to = i64::MIN;
    }

    /// Watermark values of the chunks that were not told yet.
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

    /// True if what it holds can serve a reader that starts at `position`.
    pub fn serves(&self, position: i64) -> bool {
        self.failure.is_none() && (self.start..=self.position).contains(&position)
    }

    /// The consumer got further. `undecoded_from`: the first record read and not decoded, if any.
    pub fn advance(&mut self, position: i64, at_end: bool, undecoded_from: Option<i64>, raw_bytes: usize) {
        self.changed |= position > self.position || at_end != self.at_end;
        self.position = self.position.max(position);
        self.at_end = at_end;
        self.raw_bytes = raw_bytes;
        self.sealed_to = self.sealed_to.max(undecoded_from.unwrap_or(self.position).min(self.position));
    }

    /// Adds decoded records; they follow those before.
    pub fn push(&mut self, chunk: Arc<DecodedChunk>) {
        debug_assert!(chunk.first_offset() >= self.sealed_to.min(chunk.first_offset()));
        self.sealed_to = self.sealed_to.max(chunk.last_offset() + 1);
        self.changed |= self.sealed_to > self.position;
        self.position = self.position.max(self.sealed_to);
        self.chunk_bytes += chunk.memory_bytes();
        self.chunks.push_back(chunk);
    }

    /// What is there for a reader at `at`.
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

    /// Forgets records below `up_to`, by whole chunks.
    pub fn release(&mut self, up_to: i64) {
        while let Some(first) = self.chunks.front()
            && first.last_offset() < up_to
        {
            self.chunk_bytes = self.chunk_bytes.saturating_sub(first.memory_bytes());
            self.start = self.start.max(first.last_offset() + 1);
            self.chunks.pop_front();
        }
        // Below the first chunk kept there is nothing to read again.
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
