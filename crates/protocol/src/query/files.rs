//! What the machine knows of the files that rows look up.

use super::Action;
use super::machine::{Phase, QueryMachine};
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

impl QueryMachine {
    /// The next batch looks up these versions.
    pub(super) fn on_files(&mut self, versions: FileVersions, out: &mut Vec<Action>) {
        // A batch under way may look up older ones; what it needs is released when it is prepared.
        if matches!(self.phase, Phase::Ready { finish: None } | Phase::Reserving { .. }) {
            out.push(Action::ReleaseFiles { before: versions.clone() });
        }
        self.files = Files::Known(versions);
    }
}
