//! Lets only one process use a data folder at a time.
//!
//! Owns: the file `LOCK`, held by an advisory lock that ends with the process, however it ends. The text of the file
//! identifies the holder, for the error message that other processes get.

use crate::error::CheckpointError;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    pub fn take(dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join("LOCK");
        let io = |action| CheckpointError::io(action, &path);
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(io("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // If it is unreadable or not written yet, the message does not name the holder.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "another process".into() } else { holder.trim().into() };
                return Err(CheckpointError::Locked { dir: dir.to_path_buf(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(io("lock")(error)),
        }
        file.set_len(0).map_err(io("write"))?;
        file.rewind().map_err(io("write"))?;
        write!(file, "process {}", std::process::id()).map_err(io("write"))?;
        Ok(Self { _file: file })
    }
}
