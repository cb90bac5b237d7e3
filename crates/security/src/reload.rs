//! A value built from files, and rebuilt when their contents change.
//!
//! Owns: noticing changes, and keeping the previous value if the new contents are invalid. Does not own: building.

use crate::error::SecurityError;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the files are read. Contents are compared, since times and links are not reliable.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The files as read, in the order given.
pub type Contents = Vec<Vec<u8>>;
type Build<T> = dyn Fn(&Contents) -> Result<T, SecurityError> + Send + Sync;

/// The newest value that could be built. Cheap to clone; all clones share it.
pub struct Reloading<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    files: Vec<PathBuf>,
    build: Box<Build<T>>,
    current: ArcSwap<T>,
    /// What was tried last, so that an invalid file is reported once.
    tried: Mutex<Tried>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Tried {
    Contents([u8; 32]),
    Unreadable(String),
}

impl<T> Clone for Reloading<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T> std::fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading").field("files", &self.inner.files).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Reads the files for the first time. Fails if they are invalid.
    pub fn load(
        files: Vec<PathBuf>,
        build: impl Fn(&Contents) -> Result<T, SecurityError> + Send + Sync + 'static,
    ) -> Result<Self, SecurityError> {
        let contents = read(&files)?;
        let current = ArcSwap::from_pointee(build(&contents)?);
        let tried = Mutex::new(Tried::Contents(digest(&contents)));
        Ok(Self { inner: Arc::new(Inner { files, build: Box::new(build), current, tried }) })
    }

    pub fn current(&self) -> Arc<T> {
        self.inner.current.load_full()
    }

    /// Reads the files, and replaces the value if they have changed and are valid.
    pub fn refresh(&self) {
        let read = read(&self.inner.files);
        let now = match &read {
            Ok(contents) => Tried::Contents(digest(contents)),
            Err(error) => Tried::Unreadable(error.to_string()),
        };
        {
            let mut tried = self.inner.tried.lock();
            if *tried == now {
                return;
            }
            *tried = now;
        }
        match read.and_then(|contents| (self.inner.build)(&contents)) {
            Ok(value) => {
                self.inner.current.store(Arc::new(value));
                tracing::info!(files = ?self.inner.files, "files have changed and were read again");
            }
            Err(error) => {
                tracing::error!(files = ?self.inner.files, "files have changed, but are invalid; the previous \
                 contents stay in use: {error}");
            }
        }
    }

    /// Refreshes every second, until `stop` is cancelled.
    pub fn watch(&self, stop: CancellationToken) {
        let watched = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = stop.cancelled() => return,
                }
                let look = watched.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || look.refresh()).await {
                    tracing::error!(files = ?watched.inner.files, "the files could not be checked: {error}");
                }
            }
        });
    }
}

fn read(files: &[PathBuf]) -> Result<Contents, SecurityError> {
    let read = |path: &Path| std::fs::read(path).map_err(|source| SecurityError::Read { path: path.into(), source });
    files.iter().map(|path| read(path)).collect()
}

fn digest(contents: &Contents) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for content in contents {
        hasher.update((content.len() as u64).to_le_bytes());
        hasher.update(content);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(path: &Path) -> Result<Reloading<u32>, SecurityError> {
        let file = path.to_path_buf();
        Reloading::load(vec![path.into()], move |contents| {
            let text = String::from_utf8_lossy(&contents[0]);
            text.parse().map_err(|_| SecurityError::Content { path: file.clone(), problem: "is not a number".into() })
        })
    }

    #[test]
    fn valid_new_contents_are_used_and_invalid_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        assert!(number(&path).unwrap_err().to_string().starts_with("cannot read "));
        std::fs::write(&path, "x").unwrap();
        assert!(number(&path).unwrap_err().to_string().ends_with("is not a number"));
        std::fs::write(&path, "1").unwrap();
        let value = number(&path).unwrap();
        for (content, expected) in [(Some("2"), 2), (Some("x"), 2), (None, 2), (Some("3"), 3)] {
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            value.refresh();
            assert_eq!(*value.current(), expected, "after {content:?}");
        }
    }
}
