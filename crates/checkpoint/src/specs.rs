//! Stored queries: put, list, replace, delete.
//!
//! Invariants: a name belongs to one query; the keys of a deleted query are removed in one transaction, then its blobs.

use crate::error::CheckpointError;
use crate::format::{self, Container, Kind};
use crate::head::HeadOp;
use crate::keys::{BlobName, HeadKey};
use crate::store::CheckpointStore;
use crate::values::{self, SpecEntry, decode, decode_text};
use highwater_protocol::ids::{Epoch, QueryId};
use highwater_protocol::options::QuerySpec;

impl CheckpointStore {
    /// Stores a new or changed query durably. Refuses a name that another query has.
    pub fn put_query(&self, epoch: Epoch, spec: &QuerySpec) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        let name_key = HeadKey::Name(spec.name.clone());
        let owner = self.inner.heads.get(&name_key)?;
        if owner.as_ref().is_some_and(|owner| *owner != spec.id.to_string().into_bytes()) {
            return Err(CheckpointError::AlreadyExists { name: spec.name.clone() });
        }
        let (mut ops, outdated) = self.put_ops(epoch, spec)?;
        ops.insert(0, HeadOp::Expect(name_key, owner));
        self.transact(epoch, spec.id, &ops)?;
        if let Some(blob) = outdated {
            self.inner.blobs.delete(&blob)?;
        }
        Ok(())
    }

    /// Returns the operations that store a spec, and the blob that is unreferenced afterwards, if any.
    fn put_ops(&self, epoch: Epoch, spec: &QuerySpec) -> Result<(Vec<HeadOp>, Option<String>), CheckpointError> {
        let key = HeadKey::Spec(spec.id);
        let old_value = self.inner.heads.get(&key)?;
        let old = old_value.as_deref().map(|value| decode::<SpecEntry>(&key, value)).transpose()?;
        let version = old.as_ref().map_or(0, |old| old.version + 1);
        let json = serde_json::to_vec(spec).map_err(|error| CheckpointError::Encode(error.to_string()))?;
        let bytes = format::encode([(Kind::Spec, json.as_slice())])?;
        let body = self.write_body(BlobName::Spec(spec.id, epoch, version), bytes)?;
        let entry = SpecEntry { name: spec.name.clone(), version, body };
        let mut ops = vec![
            HeadOp::Expect(key.clone(), old_value),
            HeadOp::Put(HeadKey::Name(spec.name.clone()), spec.id.to_string().into_bytes()),
            HeadOp::Put(key, values::encode(&entry)?),
        ];
        if let Some(old) = old.as_ref().filter(|old| old.name != spec.name) {
            ops.push(HeadOp::Delete(HeadKey::Name(old.name.clone())));
        }
        Ok((ops, old.as_ref().and_then(|old| old.body.blob()).map(str::to_string)))
    }

    /// Removes a query with all its checkpoints and stores another one instead, in one transaction. The old query must
    /// exist, and may have the name of the new one.
    pub fn replace_query(&self, epoch: Epoch, old: QueryId, new: &QuerySpec) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        let name_key = HeadKey::Name(new.name.clone());
        let owner = self.inner.heads.get(&name_key)?;
        let allowed = [old, new.id].map(|id| id.to_string().into_bytes());
        if owner.as_ref().is_some_and(|owner| !allowed.contains(owner)) {
            return Err(CheckpointError::AlreadyExists { name: new.name.clone() });
        }
        let slot = self.slot(old);
        let _alone = slot.files.write();
        let mut ops = vec![HeadOp::Expect(name_key, owner), HeadOp::ExpectPresent(HeadKey::Spec(old))];
        ops.extend(self.delete_ops(old)?);
        ops.extend(self.put_ops(epoch, new)?.0);
        self.guarded(self.inner.marks.remove(old))?;
        self.transact(epoch, old, &ops)?;
        self.forget(old);
        self.delete_blobs(old)
    }

    /// Returns every stored query, sorted by name.
    pub fn queries(&self) -> Result<Vec<QuerySpec>, CheckpointError> {
        let keys = self.inner.heads.scan(HeadKey::QUERIES)?;
        let specs = keys.into_iter().filter(|(key, _)| matches!(key, HeadKey::Spec(_)));
        let mut specs = specs.map(|(key, value)| self.read_spec(&key, &value)).collect::<Result<Vec<_>, _>>()?;
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(specs)
    }

    /// Returns one stored query; `None` if it does not exist.
    pub fn query(&self, id: QueryId) -> Result<Option<QuerySpec>, CheckpointError> {
        let key = HeadKey::Spec(id);
        let value = self.inner.heads.get(&key)?;
        value.map(|value| self.read_spec(&key, &value)).transpose()
    }

    /// Returns the stored query of this name; `None` if there is none.
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

    /// Removes a query with all its checkpoints; does nothing if it does not exist.
    pub fn delete_query(&self, epoch: Epoch, id: QueryId) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        let slot = self.slot(id);
        let _alone = slot.files.write();
        let ops = self.delete_ops(id)?;
        self.guarded(self.inner.marks.remove(id))?;
        if ops.is_empty() {
            return Ok(());
        }
        self.transact(epoch, id, &ops)?;
        self.forget(id);
        self.delete_blobs(id)
    }

    fn delete_ops(&self, id: QueryId) -> Result<Vec<HeadOp>, CheckpointError> {
        let mut ops = Vec::new();
        for (key, value) in self.inner.heads.scan(&HeadKey::of_query(id))? {
            if matches!(key, HeadKey::Spec(_)) {
                ops.push(HeadOp::Delete(HeadKey::Name(decode::<SpecEntry>(&key, &value)?.name)));
            }
            ops.push(HeadOp::Delete(key));
        }
        Ok(ops)
    }

    fn delete_blobs(&self, id: QueryId) -> Result<(), CheckpointError> {
        for blob in self.inner.blobs.list(&BlobName::of_query(id))? {
            self.inner.blobs.delete(&blob)?;
        }
        Ok(())
    }
}
