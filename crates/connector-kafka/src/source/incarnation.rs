//! Detects that a consumer reads a recreated topic of the same name.
//!
//! Owns: comparing the topic id that positions belong to with the id that librdkafka reads. Does not own: the reaction
//! to a difference (`worker`, and the driver).
//!
//! librdkafka fetches by topic id. When brokers give it another id for the name, it silently continues at the same
//! offset of the new topic. But it logs the change before its first fetch by the new id, and the log line arrives in
//! the consumer's queue ahead of the records. So an event that is polled while the last logged id is the expected one
//! belongs to the expected topic.

/// The topic that the consumer must read, and the one that it reads.
#[derive(Debug, Default)]
pub struct Incarnation {
    /// `None` if the brokers reported no id when the query was submitted.
    expected: Option<String>,
    observed: Option<String>,
}

impl Incarnation {
    pub fn expect(&mut self, id: Option<String>) {
        self.expected = id;
    }

    pub fn observe(&mut self, id: String) {
        self.observed = Some(id);
    }

    /// Returns whether polled events belong to the expected topic.
    pub fn is_expected(&self) -> bool {
        self.expected.is_none() || self.observed == self.expected
    }

    /// Returns the id of the topic that is read instead of the expected one; `None` if there is none.
    pub fn other(&self) -> Option<&str> {
        self.observed.as_deref().filter(|_| !self.is_expected())
    }
}

/// Parses topic and new id out of the log line about a change; `None` for any other line.
pub fn noted_change(line: &str) -> Option<(&str, &str)> {
    let (before, ids) = line.rsplit_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once("Topic ")?;
    let (_, id) = ids.split_once(" to ")?;
    Some((topic, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_from_the_line_that_notes_it() {
        let line = "[thrd:main]: Topic my.topic changed id from AAAAAAAAAAAAAAAAAAAAAA to 3nR1-xYzQ9aQ0b_3kq1b2w";
        assert_eq!(noted_change(line), Some(("my.topic", "3nR1-xYzQ9aQ0b_3kq1b2w")));
        assert_eq!(noted_change("[thrd:main]: Topic t [0] Leader 1 Epoch 0"), None);
    }

    #[test]
    fn only_the_expected_topic_may_be_used() {
        let mut read = Incarnation::default();
        assert!(read.is_expected(), "where no id is known there is nothing to compare");
        read.expect(Some("a".into()));
        assert_eq!((read.is_expected(), read.other()), (false, None), "not told yet");
        read.observe("a".into());
        assert_eq!((read.is_expected(), read.other()), (true, None));
        read.observe("b".into());
        assert_eq!((read.is_expected(), read.other()), (false, Some("b")));
    }
}
