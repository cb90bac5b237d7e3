//! What the machine knows of the files that rows look up.

use crate::files::FileVersions;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// Not read yet in this run; or why not.
    Awaited(Option<String>),
    /// As read last: what the next batch is planned with. Empty: rows look up none.
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

    /// A version that is known stays in use.
    pub fn unreadable(&mut self, reason: String) {
        if let Self::Awaited(why) = self {
            *why = Some(reason);
        }
    }
}
