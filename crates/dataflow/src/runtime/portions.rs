//! Scans of many keys, in portions that fit in memory.
//!
//! Owns: how many keys one call scans, and where a portion ends. Does not own: processing the entries (operators).
//! Invariants: an operator sees all entries of a key or none, so that it can finish the keys of a portion before it scans
//! more; the number of calls grows with the number of keys and their bytes; the ends of portions depend on keys and state
//! alone, so that a repeated batch has the same.

use super::keyed_state::KeyedState;
use super::pipeline::OUTPUT_ROWS;
use crate::error::EngineError;
use crate::state::{Scan, Visit};
use std::ops::{ControlFlow, Range};

/// Bytes of keys and values after which further scans wait for the next portion. A batch may touch many keys with many rows
/// each, which do not fit in memory at once. All rows of a single key must.
pub const PORTION_BYTES: usize = 8 << 20;

/// What a visitor did with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It took the entry; the scan goes on.
    Taken,
    /// It took the entry, and its scan ends here.
    Last,
    /// It did not take the entry: its scan and those after it wait for the next portion.
    Waits,
}

/// Ranges of keys to scan, one portion after another.
#[derive(Clone, Debug)]
pub struct Portions {
    at: usize,
    end: usize,
    /// Most keys of the next portion.
    most: usize,
}

impl Portions {
    /// Returns the portions of the keys `0..keys`.
    pub fn of(keys: usize) -> Self {
        Self { at: 0, end: keys, most: OUTPUT_ROWS }
    }

    /// Returns the keys to scan next; `None` = all are done.
    pub fn next(&self) -> Option<Range<usize>> {
        (self.at < self.end).then(|| self.at..self.end.min(self.at + self.most))
    }

    /// Marks the first `keys` of the keys from [`Portions::next`] as done.
    pub fn done(&mut self, keys: usize) {
        let asked = self.next().map_or(0, |asked| asked.len());
        // A scan that waits was wasted, so the next portion asks for about as many keys as were done in the last one.
        let most = if keys < asked { keys } else { self.most };
        self.most = most.clamp(1, OUTPUT_ROWS / 2) * 2;
        self.at += keys;
    }
}

impl KeyedState<'_> {
    /// Visits the entries of scans, in order, until one waits. Returns the number of complete scans, from the first one on.
    pub fn scan_some(
        &self,
        scans: &[Scan<'_>],
        mut visit: impl FnMut(usize, &[u8], &[u8]) -> Result<Found, EngineError>,
    ) -> Result<usize, EngineError> {
        let mut complete = scans.len();
        self.scan(scans, &mut |place, key, value| {
            if place >= complete {
                return Ok(ControlFlow::Break(()));
            }
            Ok(match visit(place, key, value)? {
                Found::Taken => ControlFlow::Continue(()),
                Found::Last => ControlFlow::Break(()),
                Found::Waits => {
                    complete = place;
                    ControlFlow::Break(())
                }
            })
        })?;
        Ok(complete)
    }

    /// Returns the bytes of keys and values after which a portion ends.
    pub fn portion_bytes(&self) -> usize {
        self.portion_bytes
    }

    /// As [`KeyedState::scan`], until the portion is full. Returns the number of complete scans, from the first one on: at
    /// least one, if there is any.
    pub fn scan_portion(&self, scans: &[Scan<'_>], visit: Visit<'_>) -> Result<usize, EngineError> {
        let (mut scan, mut bytes) = (0, 0);
        self.scan_some(scans, |place, key, value| {
            if place != scan && bytes >= self.portion_bytes {
                return Ok(Found::Waits);
            }
            scan = place;
            bytes += key.len() + value.len();
            Ok(if visit(place, key, value)?.is_break() { Found::Last } else { Found::Taken })
        })
    }
}

#[cfg(test)]
#[path = "portions_tests.rs"]
mod tests;
