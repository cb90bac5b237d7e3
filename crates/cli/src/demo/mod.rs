//! `highwater demo`: a whole cluster at work, without installing anything.
//!
//! Owns: the sequence: broker, driver, three executors, payments, two queries, one executor killed and a new one
//! joining.
//! Invariants: it ends cleanly on ^C, and its memory does not grow with its length.

mod broker;
mod generator;
mod results;
mod sql;
mod view;
mod watch;

use crate::cli::DemoArgs;
use crate::client::{Client, Driver, LOOK, request};
use crate::cluster::Cluster;
use crate::commands::serve;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use broker::Broker;
use generator::Generator;
use highwater_proto::v1::SubmitQueryRequest;
use results::Results;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use view::{Frame, View};
use watch::Watch;

const EXECUTORS: usize = 3;
/// How long after the kill a new executor joins.
const JOIN_AFTER: Duration = Duration::from_secs(10);
/// How often the screen is updated.
const FRAME: Duration = Duration::from_millis(500);

pub async fn demo(args: DemoArgs, context: &Context) -> Result<(), Failure> {
    let interrupted = serve::until_signalled(false)?;
    if !context.global.json {
        output::line(
            "This demo's broker is a stand-in inside this process: it keeps no transactions, so it shows how Highwater \
             works and proves nothing about exactly-once. `make kafka` starts a real Kafka for that.",
        )?;
    }
    let folder = tempfile::Builder::new().prefix("highwater-demo-").tempdir()?;
    let broker = Broker::start()?;
    let mut cluster = Cluster::start(folder.path(), EXECUTORS, Some(2))?;
    let generator = Generator::start(&broker.bootstrap_servers, args.rate)?;
    let driver = Driver::local(&cluster.driver_url)?;
    let played = tokio::select! {
        played = play(&args, context, &driver, &broker, &mut cluster, &generator, &interrupted) => played,
        () = interrupted.cancelled() => Ok(()),
    };
    drop(generator);
    if !context.global.json {
        output::note("ending the demo's processes");
    }
    cluster.stop();
    played
}

/// Submits the queries and shows them until the demo is over.
async fn play(
    args: &DemoArgs,
    context: &Context,
    driver: &Driver,
    broker: &Broker,
    cluster: &mut Cluster,
    generator: &Generator,
    interrupted: &CancellationToken,
) -> Result<(), Failure> {
    let started = Instant::now();
    for (name, sql) in sql::queries(&broker.bootstrap_servers) {
        submit(driver, name, sql).await.map_err(|failure| blame(cluster, failure))?;
    }
    let mut watch = Watch::start(driver, &[sql::TOTALS, sql::ALERTS]);
    let results = Results::start(&broker.bootstrap_servers)?;
    let mut view = View::new(context.global.json, args.plain);
    view.event(started.elapsed(), &format!("driver and {EXECUTORS} executors run; two queries are submitted"))?;
    let mut events = Events::new(args.kill_after);
    let mut frames = tokio::time::interval(FRAME);
    let over = args.seconds.map(Duration::from_secs);
    while !interrupted.is_cancelled() && over.is_none_or(|over| started.elapsed() < over) {
        tokio::select! {
            _ = frames.tick() => {}
            failure = watch.ended() => {
                view.finish();
                return Err(failure);
            }
        }
        cluster.check()?;
        if let Some(event) = events.advance(started.elapsed(), cluster)? {
            view.event(started.elapsed(), &event)?;
        }
        let (pictures, latest) = (watch.pictures(), results.latest());
        let frame = Frame { elapsed: started.elapsed(), sent: generator.sent(), pictures: &pictures, latest: &latest };
        view.show(&frame)?;
    }
    view.finish();
    summary(context, &watch, generator)
}

/// The events of the demo: one executor is killed, and another joins.
struct Events {
    kill_at: Option<Duration>,
    join_at: Option<Duration>,
}

impl Events {
    fn new(kill_after_s: u64) -> Self {
        let kill_at = (kill_after_s > 0).then(|| Duration::from_secs(kill_after_s));
        Self { kill_at, join_at: kill_at.map(|at| at + JOIN_AFTER) }
    }

    fn advance(&mut self, elapsed: Duration, cluster: &mut Cluster) -> Result<Option<String>, Failure> {
        if self.kill_at.take_if(|at| elapsed >= *at).is_some() {
            let killed = cluster.kill_executor();
            return Ok(killed.map(|name| format!("killed {name}; its partitions and shards move to the others")));
        }
        if self.join_at.take_if(|at| elapsed >= *at).is_some() {
            let name = cluster.add_executor()?;
            return Ok(Some(format!("started {name}; it takes its share of partitions and shards")));
        }
        Ok(None)
    }
}

fn summary(context: &Context, watch: &Watch, generator: &Generator) -> Result<(), Failure> {
    if context.global.json {
        return Ok(());
    }
    for picture in watch.pictures() {
        let batch = picture.batch.map_or_else(|| "no batch".to_string(), |batch| format!("last batch {batch}"));
        output::line(&format!("{}: {batch}, {} records committed", picture.name, picture.records))?;
    }
    output::line(&format!("{} card payments were generated", generator.sent()))
}

async fn submit(driver: &Driver, name: &str, sql: String) -> Result<(), Failure> {
    let message = SubmitQueryRequest { name: name.to_string(), sql, replace: false, new_output: false };
    let wanted = &message;
    let call = |mut client: Client| async move { client.submit_query(request(wanted.clone(), LOOK)).await };
    driver.call(call).await.map(|_| ())
}

/// A process that ended explains a failure better than the call that failed.
fn blame(cluster: &mut Cluster, failure: Failure) -> Failure {
    cluster.check().err().unwrap_or(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kill_can_be_left_out() {
        let events = Events::new(0);
        assert_eq!((events.kill_at, events.join_at), (None, None));
        let events = Events::new(20);
        assert_eq!(events.join_at, Some(Duration::from_secs(30)));
    }
}
