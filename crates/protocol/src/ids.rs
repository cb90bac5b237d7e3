//! Identifiers: one newtype per kind of id.
//!
//! Owns: the types and their text forms. Does not own: where ids come from (no randomness here).

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map($name)
            }
        }
    };
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A query: durable, survives restarts and executors.
    QueryId
);
uuid_id!(
    /// One run of a query: from a start to its stop, failure or the next driver restart.
    RunId
);
uuid_id!(
    /// One executor process. A restarted executor is a new one.
    ExecutorId
);
number_id!(
    /// A micro-batch of a query, counted from 0 without gaps.
    BatchId(u64)
);
number_id!(
    /// Fencing number of a driver. A restarted driver claims a higher one before it reads anything.
    Epoch(u64)
);
number_id!(
    /// One try at executing a micro-batch; unique within an epoch of a query, never reused.
    AttemptNumber(u64)
);
number_id!(
    /// A source (one `CREATE TABLE` that some INSERT reads), by position in the compiled query.
    SourceId(u32)
);
number_id!(
    /// A sink (one table some INSERT writes), by position in the compiled query.
    SinkId(u32)
);
number_id!(
    /// A stage of the dataflow, by position in the compiled query.
    StageId(u32)
);
number_id!(
    /// A stateful operator of the dataflow, by position in the compiled query.
    OperatorId(u32)
);
number_id!(
    /// An exchange edge between two stages.
    EdgeId(u32)
);
number_id!(
    /// A task of one batch plan: a stage over some partitions or shards.
    TaskId(u32)
);
number_id!(
    /// A writer of one sink; together with query and sink it names a `transactional.id`.
    WriterId(u32)
);
number_id!(
    /// A shard: one slice of a query's state by key hash.
    ShardId(u16)
);

/// An attempt as executors see it: labels overlays, exchange streams and open transactions.
/// Ordered by (epoch, number): a higher one always supersedes a lower one of the same query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    pub epoch: Epoch,
    pub number: AttemptNumber,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

impl BatchId {
    /// The batch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
