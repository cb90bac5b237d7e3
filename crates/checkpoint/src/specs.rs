//! Stored queries: put, list, delete.
//!
//! Invariants: a name belongs to one query; a deleted query's keys go in one transaction, then its blobs.

use crate::error::CheckpointError;
use crate::format::{self, Container, Kind};
use crate::head::HeadOp;
use crate::keys::{BlobName, HeadKey};
use crate::store::CheckpointStore;
use crate::values::{self, SpecEntry, decode, decode_text};
use highwater_core::ids::{Epoch, QueryId};
use highwater_core::options::QuerySpec;

impl CheckpointStore {
    /// Stores a query durably, new or changed. A name that another query has is refused.
    pub fn put_query(&self, epoch: Epoch, spec: &QuerySpec) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        let key = HeadKey::Spec(spec.id);
        let name_key = HeadKey::Name(spec.name.clone());
        let id = spec.id.to_string().into_bytes();
        let owner = self.inner.heads.get(&name_key)?;
        if owner.as_ref().is_some_and(|owner| *owner != id) {
            return Err(CheckpointError::AlreadyExists { name: spec.name.clone() });
        }
        let old_value = self.inner.heads.get(&key)?;
        let old = old_value.as_deref().map(|value| decode::<SpecEntry>(&key, value)).transpose()?;
        let version = old.as_ref().map_or(0, |old| old.version + 1);
        let json = serde_json::to_vec(spec).map_err(|error| CheckpointError::Encode(error.to_string()))?;
        let bytes = format::encode([(Kind::Spec, json.as_slice())])?;
        let body = self.write_body(BlobName::Spec(spec.id, epoch, version), bytes)?;
        let entry = SpecEntry { name: spec.name.clone(), version, body };
        let mut ops = vec![
            HeadOp::Expect(name_key.clone(), owner),
            HeadOp::Expect(key.clone(), old_value),
            HeadOp::Put(name_key, id),
            HeadOp::Put(key, values::encode(&entry)?),
        ];
        if let Some(old) = old.as_ref().filter(|old| old.name != spec.name) {
            ops.push(HeadOp::Delete(HeadKey::Name(old.name.clone())));
        }
        self.transact(epoch, spec.id, &ops)?;
        if let Some(blob) = old.as_ref().and_then(|old| old.body.blob()) {
            self.inner.blobs.delete(blob)?;
        }
        Ok(())
    }

    /// Every stored query, by name.
    pub fn queries(&self) -> Result<Vec<QuerySpec>, CheckpointError> {
        let keys = self.inner.heads.scan(HeadKey::QUERIES)?;
        let specs = keys.into_iter().filter(|(key, _)| matches!(key, HeadKey::Spec(_)));
        let mut specs = specs.map(|(key, value)| self.read_spec(&key, &value)).collect::<Result<Vec<_>, _>>()?;
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(specs)
    }

    /// One stored query.
    pub fn query(&self, id: QueryId) -> Result<Option<QuerySpec>, CheckpointError> {
        let key = HeadKey::Spec(id);
        let value = self.inner.heads.get(&key)?;
        value.map(|value| self.read_spec(&key, &value)).transpose()
    }

    /// The stored query of this name.
    pub fn query_by_name(&self, name: &str) -> Result<Option<QuerySpec>, CheckpointError> {
        let key = HeadKey::Name(name.to_string());
        match self.inner.heads.get(&key)? {
            Some(id) => self.query(decode_text(&key, &id)?),
            None => Ok(None),
        }
    }

    fn read_spec(&self, key: &HeadKey, value: &[u8]) -> Result<QuerySpec, CheckpointError> {
        let entry: SpecEntry = decode(key, value)?;
        let (file, bytes) = self.read_body(key, &entry.body)?;
        let json = Container::parse(&file, &bytes)?.read_one(Kind::Spec)?;
        serde_json::from_slice(&json).map_err(|error| CheckpointError::damaged(file, error))
    }

    /// Removes a query with all its checkpoints. Removing one that is not there is fine.
    pub fn delete_query(&self, epoch: Epoch, id: QueryId) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        let slot = self.slot(id);
        let _alone = slot.files.write();
        let mut ops = Vec::new();
        for (key, value) in self.inner.heads.scan(&HeadKey::of_query(id))? {
            if matches!(key, HeadKey::Spec(_)) {
                ops.push(HeadOp::Delete(HeadKey::Name(decode::<SpecEntry>(&key, &value)?.name)));
            }
            ops.push(HeadOp::Delete(key));
        }
        self.guarded(self.inner.marks.remove(id))?;
        if ops.is_empty() {
            return Ok(());
        }
        self.transact(epoch, id, &ops)?;
        self.forget(id);
        for blob in self.inner.blobs.list(&BlobName::of_query(id))? {
            self.inner.blobs.delete(&blob)?;
        }
        Ok(())
    }
}
