//! One task per running query: feeds the query machine with events and carries out its actions.
//!
//! Owns: the machine, the query's live view ([`QueryView`]), its progress history. Does not own: any decision (the
//! machine's), storage and Kafka clients (called on blocking threads).

use crate::clock::Clock;
use crate::effects::Effects;
use crate::inbox::{InboxReader, inbox};
use crate::run::{Found, QueryView, Run, RunHandle};
use crate::run_event::RunnerEvent;
use crate::watched::Watched;
use highwater_connector_api::error::ConnectorError;
use highwater_connectors::registry::max_attempt_ms;
use highwater_planner::query::CompiledQuery;
use highwater_protocol::ids::{AttemptId, ExecutorId, OperatorId, QueryId, SinkId, SourceId, TaskId};
use highwater_protocol::key_conflicts::KeyConflicts;
use highwater_protocol::options::SourceSpec;
use highwater_protocol::prepare_record::{PrepareRecord, Totals};
use highwater_protocol::query::{Action, End, Event, QueryConfig, QueryMachine, RunState};
use highwater_sql::tables::SourceTable;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Bits of an attempt number that count within one run; the bits above are the number of the run.
const ATTEMPT_BITS: u32 = 32;

/// Starts a run in the background, from the checkpoint.
///
/// # Errors
/// If a sink of the query cannot be written.
pub(crate) fn start(run: Run, found: Found) -> Result<RunHandle, ConnectorError> {
    let (events, reader) = inbox();
    let Found { head, reserved_writers } = found;
    let config = config(&run, reserved_writers)?;
    let (machine, actions) = QueryMachine::recover(config, head, run.clock.now());
    let operators = run.compiled.dataflow.operators.iter().map(|info| (info.id, info.description.clone())).collect();
    let warnings = conflicting_keys(machine.totals(), &operators);
    let (publish_view, view) = watch::channel(view_of(&machine, &run.compiled, &BTreeMap::new(), &warnings));
    let run_id = run.run_id;
    let look = Arc::new(Notify::new());
    let effects = Effects::new(&run, events.clone(), look.clone());
    let runner = Runner {
        query: run.spec.id,
        compiled: run.compiled.clone(),
        machine,
        clock: run.clock.clone(),
        effects,
        view: publish_view,
        input_rows: BTreeMap::new(),
        deltas: BTreeMap::new(),
        watched: Watched::default(),
        file_warnings: Vec::new(),
        operators,
    };
    let executors = run.cluster.watch();
    tokio::spawn(runner.run(reader, executors, actions));
    Ok(RunHandle { run_id, events, view, look })
}

fn config(run: &Run, reserved_writers: BTreeMap<SinkId, u32>) -> Result<QueryConfig, ConnectorError> {
    Ok(QueryConfig {
        query: run.spec.id,
        epoch: run.cluster.epoch(),
        first_attempt: run.number << ATTEMPT_BITS,
        trigger: run.compiled.options.trigger.clone(),
        shards: run.compiled.options.shards,
        sources: run.compiled.source_specs(),
        stages: run.compiled.dataflow.topology(),
        windowed: run.compiled.dataflow.closes_windows(),
        clock_windows: run.compiled.dataflow.clock_windows(),
        max_drift_ms: run.compiled.options.max_drift_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        start_positions: run.spec.start_positions.clone(),
        end_positions: run.spec.end_positions.clone(),
        topic_ids: topic_ids(run, &run.spec.source_topic_ids),
        end_topic_ids: topic_ids(run, &run.spec.end_topic_ids),
        reserved_writers,
        max_attempt_ms: max_attempt_ms(&run.compiled.sinks)?,
        looks_up_files: !run.compiled.snapshot_tables().is_empty(),
    })
}

/// Topic ids by source. Older specs store them by topic, which is enough unless several tables read one topic.
fn topic_ids(run: &Run, known: &BTreeMap<SourceId, String>) -> BTreeMap<SourceId, String> {
    if !known.is_empty() {
        return known.clone();
    }
    let sources = run.compiled.source_specs();
    let alone = |topic: &str| sources.iter().filter(|source| source.topic == topic).count() == 1;
    let id = |source: &SourceSpec| Some((source.id, run.spec.topic_ids.get(&source.topic)?.clone()));
    sources.iter().filter(|source| alone(&source.topic)).filter_map(id).collect()
}

