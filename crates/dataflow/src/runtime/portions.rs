//! Scans of many keys, in portions that fit in memory.
//!
//! Owns: how many keys one call scans, and where a portion ends. Does not own: what is made of the entries (operators).
//! Invariants: an operator sees all entries of a key or none, so that it can settle the keys of a portion before it asks
//! for more; the calls of a batch follow from its number of keys and the bytes they bring; where portions end depends on
//! keys and state alone, so that a repeated batch has the same.

use super::keyed_state::KeyedState;
use super::pipeline::OUTPUT_ROWS;
use crate::error::EngineError;
use crate::state::{Scan, Visit};
use std::ops::{ControlFlow, Range};

/// Bytes of keys and values after which the scans that follow wait for the next portion. A batch may touch many keys with
/// many rows each, and all of them at once may be more than there is memory for; of a single key all rows are needed.
pub const PORTION_BYTES: usize = 8 << 20;

/// What becomes of an entry that a scan has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is taken; the next one of its scan may come.
    Taken,
    /// It is taken, and no more of its scan is wanted.
    Last,
    /// It is not taken: its scan, and those after it, wait for the next portion.
    Waits,
}

/// The places of keys, a portion at a time.
#[derive(Clone, Debug)]
pub struct Portions {
    at: usize,
    end: usize,
    /// Keys of the next portion at most.
    most: usize,
}

impl Portions {
    /// Of the keys at `0..keys`.
    pub fn of(keys: usize) -> Self {
        Self { at: 0, end: keys, most: OUTPUT_ROWS }
    }

    /// The keys to scan next; `None`: all are done.
    pub fn next(&self) -> Option<Range<usize>> {
        (self.at < self.end).then(|| self.at..self.end.min(self.at + self.most))
    }

    /// So many of the keys that [`Portions::next`] gave, from the first, are done.
    pub fn done(&mut self, keys: usize) {
        let asked = self.next().map_or(0, |asked| asked.len());
        // A scan that waits was begun in vain: about as many keys are asked for as were done the last time.
        let most = if keys < asked { keys } else { self.most };
        self.most = most.clamp(1, OUTPUT_ROWS / 2) * 2;
        self.at += keys;
    }
}

impl KeyedState<'_> {
    /// Visits the entries of scans, in order, until one waits. Returns how many scans, from the first, are complete.
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

    /// Bytes of keys and values that a portion brings before it ends.
    pub fn portion_bytes(&self) -> usize {
        self.portion_bytes
    }

    /// As [`KeyedState::scan`], until the scans have brought enough for a portion. Returns how many of them, from the first,
    /// are complete: at least one, if there is one.
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
