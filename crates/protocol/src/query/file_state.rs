//! What the machine knows about the files that rows look up.

use crate::files::FileVersions;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// Not read yet in this run; with the reason if reading failed.
    Awaited(Option<String>),
    /// The newest versions read: the next batch is planned with them. Empty if rows look up no files.
    Known(FileVersions),
}

impl Files {
    pub fn new(awaited: bool) -> Self {
        if awaited { Self::Awaited(None) } else { Self::Known(FileVersions::new()) }
    }

    pub fn known(&self) -> Option<&FileVersions> {
        match self {
            Self::Awaited(_) => None,
            Self::Known(versions) => Some(versions),
        }
    }

    /// Notes why files cannot be read. A version that is known already stays in use.
    pub fn unreadable(&mut self, reason: String) {
        if let Self::Awaited(why) = self {
            *why = Some(reason);
        }
    }
}