struct Runner {
    query: QueryId,
    compiled: Arc<CompiledQuery>,
    machine: QueryMachine,
    clock: Clock,
    effects: Effects,
    view: watch::Sender<QueryView>,
    input_rows: BTreeMap<ExecutorId, u64>,
    /// Large state deltas by attempt, task and index; kept until the report of their task arrives.
    deltas: BTreeMap<(AttemptId, TaskId, u32), Vec<u8>>,
    watched: Watched,
    file_warnings: Vec<String>,
    /// Descriptions of the operators.
    operators: BTreeMap<OperatorId, String>,
}

impl Runner {
    #[tracing::instrument(name = "query", skip_all, fields(query = %self.query))]
    async fn run(
        mut self,
        mut events: InboxReader,
        mut executors: watch::Receiver<Vec<highwater_protocol::query::ExecutorInfo>>,
        actions: Vec<Action>,
    ) {
        let mut ended = self.act(actions).await;
        let live = executors.borrow_and_update().clone();
        ended = ended.or(self.step(Event::Executors(live)).await);
        while ended.is_none() {
            let wake = self.machine.next_wake_ms().map(|at| at - self.clock.now().ms);
            let event = tokio::select! {
                biased;
                changed = executors.changed() => match changed {
                    Ok(()) => {
                        let live = executors.borrow_and_update().clone();
                        Some(Event::Executors(live))
                    }
                    Err(_) => return,
                },
                event = events.next() => self.translate(event),
                () = sleep_ms(wake) => Some(Event::Tick),
            };
            if let Some(event) = event {
                ended = self.step(event).await;
            }
        }
        if let Some(end) = ended {
            self.effects.end(end).await;
            self.publish_view();
        }
    }

    /// Turns an event from outside into a machine event; `None` for deltas, ends and warnings, which are kept here.
    fn translate(&mut self, event: RunnerEvent) -> Option<Event> {
        match event {
            RunnerEvent::Machine(Event::TaskDone { attempt, executor, mut report }) => {
                for (index, delta) in report.state.iter_mut().enumerate() {
                    if let Some(bytes) = self.deltas.remove(&(attempt, report.task, index as u32)) {
                        delta.bytes = bytes;
                    }
                }
                Some(Event::TaskDone { attempt, executor, report })
            }
            RunnerEvent::Machine(event) => Some(event),
            RunnerEvent::StateDelta { attempt, task, index, bytes } => {
                self.deltas.retain(|(old, _, _), _| *old >= attempt);
                self.deltas.insert((attempt, task, index), bytes);
                None
            }
            RunnerEvent::Latest { source, ends, warnings } => {
                self.watched.see(source, ends, warnings);
                self.publish_view();
                None
            }
            RunnerEvent::SnapshotWarnings(warnings) => {
                self.file_warnings = warnings;
                self.publish_view();
                None
            }
        }
    }

    async fn step(&mut self, event: Event) -> Option<End> {
        let actions = self.machine.step(event, self.clock.now());
        let ended = self.act(actions).await;
        self.publish_view();
        ended
    }

    async fn act(&mut self, actions: Vec<Action>) -> Option<End> {
        for action in actions {
            match action {
                Action::Committed(batch) => {
                    for (task, executor) in batch.placement.iter() {
                        let rows = rows_of(&batch.record, *task);
                        *self.input_rows.entry(*executor).or_default() += rows;
                    }
                    self.effects.committed(*batch, &self.watched.ends()).await;
                }
                Action::Ended(end) => return Some(end),
                other => self.effects.carry_out(other).await,
            }
        }
        None
    }

