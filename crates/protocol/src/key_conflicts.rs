//! Keys of a keyed sink under which more than one row is live.
//!
//! Owns: counting those keys from batch to batch, and a few of their names for people. Does not own: finding them
//! (operators), which of the rows a sink shows (operators). Invariant: `keys` is exact; the names are a sample, and a key
//! whose conflict has ended is never among them.

use serde::{Deserialize, Serialize};

/// Keys named in a warning, at most.
pub const NAMED_KEYS: usize = 3;
/// Keys named in a task's report, at most, of each kind.
const REPORTED_KEYS: usize = 100;
/// Length of a key's name, at most, characters.
const NAME_CHARS: usize = 200;

/// How one task changed the conflicts of an operator in one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictChanges {
    /// Keys that have more than one live row now, and had not before the batch.
    pub begun: u64,
    /// Keys that had more than one live row before the batch, and have not now.
    pub ended: u64,
    /// Some of the keys that began: `email = a@x`.
    pub begun_keys: Vec<String>,
    /// Some of the keys that ended.
    pub ended_keys: Vec<String>,
}

impl ConflictChanges {
    pub fn begin(&mut self, key: impl FnOnce() -> String) {
        self.begun += 1;
        // No more of them are ever shown.
        if self.begun_keys.len() < NAMED_KEYS {
            self.begun_keys.push(shortened(&key()));
        }
    }

    pub fn end(&mut self, key: impl FnOnce() -> String) {
        self.ended += 1;
        if self.ended_keys.len() < REPORTED_KEYS {
            self.ended_keys.push(shortened(&key()));
        }
    }

    /// Adds the changes of other keys.
    pub fn append(&mut self, mut other: Self) {
        self.begun += other.begun;
        self.ended += other.ended;
        self.begun_keys.append(&mut other.begun_keys);
        self.ended_keys.append(&mut other.ended_keys);
    }
}

fn shortened(key: &str) -> String {
    match key.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("{}…", &key[..end]),
        None => key.to_string(),
    }
}

/// Conflicts of one operator after a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyConflicts {
    /// Number of keys with more than one live row.
    pub keys: u64,
    /// Some of them; none if all that were named have ended.
    pub named: Vec<String>,
}

impl KeyConflicts {
    /// Applies what one task changed.
    pub fn apply(&mut self, changes: &ConflictChanges) {
        self.keys = (self.keys + changes.begun).saturating_sub(changes.ended);
        // Any of the named may be among those that ended without a name.
        if changes.ended > changes.ended_keys.len() as u64 {
            self.named.clear();
        }
        self.named.retain(|key| !changes.ended_keys.contains(key));
        let room = NAMED_KEYS.saturating_sub(self.named.len());
        self.named.extend(changes.begun_keys.iter().take(room).cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(begun: &[&str], ended: &[&str]) -> ConflictChanges {
        let mut changes = ConflictChanges::default();
        begun.iter().for_each(|key| changes.begin(|| key.to_string()));
        ended.iter().for_each(|key| changes.end(|| key.to_string()));
        changes
    }

    #[test]
    fn a_conflict_is_named_until_it_ends() {
        let mut all = KeyConflicts::default();
        all.apply(&changes(&["a", "b", "c", "d"], &[]));
        assert_eq!(all, KeyConflicts { keys: 4, named: ["a", "b", "c"].map(String::from).to_vec() });
        all.apply(&changes(&["e"], &["b"]));
        assert_eq!(all, KeyConflicts { keys: 4, named: ["a", "c", "e"].map(String::from).to_vec() });
        all.apply(&changes(&[], &["a", "c", "d", "e"]));
        assert_eq!(all, KeyConflicts::default());
    }

    #[test]
    fn no_ended_conflict_is_named_however_many_end_at_once() {
        let keys: Vec<String> = (0..1_000).map(|key| key.to_string()).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut all = KeyConflicts::default();
        all.apply(&changes(&keys, &[]));
        let ended: Vec<&str> = keys.iter().rev().copied().take(999).collect();
        all.apply(&changes(&[], &ended));
        assert_eq!(all, KeyConflicts { keys: 1, named: Vec::new() });
    }

    #[test]
    fn long_keys_are_shortened() {
        let long = "é".repeat(1_000);
        let named = changes(&[&long], &[]).begun_keys;
        assert_eq!(named, [format!("{}…", "é".repeat(NAME_CHARS))]);
    }
}
