//! The tables that a run's rows look up: read by the driver, so that all executors look up the same version.
//!
//! Owns: when tables are read, and which version is the newest. Does not own: reading them (connectors), keeping their
//! content (crate `checkpoint`), which version a batch looks up (its plan).
//! Invariant: the run receives a version only after it was read as its table declares and its content is durable.

use crate::error::DriverError;
use crate::run::{Run, RunHandle};
use crate::run_event::RunnerEvent;
use highwater_checkpoint::CheckpointStore;
use highwater_connector_api::access::AccessPolicy;
use highwater_connector_api::lookup::SnapshotVersion;
use highwater_connectors::registry;
use highwater_planner::CompiledQuery;
use highwater_protocol::files::{FileContent, FileVersions};
use highwater_protocol::ids::{Epoch, QueryId};
use highwater_protocol::query::Event;
use highwater_sql::tables::SnapshotTable;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before reading is retried after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Reads the tables that a script looks up once, so that a submit fails if they cannot be read.
pub(crate) async fn check(compiled: &CompiledQuery) -> Result<(), DriverError> {
    for table in compiled.snapshot_tables() {
        registry::newest_snapshot(&table, None).await?;
    }
    Ok(())
}

/// Keeps one run informed of the newest versions.
pub(crate) struct SnapshotKeeper {
    tables: Vec<Watched>,
    store: CheckpointStore,
    access: Arc<AccessPolicy>,
    epoch: Epoch,
    query: QueryId,
    /// The versions that the run received last; until then, those that its newest batch looked up.
    versions: FileVersions,
    sent: bool,
}

struct Watched {
    table: SnapshotTable,
    /// When it is read next; `None`: not again in this run.
    due: Option<Instant>,
    /// Why the version in use is not the newest; `None` if it is.
    warning: Option<String>,
}

impl SnapshotKeeper {
    /// Creates the keeper of a run whose newest batch looked up the versions `used`.
    pub fn new(run: &Run, access: Arc<AccessPolicy>, used: FileVersions) -> Self {
        let watched = |table| Watched { table, due: Some(Instant::now()), warning: None };
        let tables: Vec<Watched> = run.compiled.snapshot_tables().into_iter().map(watched).collect();
        // Only pinned tables keep their version; the others are read again.
        let pinned = |name: &String| tables.iter().any(|one| one.table.pinned && one.table.name == *name);
        let versions = used.into_iter().filter(|(name, _)| pinned(name)).collect();
        let (store, epoch, query) = (run.store.clone(), run.cluster.epoch(), run.spec.id);
        Self { tables, store, access, epoch, query, versions, sent: false }
    }

    /// Reads in the background until the run ends. Does nothing if its rows look up no tables.
    pub fn spawn(self, run: RunHandle) {
        if !self.tables.is_empty() {
            tokio::spawn(self.keep(run));
        }
    }

    async fn keep(mut self, run: RunHandle) {
        loop {
            let mut warnings = Vec::new();
            match self.read_due().await {
                Ok(Some(versions)) => run.events.push(RunnerEvent::Machine(Event::Files(versions))),
                Ok(None) => {}
                Err(message) => {
                    // Tables that were read are read again, too: a version that the run has not received is not kept.
                    self.tables.iter_mut().for_each(|one| one.due = Some(Instant::now() + RETRY));
                    warnings.push(format!("{message}. This is retried every second"));
                    run.events.push(RunnerEvent::Machine(Event::FilesUnreadable { message }));
                }
            }
            warnings.extend(self.tables.iter().filter_map(|one| one.warning.clone()));
            run.events.push(RunnerEvent::SnapshotWarnings(warnings));
            let Some(next) = self.tables.iter().filter_map(|one| one.due).min() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = run.events.closed() => return,
            }
        }
    }

    /// Reads the tables that are due. Returns the versions if there is a new one. The error says why none is known yet.
    async fn read_due(&mut self) -> Result<Option<FileVersions>, String> {
        let (mut versions, mut contents) = (self.versions.clone(), Vec::new());
        let now = Instant::now();
        for watched in self.tables.iter_mut().filter(|one| one.due.is_some_and(|due| due <= now)) {
            let name = watched.table.name.clone();
            let read = read(watched.table.clone(), self.access.clone(), versions.get(&name).cloned()).await;
            if let Some(newest) = watched.settle(read, versions.contains_key(&name), now)? {
                versions.insert(name, newest.contents);
                contents.extend(newest.bytes);
            }
        }
        if self.sent && versions == self.versions {
            return Ok(None);
        }
        let (store, epoch, query, kept) = (self.store.clone(), self.epoch, self.query, versions.clone());
        let stored = tokio::task::spawn_blocking(move || store.keep_files(epoch, query, &kept, &contents)).await;
        if let Err(error) = stored.map_err(DriverError::from).and_then(|stored| stored.map_err(DriverError::from)) {
            return Err(format!("the content of looked-up tables cannot be stored: {error}"));
        }
        (self.versions, self.sent) = (versions.clone(), true);
        Ok(Some(versions))
    }
}

impl Watched {
    /// Handles the result of a read: returns the version to use from now on if it changed. The error says why there is
    /// none.
    fn settle(
        &mut self,
        read: Result<Option<SnapshotVersion>, DriverError>,
        known: bool,
        now: Instant,
    ) -> Result<Option<SnapshotVersion>, String> {
        let refresh = self.table.refresh_ms().map(|refresh| now + Duration::from_millis(refresh));
        match read {
            _ if known && self.table.pinned => {
                self.due = None;
                self.warning = matches!(read, Ok(Some(_))).then(|| {
                    format!(
                        "table '{}': {} is not what it was when the query began. Rows keep looking up the old \
                         content, since rows may be retracted; submit the query with --replace to use the new content",
                        self.table.name,
                        self.table.connector.describe()
                    )
                });
                Ok(None)
            }
            Ok(changed) => {
                (self.due, self.warning) = (refresh, None);
                Ok(changed)
            }
            Err(error) => {
                self.due = Some(Instant::now() + RETRY);
                self.warning = known.then(|| format!("{error}. Until then rows look up the version read before"));
                if known { Ok(None) } else { Err(error.to_string()) }
            }
        }
    }
}

/// Reads a table. Returns `None` if its newest version is the `known` one.
async fn read(
    table: SnapshotTable,
    access: Arc<AccessPolicy>,
    known: Option<Vec<FileContent>>,
) -> Result<Option<SnapshotVersion>, DriverError> {
    // A link may point elsewhere now.
    let checked = table.clone();
    tokio::task::spawn_blocking(move || access.check_snapshot(&checked)).await??;
    Ok(registry::newest_snapshot(&table, known.as_deref()).await?)
}
