//! What the demo knows about its queries: it asks the driver like any client.
//!
//! Owns: the current picture of each query. Does not own: how it is shown (`view`).
//! Invariant: bounded memory, however long the demo runs.

use crate::client::{Client, Driver, LOOK, request};
use crate::failure::Failure;
use crate::follow::{self, News};
use highwater_proto::v1::{GetLagRequest, GetLagResponse, GetQueryStatusRequest, QueryStatus};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Length of time over which rates are computed.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// How often the status is requested; lag, which makes work for the brokers, every second time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known about one query.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub name: String,
    pub status: QueryStatus,
    pub lag: Option<GetLagResponse>,
    /// Last committed micro-batch.
    pub batch: Option<u64>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Records since the demo began to watch.
    pub records: u64,
    /// Times of recent commits, with their numbers of records.
    pub(super) recent: VecDeque<(Instant, u64)>,
}

impl Picture {
    fn add(&mut self, document: &Value, now: Instant) {
        let number = |key: &str| document.get(key).and_then(Value::as_u64).unwrap_or(0);
        self.batch = document.get("batchId").and_then(Value::as_u64).or(self.batch);
        self.took_ms = number("batchDuration");
        self.records += number("numInputRows");
        self.recent.push_back((now, number("numInputRows")));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW) {
            self.recent.pop_front();
        }
    }

    /// Records per second, over the last seconds.
    pub fn rate(&self) -> f64 {
        let now = Instant::now();
        let recent = self.recent.iter().filter(|(at, _)| now.duration_since(*at) <= RATE_WINDOW);
        recent.map(|(_, rows)| *rows as f64).sum::<f64>() / RATE_WINDOW.as_secs_f64()
    }
}

/// The pictures of all queries, updated until this is dropped.
pub struct Watch {
    pictures: Vec<Arc<Mutex<Picture>>>,
    /// One task per query; the first that ends reports how its query ended.
    followers: JoinSet<Result<QueryStatus, Failure>>,
    _lookers: JoinSet<()>,
}

impl Watch {
    pub fn start(driver: &Driver, names: &[&str]) -> Self {
        let mut watch = Self { pictures: Vec::new(), followers: JoinSet::new(), _lookers: JoinSet::new() };
        for name in names {
            let picture = Arc::new(Mutex::new(Picture { name: (*name).to_string(), ..Picture::default() }));
            watch.followers.spawn(follow_batches(driver.clone(), (*name).to_string(), picture.clone()));
            watch._lookers.spawn(look(driver.clone(), (*name).to_string(), picture.clone()));
            watch.pictures.push(picture);
        }
        watch
    }

    pub fn pictures(&self) -> Vec<Picture> {
        self.pictures.iter().map(|picture| lock(picture).clone()).collect()
    }

    /// Returns when a query of the demo ends, which none should.
    pub async fn ended(&mut self) -> Failure {
        match self.followers.join_next().await {
            Some(Ok(Ok(status))) => match follow::outcome(&status) {
                Err(failure) => failure,
                Ok(()) => Failure::failed(format!("query {} ended", status.name)),
            },
            Some(Ok(Err(failure))) => failure,
            Some(Err(error)) => Failure::failed(format!("following a query failed: {error}")),
            None => Failure::failed("the demo watches no query"),
        }
    }
}

fn lock(picture: &Mutex<Picture>) -> std::sync::MutexGuard<'_, Picture> {
    picture.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow_batches(driver: Driver, name: String, picture: Arc<Mutex<Picture>>) -> Result<QueryStatus, Failure> {
    follow::follow(&driver, &name, 0, |news| {
        if let News::Batch(batch) = news {
            lock(&picture).add(&batch.document, Instant::now());
        }
        Ok(())
    })
    .await
}

async fn look(driver: Driver, name: String, picture: Arc<Mutex<Picture>>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let name = name.as_str();
    for turn in 0_u64.. {
        ticks.tick().await;
        let status = |mut client: Client| async move {
            client.get_query_status(request(GetQueryStatusRequest { name: name.to_string() }, LOOK)).await
        };
        // If the driver does not answer, the picture stays as it was; the followers notice the driver's end.
        if let Ok(answer) = driver.call(status).await {
            lock(&picture).status = answer.status.unwrap_or_default();
        }
        if turn % 2 == 0 {
            let lag = |mut client: Client| async move {
                client.get_lag(request(GetLagRequest { name: name.to_string() }, LOOK)).await
            };
            if let Ok(answer) = driver.call(lag).await {
                lock(&picture).lag = Some(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_rate_ignores_old_commits() {
        let mut picture = Picture::default();
        let now = Instant::now();
        if let Some(long_ago) = now.checked_sub(RATE_WINDOW * 2) {
            picture.add(&json!({"batchId": 1, "numInputRows": 1_000_000}), long_ago);
        }
        picture.add(&json!({"batchId": 2, "numInputRows": 500, "batchDuration": 7}), now);
        assert_eq!((picture.batch, picture.took_ms, picture.recent.len()), (Some(2), 7, 1));
        assert!((picture.rate() - 100.0).abs() < 1.0, "{}", picture.rate());
    }
}
