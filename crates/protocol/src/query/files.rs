//! The files that rows look up have been read.

use super::Action;
use super::file_state::Files;
use super::machine::{Phase, QueryMachine};
use crate::files::FileVersions;

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
