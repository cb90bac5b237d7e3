//! Watches the topics of one run from the driver: ids, new partitions, ends, retention.
//!
//! Owns: asking the brokers every second, and at once if the run needs it. Does not own: any decision; it sends events,
//! and ends with the run.

use crate::clock::wall_ms;
use crate::run::RunHandle;
use crate::run_event::RunnerEvent;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::source::SourceMonitor;
use highwater_connectors::registry;
use highwater_planner::CompiledQuery;
use highwater_proto::v1;
use highwater_protocol::offsets::{LogEnds, Positions, SourcePartition};
use highwater_protocol::query::{Event, TopicLook};
use highwater_sql::tables::SourceTable;
use std::sync::Arc;
use std::time::Duration;

/// Pause between two requests to the brokers.
const INTERVAL: Duration = Duration::from_secs(1);

/// Starts watching; ends when the run does.
pub(crate) fn spawn(compiled: Arc<CompiledQuery>, run: RunHandle) {
    for source in compiled.sources.clone() {
        let run = run.clone();
        tokio::spawn(async move { watch(source, run).await });
    }
}

async fn watch(source: SourceTable, run: RunHandle) {
    let mut monitor: Option<Box<dyn SourceMonitor>> = None;
    let mut latest = Positions::new();
    // The run waits for the topic id first, so the first request asks only for that.
    let mut only_id = true;
    while !run.events.is_closed() {
        let (table, taken) = (source.clone(), monitor.take());
        let looked = tokio::task::spawn_blocking(move || {
            let mut monitor = match taken {
                Some(monitor) => monitor,
                None => registry::monitor(&table)?,
            };
            let look = if only_id { monitor.look_at_identity() } else { monitor.look() };
            Ok::<_, ConnectorError>((monitor, look))
        })
        .await;
        match looked {
            Ok(Ok((back, look))) => {
                monitor = Some(back);
                if let Some(event) = report(&run, &source, look, &mut latest) {
                    run.events.push(event);
                }
                if std::mem::take(&mut only_id) {
                    continue;
                }
            }
            Ok(Err(error)) => tracing::debug!(table = %source.name, %error, "the topic could not be inspected"),
            Err(error) => tracing::error!(%error, "the topic monitor ended"),
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = run.look.notified() => {}
            () = run.events.closed() => return,
        }
    }
}

/// The event to send to the run after a request; `None` if there is nothing to report.
fn report(
    run: &RunHandle,
    source: &SourceTable,
    look: Result<TopicLook, ConnectorError>,
    latest: &mut Positions,
) -> Option<RunnerEvent> {
    let look = match look {
        Ok(look) => look,
        Err(error @ ConnectorError::MissingTopic { .. }) => {
            let (source, message) = (source.id, error.to_string());
            return Some(RunnerEvent::Machine(Event::TopicMissing { source, message }));
        }
        Err(error) => {
            tracing::debug!(table = %source.name, %error, "the brokers did not answer");
            return None;
        }
    };
    if !look.ends.is_empty() {
        let positions = run.view.borrow().positions.clone();
        latest.retain(|partition, _| look.ends.contains_key(partition));
        latest.extend(look.ends.iter().map(|(partition, ends)| (partition.clone(), ends.latest)));
        let warnings =
            look.ends.iter().filter_map(|(p, ends)| retention_warning(p, *positions.get(p)?, *ends)).collect();
        run.events.push(RunnerEvent::Latest { source: source.id, ends: latest.clone(), warnings });
    }
    Some(RunnerEvent::Machine(Event::Topic(look)))
}

/// Warns when retention is about to overtake the position: less than a tenth of the retained offsets are before it.
fn retention_warning(partition: &SourcePartition, position: i64, ends: LogEnds) -> Option<String> {
    let retained = ends.latest - ends.earliest;
    let margin = position - ends.earliest;
    let deleting = ends.earliest > 0;
    (deleting && position < ends.latest && margin * 10 < retained).then(|| {
        format!(
            "{} is about to lose records to retention before they are read: offset {position} is next, {} is the \
             earliest retained, {} is the end; raise retention.ms or add executors",
            partition.tp, ends.earliest, ends.latest
        )
    })
}

/// Asks the brokers for the current lag of every partition. Blocks.
pub(crate) fn lag(compiled: &CompiledQuery, positions: &Positions) -> Vec<v1::PartitionLag> {
    let mut lags = Vec::new();
    for source in &compiled.sources {
        let looked = registry::monitor(source).and_then(|mut monitor| {
            let ends = monitor.ends()?;
            Ok((monitor, ends))
        });
        let (mut monitor, ends) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                tracing::warn!(table = %source.name, %error, "the brokers did not answer");
                let known = positions.iter().filter(|(partition, _)| partition.source == source.id);
                lags.extend(known.map(|(partition, position)| unknown_lag(partition, *position)));
                continue;
            }
        };
        for (partition, ends) in ends {
            let position = positions.get(&partition).copied().unwrap_or(ends.earliest);
            let lag = (ends.latest - position).max(0);
            let behind_ms = match lag {
                0 => Some(0),
                _ => monitor.timestamp_at(&partition.tp, position.max(ends.earliest)).ok().flatten(),
            };
            let behind_ms = behind_ms.map(|at| if lag == 0 { 0 } else { (wall_ms() - at).max(0) });
            lags.push(v1::PartitionLag {
                earliest_offset: Some(ends.earliest),
                latest_offset: Some(ends.latest),
                lag: Some(lag),
                behind_ms,
                ..unknown_lag(&partition, position)
            });
        }
    }
    lags.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    lags
}

fn unknown_lag(partition: &SourcePartition, position: i64) -> v1::PartitionLag {
    v1::PartitionLag {
        topic: partition.tp.topic.to_string(),
        partition: partition.tp.partition,
        committed_offset: Some(position),
        ..v1::PartitionLag::default()
    }
}
