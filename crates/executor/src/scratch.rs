//! The executor's private scratch folder, for files that are removed with the process.
//!
//! Owns: one folder per process below `--data-dir` (or the system's temporary folder), its permissions, and removing
//! folders that dead processes have left. Does not own: what is written there; none of it is needed after a restart.
//! Invariant: a folder whose process is alive is never removed: the process holds a lock on the file `LOCK` in it.

use crate::ExecutorError;
use highwater_protocol::ids::ExecutorId;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "highwater-executor-";
const LOCK: &str = "LOCK";

/// The folder. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Creates the folder of `executor` below `parent`, readable by its owner only. Creates `parent` if it is missing,
    /// and removes the folders of executors that have died.
    pub fn create(parent: &Path, executor: ExecutorId) -> Result<Self, ExecutorError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| ExecutorError::Scratch { path, source }
        };
        std::fs::create_dir_all(parent).map_err(failed(parent))?;
        remove_leftovers(parent);
        let path = parent.join(format!("{PREFIX}{executor}"));
        DirBuilder::new().mode(0o700).create(&path).map_err(failed(&path))?;
        let lock = File::create(path.join(LOCK)).map_err(failed(&path))?;
        lock.lock().map_err(failed(&path))?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the scratch folder could not be removed");
        }
    }
}

/// Removes folders whose process is gone. Skips folders that cannot be inspected; they may belong to another user.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
        // A folder without the file has only just been created.
        let Some(lock) = ours.then(|| File::open(path.join(LOCK)).ok()).flatten() else { continue };
        if lock.try_lock().is_ok() {
            match std::fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!(path = %path.display(), "removed the scratch folder of an executor that died"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "a scratch folder could not be removed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use uuid::Uuid;

    fn create(parent: &Path) -> Scratch {
        Scratch::create(parent, ExecutorId(Uuid::now_v7())).unwrap()
    }

    #[test]
    fn it_is_private_and_removed_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = create(&parent.path().join("new"));
        let path = scratch.path().to_path_buf();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn only_folders_of_dead_processes_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let alive = create(parent.path());
        let dead = parent.path().join(format!("{PREFIX}{}", Uuid::now_v7()));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        let stranger = parent.path().join("something-else");
        std::fs::create_dir(&stranger).unwrap();
        let _third = create(parent.path());
        assert_eq!((alive.path().exists(), dead.exists(), stranger.exists()), (true, false, true));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Scratch::create(&file, ExecutorId(Uuid::now_v7())).unwrap_err().to_string();
        assert!(error.contains("file") && error.contains("--data-dir"), "{error}");
    }
}
