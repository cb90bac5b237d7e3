//! Content of the files that rows look up, by digest, so that a repeated batch looks up the same content.
//!
//! Owns: storing it, and when it is deleted. Does not own: reading the files it comes from (crate `driver`).
//! Invariants: content is durable before a batch is planned with it. It is kept as long as one of the newest two
//! prepared batches, the batch under way or the next one to be planned needs it.

use crate::error::CheckpointError;
use crate::format::{self, Container, Kind};
use crate::head::HeadOp;
use crate::keys::{BlobName, HeadKey};
use crate::store::{CheckpointStore, Digests, QuerySlot, lock};
use crate::values::{self, decode};
use highwater_protocol::files::{ContentDigest, FileContent, FileVersions};
use highwater_protocol::ids::{BatchId, Epoch, QueryId};
use highwater_protocol::plan::BatchPlan;
use std::collections::BTreeSet;

impl CheckpointStore {
    /// Stores content durably and keeps it for batches planned with these versions, besides the content kept before.
    /// `new` holds the contents that are not stored yet.
    pub fn keep_files(
        &self,
        epoch: Epoch,
        query: QueryId,
        versions: &FileVersions,
        new: &[Vec<u8>],
    ) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        // Held before it is written, since a compaction may be about to delete the same content.
        self.hold(query, digests(versions));
        for bytes in new {
            let name = BlobName::File(query, FileContent::of(bytes).digest).to_string();
            self.guarded(self.inner.blobs.put(&name, &format::encode([(Kind::File, bytes.as_slice())])?))?;
        }
        Ok(())
    }

    /// Adds `content` to what is held. A repeated attempt, after a full disk, holds the same content once.
    fn hold(&self, query: QueryId, content: Digests) {
        let slot = self.slot(query);
        let mut held = lock(&slot.held);
        if held.back() != Some(&content) {
            held.push_back(content);
        }
    }

    /// Deletes content that was kept for versions older than these, except what the newest two prepared batches need.
    /// The caller knows that no batch under way or to come needs it.
    pub fn release_files(&self, epoch: Epoch, query: QueryId, before: &FileVersions) -> Result<(), CheckpointError> {
        self.check_epoch(epoch)?;
        let slot = self.slot(query);
        release_before(&slot, before);
        let _deleting = slot.files.write();
        self.delete_unneeded_files(query, &slot)
    }

    /// Returns the bytes of one file.
    pub fn read_file(&self, query: QueryId, content: FileContent) -> Result<Vec<u8>, CheckpointError> {
        let slot = self.slot(query);
        let _reading = slot.files.read();
        self.read_content(query, content.digest)
    }

    fn read_content(&self, query: QueryId, digest: ContentDigest) -> Result<Vec<u8>, CheckpointError> {
        let name = BlobName::File(query, digest).to_string();
        let Some(stored) = self.inner.blobs.get(&name)? else {
            return Err(CheckpointError::damaged(name, "the file is missing"));
        };
        let bytes = Container::parse(&name, &stored)?.read_one(Kind::File)?;
        match FileContent::of(&bytes).digest == digest {
            true => Ok(bytes),
            false => Err(CheckpointError::damaged(name, "its content does not match the digest in its name")),
        }
    }

    /// Returns operations that record, in the transaction of a batch, which content it needs; and whether some content
    /// is no longer needed afterwards.
    pub(crate) fn files_ops(&self, query: QueryId, plan: &BatchPlan) -> Result<(Vec<HeadOp>, bool), CheckpointError> {
        if plan.files.is_empty() {
            return Ok((Vec::new(), false));
        }
        let needed = digests(&plan.files);
        let mut ops = vec![HeadOp::Put(HeadKey::Files(query, plan.batch), values::encode(&needed)?)];
        let mut others = false;
        if let Some(old) = plan.batch.0.checked_sub(2).map(|old| HeadKey::Files(query, BatchId(old)))
            && let Some(value) = self.inner.heads.get(&old)?
        {
            others = decode::<Digests>(&old, &value).ok() != Some(needed);
            ops.push(HeadOp::Delete(old));
        }
        Ok((ops, others))
    }

    /// Digests of the content that the newest two batches of a query need.
    pub(crate) fn needed_files(&self, query: QueryId) -> Result<Digests, CheckpointError> {
        let mut needed = Digests::new();
        for (key, value) in self.inner.heads.scan(&HeadKey::files_of(query))? {
            needed.extend(decode::<Digests>(&key, &value)?);
        }
        Ok(needed)
    }

    /// Deletes content that nothing needs. The caller holds a write lock on the query's `files`.
    pub(crate) fn delete_unneeded_files(&self, query: QueryId, slot: &QuerySlot) -> Result<(), CheckpointError> {
        let mut needed = self.needed_files(query)?;
        lock(&slot.held).iter().for_each(|held| needed.extend(held));
        let needed: BTreeSet<String> =
            needed.into_iter().map(|digest| BlobName::File(query, digest).to_string()).collect();
        for blob in self.inner.blobs.list(&BlobName::files_of(query))? {
            if !needed.contains(&blob) {
                self.inner.blobs.delete(&blob)?;
            }
        }
        Ok(())
    }

    /// Reads all content that is needed. Returns the size of each file in bytes, or its error.
    pub(crate) fn verify_files(&self, query: QueryId) -> Vec<Result<u64, CheckpointError>> {
        let size = |digest| self.read_content(query, digest).map(|bytes| bytes.len() as u64);
        match self.needed_files(query) {
            Ok(needed) => needed.into_iter().map(size).collect(),
            Err(error) => vec![Err(error)],
        }
    }
}

/// No later batch is planned with versions older than these.
pub(crate) fn release_before(slot: &QuerySlot, versions: &FileVersions) {
    let needed = digests(versions);
    let mut held = lock(&slot.held);
    if let Some(place) = held.iter().position(|held| *held == needed) {
        held.drain(..place);
    }
}

fn digests(versions: &FileVersions) -> Digests {
    versions.values().flatten().map(|content| content.digest).collect()
}
