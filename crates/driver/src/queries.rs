//! All queries of this driver: the durable specs, the runs, and the operations that users call.
//!
//! Owns: which queries run. Does not own: what a run does (`runner`), how a query is submitted (`submit`).

#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::ends::fixed_ends;
use crate::error::DriverError;
use crate::monitor;
use crate::progress_history::ProgressLog;
use crate::run::{Found, Run, RunHandle};
use crate::run_event::RunnerEvent;
use crate::runner;
use crate::snapshots::SnapshotKeeper;
use highwater_checkpoint::CheckpointStore;
use highwater_connector_api::access::AccessPolicy;
use highwater_connectors::registry;
use highwater_crash as crash;
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{ExecutorId, QueryId, RunId};
use highwater_protocol::options::{DesiredState, QuerySpec, Trigger};
use highwater_protocol::query::{Event, RunState};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// Cheap to clone; all clones share one set of queries.
#[derive(Clone)]
pub(crate) struct Queries {
    store: CheckpointStore,
    cluster: Cluster,
    clock: Clock,
    /// Number of runs started by this driver.
    runs: Arc<AtomicU64>,
    access: Arc<AccessPolicy>,
    entries: Arc<Mutex<BTreeMap<QueryId, Entry>>>,
    /// Locked while the set of queries changes.
    pub(crate) changes: Arc<tokio::sync::Mutex<()>>,
}

/// One query, running or not.
#[derive(Clone)]
pub(crate) struct Entry {
    pub spec: QuerySpec,
    /// The compiled query, or why this version of the driver cannot compile the stored script.
    pub compiled: Result<Arc<CompiledQuery>, String>,
    pub progress: ProgressLog,
    /// The newest run, which may have ended; `None` if there was none since this driver started.
    pub run: Option<RunHandle>,
}

impl Queries {
    pub fn new(store: CheckpointStore, cluster: Cluster, access: AccessPolicy, clock: Clock) -> Self {
        Self {
            store,
            cluster,
            clock,
            runs: Arc::default(),
            access: Arc::new(access),
            entries: Arc::default(),
            changes: Arc::default(),
        }
    }

    /// Compiles a user's script, and checks what it refers to.
    pub async fn compile(&self, sql: String) -> Result<Arc<CompiledQuery>, DriverError> {
        let compiled = Arc::new(compile(sql).await?);
        self.check_access(&compiled).await?;
        Ok(compiled)
    }

    async fn check_access(&self, compiled: &Arc<CompiledQuery>) -> Result<(), DriverError> {
        let (access, compiled) = (self.access.clone(), compiled.clone());
        let check = move || {
            access.check(&compiled.sources, &compiled.sinks, "driver")?;
            compiled.snapshot_tables().iter().try_for_each(|table| access.check_snapshot(table))
        };
        Ok(tokio::task::spawn_blocking(check).await??)
    }

    /// Returns the spec of a query that is about to run, with its plan identity. Refuses the query if this build plans
    /// its script differently from the plan that wrote the stored state.
    async fn with_plan(&self, spec: QuerySpec, compiled: &CompiledQuery) -> Result<QuerySpec, DriverError> {
        let current_plan = compiled.plan_identity();
        let Some(stored_plan) = &spec.plan else {
            // Stored by a version that did not record the identity.
            let spec = QuerySpec { plan: Some(current_plan), ..self.stored(spec.id).await?.unwrap_or(spec) };
            self.put(spec.clone()).await?;
            if let Some(entry) = self.entries.lock().get_mut(&spec.id) {
                entry.spec = spec.clone();
            }
            return Ok(spec);
        };
        match stored_plan.refusal(&current_plan, &spec.name) {
            None => Ok(spec),
            Some(refusal) => Err(DriverError::Refused(refusal)),
        }
    }

    pub fn store(&self) -> CheckpointStore {
        self.store.clone()
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Loads every stored query and starts those that should run. A query that cannot start is marked failed; the
    /// others start.
    pub async fn recover(&self) -> Result<(), DriverError> {
        let store = self.store.clone();
        let specs = tokio::task::spawn_blocking(move || store.queries()).await??;
        for spec in specs {
            let (id, name, wanted) = (spec.id, spec.name.clone(), spec.desired);
            let compiled = compile(spec.sql.clone()).await.map(Arc::new).map_err(|error| error.to_string());
            if let Err(error) = &compiled {
                // Its desired state stays stored, so that a driver that can compile it resumes it.
                tracing::error!(query = %name, "a stored query no longer compiles: {error}");
            }
            let compiles = compiled.is_ok();
            self.insert(spec, compiled);
            if compiles
                && wanted == DesiredState::Running
                && let Err(error) = self.start_run(id).await
            {
                tracing::error!(query = %name, "the query could not be resumed: {error}");
                self.fail(id, error.to_string()).await?;
            }
        }
        Ok(())
    }

    pub fn insert(&self, spec: QuerySpec, compiled: Result<Arc<CompiledQuery>, String>) {
        let entry = Entry { spec, compiled, progress: ProgressLog::new(), run: None };
        self.entries.lock().insert(entry.spec.id, entry);
    }

    pub fn remove(&self, id: QueryId) {
        self.entries.lock().remove(&id);
    }

    /// Returns all queries, in order of name.
    pub fn all(&self) -> Vec<Entry> {
        let mut all: Vec<Entry> = self.entries.lock().values().cloned().collect();
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        all
    }

    pub fn find(&self, name: &str) -> Option<Entry> {
        self.entries.lock().values().find(|entry| entry.spec.name == name).cloned()
    }

    /// Returns the query of this name, or an error that suggests a similar name.
    pub fn get(&self, name: &str) -> Result<Entry, DriverError> {
        self.find(name).ok_or_else(|| {
            let names: Vec<String> = self.all().into_iter().map(|entry| entry.spec.name).collect();
            let hint = match highwater_protocol::names::nearest(name, names.iter().map(String::as_str)) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => "; `highwater ls` shows them all".to_string(),
            };
            DriverError::NotFound { name: name.to_string(), hint }
        })
    }

