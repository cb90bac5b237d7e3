//! Handles new versions of the files that rows look up.

use super::Action;
use super::file_state::Files;
use super::machine::{Phase, QueryMachine};
use crate::files::FileVersions;

impl QueryMachine {
    /// From now on, batches are planned with these versions.
    pub(super) fn on_files(&mut self, versions: FileVersions, out: &mut Vec<Action>) {
        // A batch under way may look up older versions; they are released when it is prepared.
        if matches!(self.phase, Phase::Ready { finish: None } | Phase::Reserving { .. }) {
            out.push(Action::ReleaseFiles { before: versions.clone() });
        }
        self.files = Files::Known(versions);
    }
}
