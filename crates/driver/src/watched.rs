//! What a run's watchers found out about its topics; there is one watcher per source.
//!
//! Owns: the newest result for each source. Does not own: asking the brokers (`monitor`).
//! Invariant: a result replaces only the earlier result for the same source.

use highwater_protocol::ids::SourceId;
use highwater_protocol::offsets::Positions;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Watched(BTreeMap<SourceId, (Positions, Vec<String>)>);

impl Watched {
    pub fn see(&mut self, source: SourceId, ends: Positions, warnings: Vec<String>) {
        self.0.insert(source, (ends, warnings));
    }

    /// Returns the newest known ends of all sources.
    pub fn ends(&self) -> Positions {
        self.0.values().flat_map(|(ends, _)| ends.clone()).collect()
    }

    /// Returns the warnings of all sources.
    pub fn warnings(&self) -> Vec<String> {
        self.0.values().flat_map(|(_, warnings)| warnings.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_protocol::offsets::{SourcePartition, TopicPartition};

    #[test]
    fn a_result_replaces_only_that_of_the_same_source() {
        // given two sources
        let ends = |source: u32, end| {
            let tp = TopicPartition::new("t", source as i32);
            Positions::from([(SourcePartition { source: SourceId(source), tp }, end)])
        };
        let mut watched = Watched::default();
        // when each is looked at, one of them twice
        watched.see(SourceId(0), ends(0, 10), vec!["zero".into()]);
        watched.see(SourceId(1), ends(1, 20), vec!["one".into()]);
        watched.see(SourceId(0), ends(0, 30), Vec::new());
        // then
        assert_eq!(watched.ends().into_values().collect::<Vec<_>>(), [30, 20]);
        assert_eq!(watched.warnings(), ["one"]);
    }
}