    /// Hands an executor's message to the run it is about; drops it if that run is over or not the query's newest.
    /// Returns false if too many messages wait for that run, so that the executor's session must end.
    #[must_use]
    pub fn offer(&self, query: QueryId, run: RunId, event: RunnerEvent) -> bool {
        let entries = self.entries.lock();
        let newest = entries.get(&query).and_then(|entry| entry.run.as_ref());
        let taken = newest.filter(|newest| newest.run_id == run).is_none_or(|newest| newest.events.offer(event));
        if !taken {
            tracing::error!(%query, "an executor sends more messages than its tasks can have; its session ends");
        }
        taken
    }

    /// Notes that an executor was told to end, so that no query is blamed for it.
    pub fn left(&self, executor: ExecutorId) {
        tracing::info!(%executor, "executor leaves");
        for run in self.entries.lock().values().filter_map(|entry| entry.run.as_ref()) {
            run.events.push(RunnerEvent::Machine(Event::Left { executor }));
        }
    }

    /// Starts a run from the checkpoint.
    pub async fn start_run(&self, id: QueryId) -> Result<(), DriverError> {
        let Some(entry) = self.entries.lock().get(&id).cloned() else { return Ok(()) };
        let compiled = entry.compiled()?.clone();
        // This driver may allow less than the one to which the query was submitted.
        self.check_access(&compiled).await?;
        let spec = self.with_plan(entry.spec.clone(), &compiled).await?;
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || {
            let head = store.latest(id)?.map(|head| head.record);
            Ok::<_, DriverError>(Found { head, reserved_writers: store.reserved_writers(id)? })
        })
        .await??;
        let run = Run {
            spec,
            run_id: RunId(Uuid::now_v7()),
            compiled: compiled.clone(),
            store: self.store.clone(),
            cluster: self.cluster.clone(),
            progress: entry.progress.clone(),
            clock: self.clock.clone(),
            number: self.runs.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let used = found.head.as_ref().map(|head| head.plan.files.clone()).unwrap_or_default();
        let keeper = SnapshotKeeper::new(&run, self.access.clone(), used);
        let handle = runner::start(run, found)?;
        monitor::spawn(compiled, handle.clone());
        keeper.spawn(handle.clone());
        if let Some(entry) = self.entries.lock().get_mut(&id) {
            entry.run = Some(handle);
        }
        Ok(())
    }

    /// Resumes a stopped, failed or finished query.
    pub async fn start(&self, name: &str) -> Result<(), DriverError> {
        let _one = self.changes.lock().await;
        let mut entry = self.get(name)?;
        if is_live(&entry) {
            return Err(DriverError::Refused(format!("query `{name}` is running already")));
        }
        if let Some(run) = &entry.run {
            // The run has ended, but may still be storing how.
            run.events.closed().await;
        }
        if entry.compiled.is_err() {
            // Something it lacked, such as an environment variable or a file, may exist now.
            entry.compiled =
                Ok(Arc::new(compile(entry.spec.sql.clone()).await.map_err(|error| uncompiled(&entry, &error))?));
            self.insert(entry.spec.clone(), entry.compiled.clone());
        }
        let compiled = entry.compiled()?.clone();
        let mut spec = self.stored(entry.spec.id).await?.unwrap_or(entry.spec);
        let is_bounded = matches!(compiled.options.trigger, Trigger::AvailableNow | Trigger::Once);
        if spec.desired == DesiredState::Finished && is_bounded {
            (spec.end_positions, spec.end_topic_ids) = fixed_ends(&compiled).await?;
        }
        spec.desired = DesiredState::Running;
        spec.message = None;
        self.put(spec.clone()).await?;
        if let Some(entry) = self.entries.lock().get_mut(&spec.id) {
            entry.spec = spec.clone();
        }
        let started = self.start_run(spec.id).await;
        if let Err(error) = &started {
            self.fail(spec.id, error.to_string()).await?;
        }
        started
    }

    /// Stops a query after its batch in flight, and waits for that.
    pub async fn stop(&self, name: &str) -> Result<(), DriverError> {
        let _one = self.changes.lock().await;
        self.stop_locked(name).await
    }

