//! Blobs: byte files that are written once, as a whole.
//!
//! Owns: the trait and its contract. Does not own: what is in a blob (`format`) or its name (`keys`).
//! Invariants: when `put` returns, the blob survives a power cut; at any moment a name holds nothing, the old bytes or
//! the new bytes, never a part of them.

mod file;
mod mem;

pub use file::FileBlobStore;
pub(crate) use file::{create_durably, make_private, sync_folder};
pub use mem::MemBlobStore;

use crate::error::CheckpointError;

/// Stores blobs by name. Names are relative paths with `/`.
pub trait BlobStore: Send + Sync {
    /// Writes a blob durably, replacing one of the same name.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError>;
    /// Reads a blob; `None` if there is none.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError>;
    /// Removes a blob; does nothing if there is none.
    fn delete(&self, name: &str) -> Result<(), CheckpointError>;
    /// Lists the names that begin with `prefix`, sorted.
    fn list(&self, prefix: &str) -> Result<Vec<String>, CheckpointError>;
}

#[cfg(test)]
mod contract {
    use super::*;

    /// What every implementation must do.
    fn check(store: &dyn BlobStore) {
        assert_eq!(store.get("q/a").unwrap(), None);
        store.put("q/a", b"one").unwrap();
        store.put("q/b", b"").unwrap();
        store.put("q/deep/c", &[7; 300_000]).unwrap();
        store.put("other/a", b"x").unwrap();
        assert_eq!(store.get("q/a").unwrap().unwrap(), b"one");
        assert_eq!(store.get("q/b").unwrap().unwrap(), b"");
        assert_eq!(store.get("q/deep/c").unwrap().unwrap(), [7; 300_000]);
        assert_eq!(store.get("q").unwrap(), None, "a folder is not a blob");
        store.put("q/a", b"two").unwrap();
        assert_eq!(store.get("q/a").unwrap().unwrap(), b"two");
        assert_eq!(store.list("q/").unwrap(), ["q/a", "q/b", "q/deep/c"]);
        assert_eq!(store.list("q/d").unwrap(), ["q/deep/c"]);
        assert_eq!(store.list("").unwrap().len(), 4);
        store.delete("q/a").unwrap();
        store.delete("q/a").unwrap();
        assert_eq!(store.get("q/a").unwrap(), None);
        assert_eq!(store.list("q/").unwrap(), ["q/b", "q/deep/c"]);
        assert_eq!(store.list("nothing/").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn memory() {
        check(&MemBlobStore::default());
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        check(&FileBlobStore::open(dir.path()).unwrap());
        let again = FileBlobStore::open(dir.path()).unwrap();
        assert_eq!(again.get("q/b").unwrap().unwrap(), b"", "blobs survive reopening");
    }

    #[test]
    fn unfinished_files_are_not_blobs_and_are_removed_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileBlobStore::open(dir.path()).unwrap();
        store.put("q/a", b"whole").unwrap();
        std::fs::write(dir.path().join("q/b.tmp"), b"half").unwrap();
        assert_eq!(store.list("q/").unwrap(), ["q/a"]);
        drop(store);
        FileBlobStore::open(dir.path()).unwrap();
        assert!(!dir.path().join("q/b.tmp").exists());
    }
}
