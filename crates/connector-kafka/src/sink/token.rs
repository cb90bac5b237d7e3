//! The token of a writer's report: the position of its progress record.
//!
//! Owns: the token's bytes. Does not own: storing them (the prepare record does, without reading them). Invariant: the
//! bytes are JSON as in checkpoints from before reports had tokens, so that writers of those can be resolved, too.

use highwater_protocol::report::WriterToken;
use serde::{Deserialize, Serialize};

/// Position of a progress record in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressPosition {
    pub partition: i32,
    pub offset: i64,
}

impl ProgressPosition {
    /// Encodes the position. After `None`, recovery reads the whole topic.
    pub fn token(self) -> Option<WriterToken> {
        serde_json::to_vec(&self).ok().map(WriterToken)
    }

    /// Decodes a token; `None` if the bytes are not a position. Recovery then reads the whole topic.
    pub fn of(token: &WriterToken) -> Option<Self> {
        serde_json::from_slice(&token.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_protocol::report::WriterReport;

    #[test]
    fn a_checkpoint_from_before_tokens_still_tells_where_progress_lies() {
        let stored = r#"{"plan":{"sink":0,"writer":1},"rows":3,"digest":39,"progress_at":{"partition":0,"offset":17}}"#;
        let report: WriterReport = serde_json::from_str(stored).unwrap();
        let found = report.token.as_ref().and_then(ProgressPosition::of);
        assert_eq!(found, Some(ProgressPosition { partition: 0, offset: 17 }));
        let again: WriterReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again, report);
    }

    #[test]
    fn bytes_of_another_connector_are_no_position() {
        let position = ProgressPosition { partition: 0, offset: 5 };
        assert_eq!(position.token().as_ref().and_then(ProgressPosition::of), Some(position));
        assert_eq!(ProgressPosition::of(&WriterToken(b"part-7.parquet".to_vec())), None);
    }
}
