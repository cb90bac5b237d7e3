//! `highwater bench nexmark`: the queries of the Nexmark auction site on events in Kafka.
//!
//! Owns: one run: topics, cluster, queries one after the other, the final table. Does not own: the meaning of the
//! queries (`crates/cli/nexmark`), the events (`events`). Invariants: topics belong to this run and are deleted after
//! it, unless they are to be kept; a query is measured while no other runs.

pub mod events;
pub mod queries;
mod report;
mod topics;

use crate::cli::NexmarkArgs;
use crate::client::{CHANGE, Client, Driver, LOOK, request};
use crate::cluster::Cluster;
use crate::commands::serve;
use crate::context::Context;
use crate::failure::Failure;
use crate::follow::{self, News};
use crate::output;
use events::{Settings, Stream};
use highwater_connector_kafka::sink::progress_topic;
use highwater_proto::v1::{DropQueryRequest, SubmitQueryRequest};
use highwater_protocol::ids::{QueryId, SinkId};
use queries::{Places, Query};
use report::Measured;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use topics::{Topics, topic};

/// Maximum number of batches read per query, from its first on.
const BATCHES: u32 = 1_000_000;

pub async fn nexmark(args: NexmarkArgs, context: &Context) -> Result<(), Failure> {
    if let Some(name) = &args.print_sql {
        return print_sql(&args, name, context);
    }
    let queries = Query::named(&args.query)?;
    if context.global.driver.is_some() && (args.executors.is_some() || args.slots.is_some()) {
        return Err(Failure::invalid(
            "--executors and --slots are for a cluster that this command starts, but --driver (or HIGHWATER_DRIVER) \
             names a running one: leave out one of them",
        ));
    }
    let interrupted = serve::until_signalled(false)?;
    let folder = tempfile::Builder::new().prefix("highwater-nexmark-").tempdir()?;
    let servers = args.bootstrap_servers.clone();
    let topics = blocking(move || Topics::connect(&servers)).await?;
    // Executors join while events are written.
    let cluster = match context.global.driver {
        Some(_) => None,
        None => Some(Cluster::start(folder.path(), args.executors.unwrap_or(1) as usize, args.slots)?),
    };
    let driver = match &cluster {
        Some(cluster) => Driver::local(&cluster.driver_url)?,
        None => context.driver()?,
    };
    let mut run = Run::new(args, topics, driver, folder.path(), interrupted)?;
    let mut measured = Vec::new();
    let result = run.all(&queries, &mut measured).await;
    let tidied = run.tidy().await;
    if let Some(mut cluster) = cluster {
        // A process that ended explains a failure better than the call that failed.
        let alive = cluster.check();
        cluster.stop();
        if result.is_err() {
            alive?;
        }
    }
    if !measured.is_empty() {
        report::show(&run.args, &measured, context)?;
    }
    result.and(tidied)
}

fn print_sql(args: &NexmarkArgs, name: &str, context: &Context) -> Result<(), Failure> {
    for query in Query::named(&[name.to_string()])? {
        let places = Places {
            bootstrap_servers: args.bootstrap_servers.clone(),
            events: "nexmark".into(),
            results: "nexmark".into(),
            side_input: "nexmark-side-input.csv".into(),
            batch_records: args.batch_records,
        };
        let script = query.script_at(&places);
        context.show(|| serde_json::json!({"query": query.name, "sql": script}), || script.trim_end().to_string())?;
    }
    Ok(())
}

/// The state of one run.
struct Run {
    args: NexmarkArgs,
    topics: Arc<Topics>,
    driver: Driver,
    /// Prefix of the names of this run's topics and queries.
    prefix: String,
    places: Places,
    interrupted: CancellationToken,
    /// Topics to delete at the end.
    made: Vec<String>,
    /// The query that is running, if any.
    running: Option<String>,
}