    fn publish_view(&self) {
        let conflicts = conflicting_keys(self.machine.totals(), &self.operators);
        let warnings = [self.watched.warnings(), self.file_warnings.clone(), conflicts].concat();
        let view = view_of(&self.machine, &self.compiled, &self.input_rows, &warnings);
        if let RunState::Waiting(why) = &view.state
            && self.view.borrow().state != view.state
        {
            tracing::warn!("the query is waiting: {why}");
        }
        self.view.send_replace(view);
    }
}

/// Number of records that one source task read.
fn rows_of(record: &PrepareRecord, task: TaskId) -> u64 {
    let Some(plan) = record.plan.tasks.get(task.0 as usize) else { return 0 };
    match &plan.work {
        highwater_protocol::plan::TaskWork::Source { ranges, .. } => {
            ranges.keys().filter_map(|partition| record.partitions.get(partition)).map(|p| p.records).sum()
        }
        highwater_protocol::plan::TaskWork::Shards { .. } => 0,
    }
}

fn view_of(
    machine: &QueryMachine,
    compiled: &CompiledQuery,
    input_rows: &BTreeMap<ExecutorId, u64>,
    warnings: &[String],
) -> QueryView {
    let assignment = machine.assignment();
    let warnings = warnings.iter().cloned().chain(counted_losses(machine.totals()));
    let warnings = warnings.chain(absent_columns(machine.totals(), &compiled.sources)).chain(machine.notices());
    QueryView {
        state: machine.state(),
        last_batch: machine.last_committed(),
        positions: machine.positions().clone(),
        partitions: assignment.partitions.clone(),
        shards: assignment.shards.iter().map(|(id, (first, end))| (*id, u32::from(end.0 - first.0))).collect(),
        input_rows: input_rows.clone(),
        warnings: warnings.collect(),
    }
}

/// Warnings about everything that was skipped or dropped by an option since the query was created.
fn counted_losses(totals: &Totals) -> Vec<String> {
    let counted = [
        (totals.bad_records, "bad records were skipped (on_bad_record)"),
        (totals.lost_offsets, "offsets were skipped because their records were gone (on_data_loss)"),
        (totals.resets, "times positions were reset in a recreated topic or truncated log (on_data_loss)"),
        (totals.late_rows, "rows were dropped: late, or without event time"),
    ];
    counted.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}

/// Warnings about columns that no record has had a field for: most likely their names are wrong.
fn absent_columns(totals: &Totals, sources: &[SourceTable]) -> Vec<String> {
    let of = |source: &SourceTable| {
        let absent = totals.absent.get(&source.id)?;
        let name =
            |column: &u32| source.schema.fields().get(*column as usize).map(|field| format!("'{}'", field.name()));
        let names: Vec<String> = absent.columns.iter().filter_map(name).collect();
        let (what, has) = if names.len() == 1 { ("field", "has") } else { ("fields", "have") };
        (!names.is_empty()).then(|| {
            format!(
                "table '{}': {what} {} {has} been absent in all {} records so far; check the spelling against a record of \
                 the topic",
                source.name,
                names.join(", "),
                absent.records
            )
        })
    };
    sources.iter().filter_map(of).collect()
}

/// Warnings about keys of sinks that have more than one live row now.
fn conflicting_keys(totals: &Totals, operators: &BTreeMap<OperatorId, String>) -> Vec<String> {
    let warning = |(operator, KeyConflicts { keys, named }): (&OperatorId, &KeyConflicts)| {
        let what = operators.get(operator).map_or("", String::as_str);
        let named = match named.is_empty() {
            true => String::new(),
            false => format!(" ({}{})", named.join("; "), if *keys > named.len() as u64 { "; …" } else { "" }),
        };
        format!(
            "operator {operator} ({what}): keys with more than one live row: {keys}{named}. The sink shows the greatest row \
             of each until only one is left; SET on_key_conflict = 'fail' would stop the query"
        )
    };
    totals.key_conflicts.iter().map(warning).collect()
}

async fn sleep_ms(wait_ms: Option<i64>) {
    match wait_ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(u64::try_from(ms).unwrap_or(0).max(1))).await,
        None => std::future::pending().await,
    }
}
