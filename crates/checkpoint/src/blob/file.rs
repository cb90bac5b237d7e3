//! Blobs as files in a folder.
//!
//! `put` writes `NAME.tmp`, syncs it, renames it and syncs the folder: a crash leaves the old bytes, the new bytes or a
//! `.tmp` file that the next open removes.

use super::BlobStore;
use crate::error::CheckpointError;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const TEMPORARY: &str = "tmp";
/// Permissions for the owner only.
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

#[derive(Debug)]
pub struct FileBlobStore {
    root: PathBuf,
    /// Folders known to exist durably.
    folders: Mutex<BTreeSet<PathBuf>>,
}

impl FileBlobStore {
    /// Opens the folder, creating it if needed, and removes what unfinished puts have left.
    pub fn open(root: &Path) -> Result<Self, CheckpointError> {
        create_durably(root)?;
        make_private(root)?;
        let store = Self { root: root.to_path_buf(), folders: Mutex::default() };
        for path in files_under(root)? {
            if is_temporary(&path) {
                fs::remove_file(&path).map_err(CheckpointError::io("remove", &path))?;
            }
        }
        Ok(store)
    }

    /// Creates the folder durably; does nothing if this process has done so before.
    fn ensure_folder(&self, folder: &Path) -> Result<(), CheckpointError> {
        let mut known = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(folder) {
            create_durably(folder)?;
            known.insert(folder.to_path_buf());
        }
        Ok(())
    }
}

impl BlobStore for FileBlobStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        self.ensure_folder(folder)?;
        let temporary = temporary_of(&path);
        let mut file = private_file(&temporary).map_err(CheckpointError::io("create", &temporary))?;
        if let Err(error) = file.write_all(bytes) {
            // On a full disk a partial file takes space that others need. If this fails too, the next open removes it.
            let _ = fs::remove_file(&temporary);
            return Err(CheckpointError::io("write", &temporary)(error));
        }
        file.sync_all().map_err(CheckpointError::sync(&temporary))?;
        fs::rename(&temporary, &path).map_err(CheckpointError::io("rename to", &path))?;
        sync_folder(folder)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        let path = self.root.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => Ok(None),
            Err(error) => Err(CheckpointError::io("read", &path)(error)),
        }
    }

    fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(CheckpointError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, CheckpointError> {
        // Only the folder that the prefix names must be walked.
        let folder = prefix.rfind('/').map_or(self.root.clone(), |end| self.root.join(&prefix[..end]));
        let mut names: Vec<String> = files_under(&folder)?
            .iter()
            .filter(|path| !is_temporary(path))
            .filter_map(|path| path.strip_prefix(&self.root).ok()?.to_str().map(|name| name.replace('\\', "/")))
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        Ok(names)
    }
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(TEMPORARY);
    name.into()
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == TEMPORARY)
}

/// Lists every file below `folder`; none if it does not exist.
fn files_under(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CheckpointError::io("list", folder)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(CheckpointError::io("list", folder))?;
        let path = entry.path();
        if entry.file_type().map_err(CheckpointError::io("look at", &path))?.is_dir() {
            files.extend(files_under(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// Creates a folder and its missing parents, syncing each into its parent.
pub(crate) fn create_durably(folder: &Path) -> Result<(), CheckpointError> {
    if folder.is_dir() || folder.as_os_str().is_empty() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_durably(parent)?;
    }
    match fs::DirBuilder::new().mode(PRIVATE_FOLDER).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(CheckpointError::io("create", folder)(error));
        }
        _ => {}
    }
    sync_folder(parent.unwrap_or(Path::new(".")))
}

/// Creates or empties a file that only its owner can read, since stored data may contain secrets.
fn private_file(path: &Path) -> std::io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(path)
}

/// Removes access for others from one of the store's folders; an earlier version may have left it open.
pub(crate) fn make_private(folder: &Path) -> Result<(), CheckpointError> {
    let open = fs::metadata(folder).map_err(CheckpointError::io("look at", folder))?.permissions();
    if open.mode() & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(PRIVATE_FOLDER))
        .map_err(CheckpointError::io("close", folder))
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), CheckpointError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(CheckpointError::sync(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_files_are_readable_by_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("blobs");
        // As an earlier version left it.
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let store = FileBlobStore::open(&root).unwrap();
        store.put("a/b", b"x").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&root.join("a")), 0o700);
        assert_eq!(mode(&root.join("a/b")), 0o600);
    }
}
