//! Heads in memory, which can simulate a power cut.

use super::{HeadOp, HeadStore, Transacted, check_epoch};
use crate::error::CheckpointError;
use crate::keys::HeadKey;
use highwater_protocol::ids::Epoch;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Map = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Default)]
pub struct MemHeadStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    epoch: u64,
    current: Map,
    synced: Map,
}

impl MemHeadStore {
    /// Drops every note made since the last transaction, as a power cut would.
    pub fn lose_unsynced(&self) {
        let mut state = self.state();
        state.current = state.synced.clone();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeadStore for MemHeadStore {
    fn claim_epoch(&self) -> Result<Epoch, CheckpointError> {
        let mut state = self.state();
        state.epoch += 1;
        state.synced = state.current.clone();
        Ok(Epoch(state.epoch))
    }

    fn epoch(&self) -> Result<Epoch, CheckpointError> {
        Ok(Epoch(self.state().epoch))
    }

    fn transact(&self, epoch: Epoch, ops: &[HeadOp]) -> Result<Transacted, CheckpointError> {
        let mut state = self.state();
        check_epoch(epoch, Epoch(state.epoch))?;
        let met = ops.iter().all(|op| match op {
            HeadOp::Expect(key, value) => state.current.get(&key.to_string()) == value.as_ref(),
            HeadOp::ExpectPresent(key) => state.current.contains_key(&key.to_string()),
            HeadOp::Put(..) | HeadOp::Delete(_) => true,
        });
        if !met {
            return Ok(Transacted::Refused);
        }
        for op in ops {
            match op {
                HeadOp::Put(key, value) => {
                    state.current.insert(key.to_string(), value.clone());
                }
                HeadOp::Delete(key) => {
                    state.current.remove(&key.to_string());
                }
                HeadOp::Expect(..) | HeadOp::ExpectPresent(_) => {}
            }
        }
        state.synced = state.current.clone();
        Ok(Transacted::Done)
    }

    fn note(&self, epoch: Epoch, key: &HeadKey, value: &[u8]) -> Result<(), CheckpointError> {
        let mut state = self.state();
        check_epoch(epoch, Epoch(state.epoch))?;
        state.current.insert(key.to_string(), value.to_vec());
        Ok(())
    }

    fn get(&self, key: &HeadKey) -> Result<Option<Vec<u8>>, CheckpointError> {
        Ok(self.state().current.get(&key.to_string()).cloned())
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(HeadKey, Vec<u8>)>, CheckpointError> {
        let state = self.state();
        let matching = state.current.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(matching.filter_map(|(key, value)| Some((HeadKey::parse(key)?, value.clone()))).collect())
    }

    fn is_empty(&self) -> Result<bool, CheckpointError> {
        let state = self.state();
        Ok(state.current.is_empty() && state.epoch == 0)
    }
}
