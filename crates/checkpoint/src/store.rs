//! The facade: the durable store of a driver's queries, checkpoints and state.
//!
//! Owns: opening, locking, epochs, and the cached tip of each query. The work is in the modules `specs`, `prepare`,
//! `read`, `compact`, `inspect`, `export`.
//! Invariants: a blob is durable before the head points to it, and the head no longer points to it before it is
//! deleted; so a crash can only leave unreferenced blobs, which are removed at open, unless the query's mark shows that
//! its head went back. After a failed sync nothing is written until a restart.

use crate::blob::{BlobStore, FileBlobStore, MemBlobStore, create_durably};
use crate::error::CheckpointError;
use crate::head::{HeadOp, HeadStore, MemHeadStore, SledHeadStore, Transacted};
use crate::keys::{BlobName, HeadKey};
use crate::lock::FolderLock;
use crate::marks::Marks;
use crate::values::{BatchEntry, Body, INLINE_MAX_BYTES, STORE_VERSION, SnapshotEntry, SpecEntry, decode, decode_text};
use highwater_protocol::files::ContentDigest;
use highwater_protocol::ids::{BatchId, Epoch, QueryId};
use highwater_protocol::offsets::Positions;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

/// Digests of the files that one batch needs.
pub(crate) type Digests = BTreeSet<ContentDigest>;

/// Cheap to clone. Its calls block: call it on threads that may wait for the disk.
#[derive(Clone)]
pub struct CheckpointStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub blobs: Arc<dyn BlobStore>,
    pub heads: Arc<dyn HeadStore>,
    pub marks: Marks,
    /// Why writes are refused; unset while they are allowed.
    poison: OnceLock<String>,
    queries: Mutex<BTreeMap<QueryId, Arc<QuerySlot>>>,
    /// Last field, so that it is released last.
    _lock: Option<FolderLock>,
}

/// What this process remembers about one query.
#[derive(Default)]
pub(crate) struct QuerySlot {
    /// The newest prepared batch; `None` if not looked up yet. Locked while a batch is prepared.
    pub tip: Mutex<Option<Tip>>,
    /// Read-locked while files of the query are read, write-locked while files are deleted.
    pub files: RwLock<()>,
    /// Locked by a running compaction, so that there is only one.
    pub compacting: Mutex<()>,
    /// Content that the batches under way or planned next look up; oldest version first.
    pub held: Mutex<VecDeque<Digests>>,
}

/// The newest prepared batch, if any, and its positions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tip {
    pub batch: Option<BatchId>,
    pub positions: Positions,
}

impl CheckpointStore {
    /// Opens the folder, creating it if needed, and removes blobs that a crash has left. If another process has it
    /// open, fails with an error that names that process.
    pub fn open(data_dir: &Path) -> Result<Self, CheckpointError> {
        create_durably(data_dir)?;
        let lock = FolderLock::take(data_dir)?;
        let heads = SledHeadStore::open(&data_dir.join("head"))?;
        let blobs = FileBlobStore::open(&data_dir.join("blobs"))?;
        let marks = Marks::open(&data_dir.join("marks"))?;
        let (marked, found) = (marks.epoch(), heads.epoch()?);
        if heads.is_empty()? && (marked > found || !blobs.list(BlobName::ALL)?.is_empty()) {
            return Err(CheckpointError::HeadMissing { dir: data_dir.to_path_buf() });
        }
        if marked > found {
            let (dir, mark) = (data_dir.to_path_buf(), data_dir.join("marks/epoch"));
            return Err(CheckpointError::EpochWentBack { dir, marked, found, mark });
        }
        Self::over(Arc::new(blobs), Arc::new(heads), marks, Some(lock))
    }

    /// A store in memory, which ends with the process.
    pub fn in_memory() -> Self {
        Self {
            inner: Arc::new(Inner {
                blobs: Arc::new(MemBlobStore::default()),
                heads: Arc::new(MemHeadStore::default()),
                marks: Marks::default(),
                poison: OnceLock::new(),
                queries: Mutex::default(),
                _lock: None,
            }),
        }
    }