impl Run {
    fn new(
        args: NexmarkArgs,
        topics: Topics,
        driver: Driver,
        folder: &Path,
        interrupted: CancellationToken,
    ) -> Result<Self, Failure> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("nexmark-{}", &id[..8]);
        let side_input = folder.join("side-input.csv");
        std::fs::write(&side_input, events::side_input())?;
        let places = Places {
            bootstrap_servers: args.bootstrap_servers.clone(),
            events: prefix.clone(),
            results: prefix.clone(),
            side_input: side_input.display().to_string(),
            batch_records: args.batch_records,
        };
        let topics = Arc::new(topics);
        Ok(Self { args, topics, driver, prefix, places, interrupted, made: Vec::new(), running: None })
    }

    /// Writes the events and runs the queries one after the other.
    async fn all(&mut self, queries: &[Query], measured: &mut Vec<Measured>) -> Result<(), Failure> {
        let began = Instant::now();
        let bar = output::spinner(format!("writing {} events", self.args.events));
        let written = self.write_events().await;
        bar.finish_and_clear();
        written?;
        let (events, seconds) = (self.args.events, began.elapsed().as_secs_f64());
        output::note(&format!("{events} events written to topics {}-* in {seconds:.1} s", self.prefix));
        for query in queries {
            let interrupted = self.interrupted.clone();
            let one = tokio::select! {
                one = self.one(*query) => one?,
                () = interrupted.cancelled() => return Err(Failure::Interrupted(String::new())),
            };
            output::note(&format!("{}: {:.1} s", one.query, one.seconds));
            measured.push(one);
        }
        Ok(())
    }

    async fn write_events(&mut self) -> Result<(), Failure> {
        let names: Vec<String> = Stream::ALL.iter().map(|stream| topic(&self.prefix, stream.name())).collect();
        self.made.extend(names.clone());
        let NexmarkArgs { events, events_per_second, partitions, .. } = self.args;
        let settings = Settings { events, events_per_second, partitions };
        let (topics, prefix, stop) = (self.topics.clone(), self.prefix.clone(), self.interrupted.clone());
        blocking(move || {
            topics.create(&names, partitions)?;
            topics.fill(&prefix, settings, &stop)
        })
        .await
    }

    /// Runs one query to its end.
    async fn one(&mut self, query: Query) -> Result<Measured, Failure> {
        let sink = topic(&self.prefix, query.name);
        self.made.push(sink.clone());
        let (topics, partitions) = (self.topics.clone(), self.args.partitions);
        let wanted = [sink.clone()];
        blocking(move || topics.create(&wanted, partitions)).await?;

        let began = Instant::now();
        let sql = query.script_at(&self.places);
        let message = SubmitQueryRequest { name: sink.clone(), sql, replace: false, new_output: false };
        let wanted = &message;
        let call = |mut client: Client| async move { client.submit_query(request(wanted.clone(), LOOK)).await };
        let submitted = self.driver.call(call).await?;
        self.running = Some(sink.clone());
        if let Ok(id) = submitted.query_id.parse::<QueryId>() {
            self.made.push(progress_topic(id, SinkId(0)));
        }
        let (mut input, mut output_rows) = (0, 0);
        let status = follow::follow(&self.driver, &sink, BATCHES, |news| {
            if let News::Batch(batch) = news {
                input += batch.document.get("numInputRows").and_then(Value::as_u64).unwrap_or(0);
                let sink = batch.document.get("sink").and_then(|sink| sink.get("numOutputRows"));
                output_rows += sink.and_then(Value::as_u64).unwrap_or(0);
            }
            Ok(())
        })
        .await?;
        let seconds = began.elapsed().as_secs_f64();
        follow::outcome(&status)?;
        self.drop_query().await?;
        if !self.args.keep {
            // Frees space for the next query: results may be larger than the events.
            let (topics, gone) = (self.topics.clone(), self.made.split_off(Stream::ALL.len()));
            blocking(move || topics.delete(&gone)).await?;
        }
        Ok(Measured { query: query.name, events: input, seconds, output_rows })
    }

    async fn drop_query(&mut self) -> Result<(), Failure> {
        let Some(name) = self.running.take() else { return Ok(()) };
        let name = name.as_str();
        let call = |mut client: Client| async move {
            client
                .drop_query(request(
                    DropQueryRequest { name: name.to_string(), force: true, delete_progress: false },
                    CHANGE,
                ))
                .await
        };
        self.driver.call(call).await.map(|_| ())
    }

    /// Deletes everything except what is to be kept.
    async fn tidy(&mut self) -> Result<(), Failure> {
        let dropped = self.drop_query().await;
        if self.args.keep {
            let kept: Vec<&str> =
                self.made.iter().map(String::as_str).filter(|topic| !topic.starts_with('_')).collect();
            output::note(&format!("topics kept: {}", kept.join(", ")));
            return dropped;
        }
        let (topics, gone) = (self.topics.clone(), std::mem::take(&mut self.made));
        dropped.and(blocking(move || topics.delete(&gone)).await)
    }
}

/// Runs blocking work outside the async runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::failed(format!("the benchmark failed: {error}")))?
}
