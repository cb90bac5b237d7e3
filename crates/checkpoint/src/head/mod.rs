//! Heads: a few small values that change atomically, guarded by the epoch.
//!
//! Owns: the trait and its contract. Does not own: keys (`keys`) or values (`values`).
//! Invariants: `transact` is all or nothing, durable when it returns, and refused for any epoch but the one claimed
//! last; a `note` becomes durable with the next transaction at the latest, and never makes an earlier write less
//! durable.

mod mem;
mod sled;

pub use self::sled::SledHeadStore;
pub use mem::MemHeadStore;

use crate::error::CheckpointError;
use crate::keys::HeadKey;
use highwater_protocol::ids::Epoch;

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadOp {
    Put(HeadKey, Vec<u8>),
    Delete(HeadKey),
    /// The transaction only happens if the key has this value (`None`: if the key is absent).
    Expect(HeadKey, Option<Vec<u8>>),
    /// The transaction only happens if the key is present.
    ExpectPresent(HeadKey),
}

/// The outcome of a transaction that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Transacted {
    Done,
    /// An expectation was not met; nothing was changed.
    Refused,
}

/// Stores head values.
pub trait HeadStore: Send + Sync {
    /// Raises the epoch by one, durably, and returns it. All earlier epochs are fenced from then on.
    fn claim_epoch(&self) -> Result<Epoch, CheckpointError>;
    /// Returns the epoch claimed last; 0 if none was.
    fn epoch(&self) -> Result<Epoch, CheckpointError>;
    /// Applies all operations or none, durably.
    fn transact(&self, epoch: Epoch, ops: &[HeadOp]) -> Result<Transacted, CheckpointError>;
    /// Sets one key without waiting for the disk.
    fn note(&self, epoch: Epoch, key: &HeadKey, value: &[u8]) -> Result<(), CheckpointError>;
    fn get(&self, key: &HeadKey) -> Result<Option<Vec<u8>>, CheckpointError>;
    /// Returns the keys that begin with `prefix`, with their values, in key order.
    fn scan(&self, prefix: &str) -> Result<Vec<(HeadKey, Vec<u8>)>, CheckpointError>;
    /// True if it holds no key at all, not even one that this version does not know.
    fn is_empty(&self) -> Result<bool, CheckpointError>;
}

/// The check that every write begins with.
fn check_epoch(yours: Epoch, current: Epoch) -> Result<(), CheckpointError> {
    if yours == current { Ok(()) } else { Err(CheckpointError::Fenced { yours, current }) }
}

#[cfg(test)]
mod contract {
    use super::*;
    use highwater_protocol::error::ErrorKind;
    use highwater_protocol::ids::{BatchId, QueryId};
    use uuid::Uuid;

    fn query() -> QueryId {
        QueryId(Uuid::from_u128(1))
    }

    fn batch(n: u64) -> HeadKey {
        HeadKey::Batch(query(), BatchId(n))
    }

    /// What every implementation must do.
    fn check(store: &dyn HeadStore) {
        assert!(store.is_empty().unwrap());
        assert_eq!(store.epoch().unwrap(), Epoch(0));
        let first = store.claim_epoch().unwrap();
        assert_eq!(first, Epoch(1));
        let put = |n: u64, value: &[u8]| HeadOp::Put(batch(n), value.to_vec());
        assert_eq!(store.transact(first, &[put(2, b"two"), put(10, b"ten")]).unwrap(), Transacted::Done);
        assert_eq!(store.get(&batch(2)).unwrap().unwrap(), b"two");
        assert_eq!(store.get(&batch(3)).unwrap(), None);

        let scanned = store.scan(&HeadKey::batches_of(query())).unwrap();
        assert_eq!(scanned, [(batch(2), b"two".to_vec()), (batch(10), b"ten".to_vec())]);

        let wrong = [put(3, b"x"), HeadOp::Expect(batch(2), Some(b"other".to_vec()))];
        assert_eq!(store.transact(first, &wrong).unwrap(), Transacted::Refused);
        let absent = [put(3, b"x"), HeadOp::Expect(batch(2), None)];
        assert_eq!(store.transact(first, &absent).unwrap(), Transacted::Refused);
        let missing = [put(3, b"x"), HeadOp::ExpectPresent(batch(9))];
        assert_eq!(store.transact(first, &missing).unwrap(), Transacted::Refused);
        assert_eq!(store.get(&batch(3)).unwrap(), None, "a refused transaction changes nothing");
        let right = [
            HeadOp::Expect(batch(2), Some(b"two".to_vec())),
            HeadOp::Expect(batch(3), None),
            HeadOp::ExpectPresent(batch(10)),
            HeadOp::Delete(batch(2)),
            put(3, b"three"),
        ];
        assert_eq!(store.transact(first, &right).unwrap(), Transacted::Done);
        assert_eq!(store.get(&batch(2)).unwrap(), None);

        store.note(first, &HeadKey::Committed(query()), b"3").unwrap();
        assert_eq!(store.get(&HeadKey::Committed(query())).unwrap().unwrap(), b"3");

        let second = store.claim_epoch().unwrap();
        assert_eq!((second, store.epoch().unwrap()), (Epoch(2), Epoch(2)));
        for stale in [first, Epoch(0), Epoch(3)] {
            let refused = store.transact(stale, &[put(4, b"x")]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Fenced);
            assert_eq!(store.note(stale, &batch(4), b"x").unwrap_err().kind(), ErrorKind::Fenced);
        }
        assert_eq!(store.get(&batch(4)).unwrap(), None);
        assert_eq!(store.transact(second, &[put(4, b"four")]).unwrap(), Transacted::Done);
        assert!(!store.is_empty().unwrap());
    }

    #[test]
    fn memory() {
        check(&MemHeadStore::default());
    }

    #[test]
    fn memory_loses_only_what_was_not_synced() {
        let store = MemHeadStore::default();
        let epoch = store.claim_epoch().unwrap();
        let _ = store.transact(epoch, &[HeadOp::Put(batch(1), b"durable".to_vec())]).unwrap();
        store.note(epoch, &batch(2), b"noted").unwrap();
        store.lose_unsynced();
        assert_eq!(store.get(&batch(1)).unwrap().unwrap(), b"durable");
        assert_eq!(store.get(&batch(2)).unwrap(), None);
        store.note(epoch, &batch(2), b"noted").unwrap();
        let _ = store.transact(epoch, &[HeadOp::Delete(batch(1))]).unwrap();
        store.lose_unsynced();
        assert_eq!(store.get(&batch(1)).unwrap(), None);
        assert_eq!(store.get(&batch(2)).unwrap().unwrap(), b"noted", "a transaction makes earlier notes durable");
    }

    #[test]
    fn sled() {
        let dir = tempfile::tempdir().unwrap();
        check(&SledHeadStore::open(dir.path()).unwrap());
        let again = SledHeadStore::open(dir.path()).unwrap();
        assert_eq!(again.epoch().unwrap(), Epoch(2));
        assert_eq!(again.get(&batch(4)).unwrap().unwrap(), b"four", "values survive reopening");
    }
}