    /// Like `stop`, for callers that hold `changes`.
    pub async fn stop_locked(&self, name: &str) -> Result<(), DriverError> {
        let entry = self.get(name)?;
        let mut spec = self.stored(entry.spec.id).await?.unwrap_or(entry.spec.clone());
        if spec.desired == DesiredState::Running {
            spec.desired = DesiredState::Stopped;
            self.put(spec).await?;
        }
        halt(entry).await;
        Ok(())
    }

    /// Replaces a query by a new one of the same name, atomically in the store. Halts the old query's run before, and
    /// resumes it if the replacement fails. For callers that hold `changes`.
    pub async fn replace(&self, old: Entry, spec: QuerySpec, compiled: Arc<CompiledQuery>) -> Result<(), DriverError> {
        let (id, was_live) = (old.spec.id, is_live(&old));
        halt(old).await;
        crash::point("driver_before_replace");
        let (store, epoch, new) = (self.store.clone(), self.cluster.epoch(), spec.clone());
        let replaced = tokio::task::spawn_blocking(move || store.replace_query(epoch, id, &new)).await;
        if let Err(error) = replaced.map_err(DriverError::from).and_then(|stored| stored.map_err(DriverError::from)) {
            if was_live {
                self.start_run(id).await?;
            }
            return Err(error);
        }
        let mut entries = self.entries.lock();
        entries.remove(&id);
        entries.insert(spec.id, Entry { spec, compiled: Ok(compiled), progress: ProgressLog::new(), run: None });
        Ok(())
    }

    /// Removes a query and its checkpoint, and before that, if `delete_progress`, the topics of its sinks' progress.
    pub async fn drop_query(&self, name: &str, force: bool, delete_progress: bool) -> Result<(), DriverError> {
        let _one = self.changes.lock().await;
        let entry = self.get(name)?;
        if is_live(&entry) {
            if !force {
                let text = format!("query `{name}` is running; stop it first, or drop it with --force");
                return Err(DriverError::Refused(text));
            }
            self.stop_locked(name).await?;
        }
        if delete_progress {
            let (compiled, id) = (entry.compiled()?.clone(), entry.spec.id);
            let delete = move || compiled.sinks.iter().try_for_each(|table| registry::delete_progress(table, id));
            tokio::task::spawn_blocking(delete).await??;
        }
        self.delete(entry.spec.id).await
    }

    pub async fn delete(&self, id: QueryId) -> Result<(), DriverError> {
        let (store, epoch) = (self.store.clone(), self.cluster.epoch());
        tokio::task::spawn_blocking(move || store.delete_query(epoch, id)).await??;
        self.remove(id);
        Ok(())
    }

    pub async fn put(&self, spec: QuerySpec) -> Result<(), DriverError> {
        let (store, epoch) = (self.store.clone(), self.cluster.epoch());
        Ok(tokio::task::spawn_blocking(move || store.put_query(epoch, &spec)).await??)
    }

    /// Returns the spec as stored, which says how a run ended; `None` if the query is not stored.
    pub async fn stored(&self, id: QueryId) -> Result<Option<QuerySpec>, DriverError> {
        let store = self.store.clone();
        let specs = tokio::task::spawn_blocking(move || store.queries()).await??;
        Ok(specs.into_iter().find(|spec| spec.id == id))
    }

    async fn fail(&self, id: QueryId, message: String) -> Result<(), DriverError> {
        let Some(mut spec) = self.stored(id).await? else { return Ok(()) };
        spec.desired = DesiredState::Failed;
        spec.message = Some(message);
        if let Some(entry) = self.entries.lock().get_mut(&id) {
            entry.spec = spec.clone();
        }
        self.put(spec).await
    }
}

impl Entry {
    /// Returns the compiled query, or an error that says why it does not compile and what to do.
    pub fn compiled(&self) -> Result<&Arc<CompiledQuery>, DriverError> {
        self.compiled.as_ref().map_err(|error| uncompiled(self, error))
    }
}

fn uncompiled(entry: &Entry, error: &dyn std::fmt::Display) -> DriverError {
    let name = &entry.spec.name;
    DriverError::Refused(format!(
        "the stored script of query `{name}` no longer compiles: {error}; provide what it lacks and run `highwater \
         start {name}`, submit a new one with --replace, or drop it"
    ))
}

/// Ends a query's run after its batch in flight, and waits for that. Stores nothing.
async fn halt(entry: Entry) {
    let Some(mut run) = entry.run else { return };
    run.events.push(RunnerEvent::Machine(Event::Stop));
    // A run closes its inbox after it has published its last view.
    let _ = run.view.wait_for(|view| matches!(view.state, RunState::Ended(_))).await;
    run.events.closed().await;
}

/// True if the query's newest run has not ended.
pub(crate) fn is_live(entry: &Entry) -> bool {
    entry.run.as_ref().is_some_and(|run| !matches!(run.view.borrow().state, RunState::Ended(_)))
}

/// Compiles on a blocking thread, since large scripts take a while.
pub(crate) async fn compile(sql: String) -> Result<CompiledQuery, DriverError> {
    Ok(tokio::task::spawn_blocking(move || highwater_planner::compile(&sql)).await??)
}
