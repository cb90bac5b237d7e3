//! How far the log of a partition is validated.
//!
//! Owns: what was asked and told so far. Does not own: asking (`placing`).

use highwater_protocol::offsets::LastRecord;

/// How often a leader is asked from where on a log was rewritten.
const MOST_ASKED: u8 = 20;

/// How far the log of a partition is validated.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// The last record before the next offset to come, where its leader epoch is known.
    pub last: Option<LastRecord>,
    /// The consumer has yet to take the seek.
    pub(super) due: bool,
    /// The leader has once said that the log was truncated.
    pub(super) doubted: bool,
    /// How often it was asked although a fetch had failed.
    pub(super) asked: u8,
}

impl Validation {
    pub fn behind(last: Option<LastRecord>) -> Self {
        Self { last, ..Self::default() }
    }

    /// True when a truncation is told for the first time: the answer may be one to an earlier question, about another
    /// position. False where there is nothing to ask about.
    pub fn ask_again(&mut self) -> bool {
        self.last.is_some() && !std::mem::replace(&mut self.doubted, true)
    }

    /// The log ends at or before the last record, and a fetch was told so before the leader said from where on it was
    /// rewritten: one that is sent between the assignment and the seek. True a limited number of times, since brokers that
    /// do not know the question always let the fetch fail.
    pub fn ask_where(&mut self, latest: i64) -> bool {
        let ask = self.asked < MOST_ASKED && self.last.is_some_and(|last| last.offset >= latest);
        self.asked += u8::from(ask);
        ask
    }

    /// There was no record at `offset` when the log was read up to `next`.
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
