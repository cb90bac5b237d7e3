//! Identity of the plan that wrote a checkpoint's state.
//!
//! Owns: the identity of a plan, as stored with a query, and describing how two differ. Does not own: computing it
//! (crate `planner`). Invariant: state is read only by a plan of the identity that wrote it.

use crate::ids::OperatorId;
use serde::{Deserialize, Serialize};

/// Identifies the state layout of a query, whichever build compiles its script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanIdentity {
    /// Number of shards.
    pub shards: u16,
    /// Operators that keep state, by id.
    pub operators: Vec<StateIdentity>,
}

/// Identifies the state of one operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateIdentity {
    pub operator: OperatorId,
    /// `join`, `aggregate`, …
    pub kind: String,
    /// Version of the layout of its keys and values.
    pub version: u32,
    /// Hash of its keys, schemas and expressions, as text.
    pub digest: String,
}

impl PlanIdentity {
    /// Explains why a build that makes `now` of a query's script must not read its state; `None` if it may.
    pub fn refusal(&self, now: &Self, query: &str) -> Option<String> {
        let difference = self.difference(now)?;
        Some(format!(
            "the state of query `{query}` was written by a different plan than this version of Highwater makes from its \
             script: {difference}. Run it with the version that it was submitted to, or submit it again with --replace"
        ))
    }

    /// Describes how `now`, the plan of this build, differs from the plan that wrote the state; `None` if they match.
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.shards != now.shards {
            return Some(format!("its state has {} shards, but the plan has {} now", self.shards, now.shards));
        }
        for then in &self.operators {
            let Some(found) = now.operators.iter().find(|found| found.operator == then.operator) else {
                return Some(format!("the plan no longer has operator {} ({})", then.operator, then.kind));
            };
            let differs = |how: String| Some(format!("operator {} ({}) {how}", then.operator, then.kind));
            if found.kind != then.kind {
                return differs(format!("is now of kind {}", found.kind));
            }
            if found.version != then.version {
                let (old, new) = (then.version, found.version);
                return differs(format!("keeps its state in layout {old}, but this build reads layout {new}"));
            }
            if found.digest != then.digest {
                return differs("has other keys, schemas or expressions now".into());
            }
        }
        let known = |found: &&StateIdentity| self.operators.iter().any(|then| then.operator == found.operator);
        let new = now.operators.iter().find(|found| !known(found))?;
        Some(format!("operator {} ({}) is new in the plan", new.operator, new.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(operator: u32) -> StateIdentity {
        StateIdentity { operator: OperatorId(operator), kind: "join".into(), version: 1, digest: "a".into() }
    }

    #[test]
    fn every_difference_is_named() {
        let then = PlanIdentity { shards: 64, operators: vec![join(0), join(2)] };
        assert_eq!(then.difference(&then.clone()), None);
        let with = |operators| PlanIdentity { shards: 64, operators };
        let cases = [
            (PlanIdentity { shards: 8, ..then.clone() }, "64 shards, but the plan has 8"),
            (with(vec![join(0)]), "no longer has operator 2 (join)"),
            (
                with(vec![join(0), StateIdentity { kind: "aggregate".into(), ..join(2) }]),
                "operator 2 (join) is now of kind aggregate",
            ),
            (with(vec![join(0), StateIdentity { version: 2, ..join(2) }]), "layout 1, but this build reads layout 2"),
            (with(vec![StateIdentity { digest: "b".into(), ..join(0) }, join(2)]), "operator 0 (join) has other keys"),
            (with(vec![join(0), join(1), join(2)]), "operator 1 (join) is new"),
        ];
        for (now, expected) in cases {
            let difference = then.difference(&now).unwrap();
            assert!(difference.contains(expected), "{difference}");
        }
    }
}
