//! Which topic of a name a consumer reads, when topics are deleted and created again.
//!
//! Owns: comparing the id that positions belong to with the one librdkafka was told. Does not own: what follows from a
//! difference (`worker`, and the driver).
//!
//! librdkafka fetches by topic id, and when it is told another id for the name it goes on at the same offset under that one
//! without a word. It notes the change in its log before its first fetch by it, and the log comes through the consumer's
//! own queue, ahead of the records: whatever is polled while the last id noted is the expected one was written to that topic.

/// What the consumer must read, and what it reads.
#[derive(Debug, Default)]
pub struct Incarnation {
    /// `None`: the brokers did not tell one when the query was submitted.
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

    /// What was polled may be used.
    pub fn is_expected(&self) -> bool {
        self.expected.is_none() || self.observed == self.expected
    }

    /// The id of the topic that is read in place of the expected one.
    pub fn other(&self) -> Option<&str> {
        self.observed.as_deref().filter(|_| !self.is_expected())
    }
}

/// The topic and its new id, of the line by which librdkafka notes a change.
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