    /// A store over the given parts, as after a restart.
    pub fn with_parts(blobs: Arc<dyn BlobStore>, heads: Arc<dyn HeadStore>) -> Result<Self, CheckpointError> {
        Self::over(blobs, heads, Marks::default(), None)
    }

    fn over(
        blobs: Arc<dyn BlobStore>,
        heads: Arc<dyn HeadStore>,
        marks: Marks,
        lock: Option<FolderLock>,
    ) -> Result<Self, CheckpointError> {
        let (poison, queries) = (OnceLock::new(), Mutex::default());
        let store = Self { inner: Arc::new(Inner { blobs, heads, marks, poison, queries, _lock: lock }) };
        store.check_version()?;
        store.remove_leftovers()?;
        Ok(store)
    }

    /// Claims the next epoch, durably. From then on every write of an earlier epoch is refused.
    pub fn claim_epoch(&self) -> Result<Epoch, CheckpointError> {
        self.check_sound()?;
        let epoch = self.guarded(self.inner.heads.claim_epoch())?;
        self.guarded(self.inner.marks.set_epoch(epoch))?;
        let version = STORE_VERSION.to_string().into_bytes();
        let ops = [HeadOp::Expect(HeadKey::Format, None), HeadOp::Put(HeadKey::Format, version)];
        // Refused if the store has a version already, which `open` has checked.
        let _ = self.guarded(self.inner.heads.transact(epoch, &ops))?;
        Ok(epoch)
    }

