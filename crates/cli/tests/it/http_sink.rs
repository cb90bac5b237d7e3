//! The HTTP sink: at least once, with a key by which repetitions are recognised.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use highwater_testkit::{Highwater, KafkaCluster, Message};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

const TOKEN: &str = "s3cret-of-the-endpoint";

/// How the endpoint handles its next requests.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Takes,
    /// Takes this number of requests, then does not answer until `be(Takes)`.
    HoldsAfter(u32),
    Holding,
    /// Answers this number of requests with 503.
    BusyFor(u32),
    Refuses,
}

struct Received {
    key: String,
    authorization: String,
    body: String,
    taken: bool,
}

/// A real server: a port of this machine, and a thread.
struct Endpoint {
    url: String,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

struct Shared {
    received: Mutex<Vec<Received>>,
    mood: Mutex<Mood>,
    released: Notify,
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_string()).unwrap_or_default();
    let released = shared.released.notified();
    tokio::pin!(released);
    released.as_mut().enable();
    let before = {
        let mut mood = shared.mood.lock().unwrap();
        let before = *mood;
        *mood = match before {
            Mood::HoldsAfter(0) => Mood::Holding,
            Mood::HoldsAfter(left) => Mood::HoldsAfter(left - 1),
            Mood::BusyFor(1) => Mood::Takes,
            Mood::BusyFor(left) => Mood::BusyFor(left - 1),
            other => other,
        };
        before
    };
    let taken = !matches!(before, Mood::BusyFor(_) | Mood::Refuses);
    shared.received.lock().unwrap().push(Received {
        key: header("idempotency-key"),
        authorization: header("authorization"),
        body: String::from_utf8(body.to_vec()).unwrap(),
        taken,
    });
    match before {
        Mood::BusyFor(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        Mood::Refuses => (StatusCode::UNPROCESSABLE_ENTITY, "no such tenant"),
        Mood::HoldsAfter(0) | Mood::Holding => {
            released.await;
            (StatusCode::OK, "late")
        }
        Mood::Takes | Mood::HoldsAfter(_) => (StatusCode::OK, ""),
    }
}

impl Endpoint {
    fn start() -> Self {
        let shared =
            Arc::new(Shared { received: Mutex::default(), mood: Mutex::new(Mood::Takes), released: Notify::new() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/rows", listener.local_addr().unwrap());
        let router = Router::new().route("/rows", post(take)).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, shared, _runtime: runtime }
    }

    fn be(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
        if mood == Mood::Takes {
            self.shared.released.notify_waiters();
        }
    }

    fn is(&self, mood: Mood) -> Option<()> {
        (*self.shared.mood.lock().unwrap() == mood).then_some(())
    }

    /// How often each key was sent, and the rows of accepted requests. Bodies with the same key must be equal.
    fn requests(&self) -> (BTreeMap<String, usize>, BTreeMap<String, Vec<i64>>) {
        let (mut times, mut rows) = (BTreeMap::new(), BTreeMap::new());
        let mut bodies: BTreeMap<String, String> = BTreeMap::new();
        for Received { key, body, authorization, taken } in self.shared.received.lock().unwrap().iter() {
            assert_eq!(authorization, &format!("Bearer {TOKEN}"));
            assert_eq!(bodies.entry(key.clone()).or_insert_with(|| body.clone()), body, "{key}");
            *times.entry(key.clone()).or_insert(0) += 1;
            if *taken {
                let body: Vec<Value> = serde_json::from_str(body).unwrap();
                rows.insert(key.clone(), body.iter().map(|row| row["id"].as_i64().unwrap()).collect());
            }
        }
        (times, rows)
    }

    fn repeated(&self) -> usize {
        self.requests().0.values().filter(|times| **times > 1).count()
    }
}

#[test]
fn every_row_is_posted_and_requests_repeated_after_a_crash_have_the_same_key_and_body() {
    let kafka = KafkaCluster::shared();
    kafka.create_topic("http-in", 2);
    let produce = |ids: std::ops::Range<i32>| {
        kafka.produce("http-in", ids.map(|id| Message::json(&json!({"id": id})).partition(id % 2)));
    };
    let endpoint = Endpoint::start();
    let script = format!(
        "SET max_offsets_per_trigger = 20;
         CREATE TABLE t (id BIGINT) WITH ('connector'='kafka', 'topic'='http-in', 'bootstrap.servers'='{}', 'format'='json');
         CREATE TABLE o (id BIGINT) WITH ('connector'='http', 'url'='{}', 'authorization'='Bearer ${{env:HTTP_TOKEN}}',
           'rows_per_request'='3', 'request_timeout'='1 minute', 'retry_timeout'='1 second');
         INSERT INTO o SELECT id FROM t;",
        kafka.bootstrap_servers(),
        endpoint.url
    );
    let mut cluster = Highwater::stopped();
    let token = [("HTTP_TOKEN", TOKEN.to_string())];
    cluster.start_driver(&token);
    cluster.add_executor(&token);
    cluster.ok(&["ls"]);
    endpoint.be(Mood::BusyFor(2));
    let file = cluster.file("http.sql", &script);
    let submitted = cluster.run(&["submit", &file]);
    let told = String::from_utf8_lossy(&submitted.stderr).into_owned();
    assert!(submitted.status.success() && told.contains("sink 'o' is outside the exactly-once promise"), "{told}");
    assert!(told.contains("at least once"), "{told}");
    produce(0..40);
    cluster.wait_caught_up("http");
    cluster.wait("the busy endpoint to be asked again", || (endpoint.repeated() > 0).then_some(()));

    // An executor dies between two requests of a batch.
    let before = endpoint.repeated();
    endpoint.be(Mood::HoldsAfter(2));
    produce(40..80);
    cluster.wait("a request without answer", || endpoint.is(Mood::Holding));
    cluster.kill_executor(0);
    endpoint.be(Mood::Takes);
    cluster.add_executor(&token);
    cluster.wait_caught_up("http");
    assert!(endpoint.repeated() > before, "{:?}", endpoint.requests().0);

    // The driver dies while a batch is published.
    let before = endpoint.repeated();
    endpoint.be(Mood::HoldsAfter(2));
    produce(80..120);
    cluster.wait("a request without answer", || endpoint.is(Mood::Holding));
    cluster.kill_driver();
    endpoint.be(Mood::Takes);
    cluster.start_driver(&token);
    cluster.wait_caught_up("http");
    assert!(endpoint.repeated() > before, "{:?}", endpoint.requests().0);

    // While the endpoint is unavailable, the query waits and shows that.
    endpoint.be(Mood::BusyFor(u32::MAX));
    produce(120..125);
    let status = cluster.wait_state("http", &["waiting"]);
    assert!(status["message"].as_str().unwrap().contains("the endpoint answered 503"), "{status}");
    endpoint.be(Mood::Takes);
    cluster.wait_caught_up("http");

    // A 422 stops the query; `start` sends the batch again.
    endpoint.be(Mood::Refuses);
    produce(125..130);
    let status = cluster.wait_state("http", &["failed"]);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("sink 'o': POST http://") && message.contains("422") && message.contains("no such tenant"),
        "{message}"
    );
    endpoint.be(Mood::Takes);
    cluster.ok(&["start", "http"]);
    cluster.wait_caught_up("http");

    let (_, rows) = endpoint.requests();
    let all: Vec<i64> = rows.values().flatten().copied().collect();
    assert_eq!(all.len(), 130, "told apart by their keys, no row is there twice");
    assert_eq!(all.iter().copied().collect::<BTreeSet<i64>>(), (0..130).collect());
    let shown =
        format!("{}{}{}{}", cluster.ok(&["status", "http"]), cluster.ok(&["explain", &file]), cluster.logs(), told);
    assert!(!shown.contains(TOKEN), "{shown}");
}
