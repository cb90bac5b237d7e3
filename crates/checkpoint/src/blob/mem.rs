//! Blobs in memory, for tests and for runs without durable state.

use super::BlobStore;
use crate::error::CheckpointError;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Default)]
pub struct MemBlobStore {
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemBlobStore {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> T) -> Result<T, CheckpointError> {
        Ok(f(&mut self.blobs.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl BlobStore for MemBlobStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.with(|blobs| {
            blobs.insert(name.to_string(), bytes.to_vec());
        })
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        self.with(|blobs| blobs.get(name).cloned())
    }

    fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        self.with(|blobs| {
            blobs.remove(name);
        })
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, CheckpointError> {
        self.with(|blobs| blobs.keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }
}