    /// Refuses a write if an earlier one failed so that it is unknown what is durable.
    pub(crate) fn check_sound(&self) -> Result<(), CheckpointError> {
        match self.inner.poison.get() {
            Some(cause) => Err(CheckpointError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Remembers a failure after which writes must be refused.
    pub(crate) fn guarded<T>(&self, written: Result<T, CheckpointError>) -> Result<T, CheckpointError> {
        written.inspect_err(|error| {
            if error.poisons() && self.inner.poison.set(error.to_string()).is_ok() {
                tracing::error!(%error, "the checkpoint store refuses writes from now on");
            }
        })
    }

    /// Refuses a query whose newest batch is older than the one in its mark.
    pub(crate) fn check_mark(&self, query: QueryId, found: Option<BatchId>) -> Result<(), CheckpointError> {
        match self.inner.marks.batch(query) {
            Some(marked) if found < Some(marked) => {
                Err(CheckpointError::WentBack { query, marked, found, mark: self.inner.marks.path(query) })
            }
            _ => Ok(()),
        }
    }

    /// Queries whose heads are behind their marks, or missing. Their blobs may be all that is left of them.
    fn behind(&self) -> Result<BTreeSet<QueryId>, CheckpointError> {
        let mut behind = BTreeSet::new();
        for query in self.inner.marks.queries() {
            let lost = self.inner.heads.get(&HeadKey::Spec(query))?.is_none();
            if lost {
                let mark = self.inner.marks.path(query);
                tracing::error!(%query, "a query is missing from the head store, which went back: restore the whole \
                    data folder from one copy, or remove {} to continue without it", mark.display());
            }
            if lost || self.check_mark(query, self.latest_batch(query)?).is_err() {
                behind.insert(query);
            }
        }
        Ok(behind)
    }

    fn check_version(&self) -> Result<(), CheckpointError> {
        let Some(bytes) = self.inner.heads.get(&HeadKey::Format)? else { return Ok(()) };
        let found: u32 = decode_text(&HeadKey::Format, &bytes)?;
        if found == STORE_VERSION {
            return Ok(());
        }
        Err(CheckpointError::UnknownVersion { file: "the head store".into(), found, supported: STORE_VERSION })
    }

    /// Deletes blobs that no head points to: a crash came before the head was written, or after it was removed.
    fn remove_leftovers(&self) -> Result<(), CheckpointError> {
        let behind = self.behind()?;
        let blobs = self.inner.blobs.list(BlobName::ALL)?;
        if blobs.is_empty() {
            return Ok(());
        }
        let mut used = BTreeSet::new();
        for (key, value) in self.inner.heads.scan(HeadKey::QUERIES)? {
            let mut keep = |body: &Body| used.extend(body.blob().map(str::to_string));
            match key {
                HeadKey::Spec(_) => keep(&decode::<SpecEntry>(&key, &value)?.body),
                HeadKey::Batch(..) => keep(&decode::<BatchEntry>(&key, &value)?.body),
                HeadKey::Files(query, _) => {
                    let names = decode::<Digests>(&key, &value)?.into_iter();
                    used.extend(names.map(|digest| BlobName::File(query, digest).to_string()));
                }
                HeadKey::Snapshot(..) => {
                    decode::<SnapshotEntry>(&key, &value)?.parts.iter().for_each(|part| keep(&part.body));
                }
                _ => {}
            }
        }
        let kept = |blob: &str| BlobName::query_of(blob).is_some_and(|query| behind.contains(&query));
        for blob in blobs.iter().filter(|blob| !used.contains(*blob) && !kept(blob)) {
            tracing::info!(%blob, "removing a checkpoint file that a crash has left");
            self.inner.blobs.delete(blob)?;
        }
        Ok(())
    }

    pub(crate) fn slot(&self, query: QueryId) -> Arc<QuerySlot> {
        lock(&self.inner.queries).entry(query).or_default().clone()
    }

    pub(crate) fn forget(&self, query: QueryId) {
        lock(&self.inner.queries).remove(&query);
    }

    /// Puts small contents into the head value itself and large ones into a blob.
    pub(crate) fn write_body(&self, name: BlobName, bytes: Vec<u8>) -> Result<Body, CheckpointError> {
        if bytes.len() <= INLINE_MAX_BYTES {
            return Ok(Body::Inline(bytes));
        }
        let name = name.to_string();
        self.guarded(self.inner.blobs.put(&name, &bytes))?;
        Ok(Body::Blob { name, size_bytes: bytes.len() as u64 })
    }

    /// Returns the bytes of a body, and its name for messages.
    pub(crate) fn read_body(&self, key: &HeadKey, body: &Body) -> Result<(String, Vec<u8>), CheckpointError> {
        match body {
            Body::Inline(bytes) => Ok((format!("head store key {key}"), bytes.clone())),
            Body::Blob { name, .. } => match self.inner.blobs.get(name)? {
                Some(bytes) => Ok((name.clone(), bytes)),
                None => Err(CheckpointError::damaged(name, "the file is missing")),
            },
        }
    }

    pub(crate) fn transact(&self, epoch: Epoch, query: QueryId, ops: &[HeadOp]) -> Result<(), CheckpointError> {
        self.check_sound()?;
        match self.guarded(self.inner.heads.transact(epoch, ops))? {
            Transacted::Done => Ok(()),
            Transacted::Refused if self.inner.heads.get(&HeadKey::Spec(query))?.is_none() => {
                Err(CheckpointError::NoQuery { query })
            }
            Transacted::Refused => Err(CheckpointError::Conflict { query }),
        }
    }

    /// Refuses a stale epoch before any work is done; the transaction checks again.
    pub fn check_epoch(&self, yours: Epoch) -> Result<(), CheckpointError> {
        self.check_sound()?;
        let current = self.inner.heads.epoch()?;
        if yours == current { Ok(()) } else { Err(CheckpointError::Fenced { yours, current }) }
    }

    pub(crate) fn batch_number(&self, key: &HeadKey) -> Result<Option<BatchId>, CheckpointError> {
        let value = self.inner.heads.get(key)?;
        value.map(|bytes| decode_text(key, &bytes).map(BatchId)).transpose()
    }

    /// Returns the newest prepared batch; `None` before the first.
    pub fn latest_batch(&self, query: QueryId) -> Result<Option<BatchId>, CheckpointError> {
        self.batch_number(&HeadKey::Latest(query))
    }

    /// Returns the newest batch recorded as committed; `None` if none is. A power cut may have lost newer records.
    pub fn committed_batch(&self, query: QueryId) -> Result<Option<BatchId>, CheckpointError> {
        self.batch_number(&HeadKey::Committed(query))
    }
}

/// Locks, ignoring poisoning: a panic elsewhere leaves the guarded values consistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
