//! State of validating the log of a partition.
//!
//! Owns: the questions asked and the answers received so far. Does not own: asking (`placing`).

use highwater_protocol::offsets::LastRecord;

/// Maximum number of times that a leader is asked from which offset on a log was rewritten.
const MOST_ASKED: u8 = 20;

/// State of validating the log of a partition.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// The last record that was read; `None` if its leader epoch is unknown.
    pub last: Option<LastRecord>,
    /// Whether the consumer has not accepted the seek yet.
    pub(super) due: bool,
    /// Whether the leader has already reported a truncation.
    pub(super) doubted: bool,
    /// Number of times that the leader was asked again after a fetch had failed.
    pub(super) asked: u8,
}

impl Validation {
    pub fn behind(last: Option<LastRecord>) -> Self {
        Self { last, ..Self::default() }
    }

    /// Returns true if a truncation is reported for the first time: the answer may belong to an earlier question about
    /// another position, so the leader is asked again. Returns false if there is no last record to ask about.
    pub fn ask_again(&mut self) -> bool {
        self.last.is_some() && !std::mem::replace(&mut self.doubted, true)
    }

    /// Returns whether to ask the leader from which offset on the log was rewritten, after a fetch has failed because
    /// the log ends at or before the last record. Such a fetch may have been sent between the assignment and the seek.
    /// Returns true a limited number of times, since brokers that do not support the question always let the fetch
    /// fail.
    pub fn ask_where(&mut self, latest: i64) -> bool {
        let ask = self.asked < MOST_ASKED && self.last.is_some_and(|last| last.offset >= latest);
        self.asked += u8::from(ask);
        ask
    }

    /// Returns whether `offset` held no record when the log was read up to `next`.
    pub fn is_new(&self, offset: i64, next: i64) -> bool {
        offset < next && self.last.is_some_and(|last| offset > last.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(offset: i64) -> Validation {
        Validation::behind(Some(LastRecord { offset, leader_epoch: 1 }))
    }

    #[test]
    fn a_truncation_is_believed_when_it_is_told_twice_or_cannot_be_asked_about() {
        let mut validation = behind(9);
        assert!(validation.ask_again());
        assert!(!validation.ask_again());
        assert!(!Validation::default().ask_again());
    }

    #[test]
    fn where_a_shorter_log_was_rewritten_is_asked_but_not_for_ever() {
        let mut validation = behind(9);
        assert!(!validation.ask_where(10), "it holds the last record");
        assert_eq!((0..100).filter(|_| validation.ask_where(9)).count(), usize::from(MOST_ASKED));
        assert!(!Validation::default().ask_where(0));
    }

    #[test]
    fn a_record_between_the_last_one_and_the_position_was_not_there_when_they_were_read() {
        // given records up to 9, and markers up to 12
        let (validation, next) = (behind(9), 12);
        // then
        assert_eq!([9, 10, 11, 12].map(|offset| validation.is_new(offset, next)), [false, true, true, false]);
        assert!(!Validation::default().is_new(10, next));
    }
}
