//! Successive runs of one query do not interfere.

#![allow(clippy::unwrap_used)]

use super::*;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::offsets::Positions;
use highwater_protocol::query::End;
use std::time::Duration;

const SQL: &str = "
    CREATE TABLE t (id BIGINT) WITH ('connector'='kafka','topic'='t','bootstrap.servers'='127.0.0.1:1','format'='json');
    CREATE TABLE o (id BIGINT) WITH ('connector'='console');
    INSERT INTO o SELECT id FROM t;";

fn spec(name: &str) -> QuerySpec {
    QuerySpec {
        id: QueryId(Uuid::now_v7()),
        name: name.into(),
        sql: SQL.into(),
        desired: DesiredState::Running,
        message: None,
        created_at_ms: 0,
        start_positions: Positions::new(),
        end_positions: Positions::new(),
        topic_ids: BTreeMap::new(),
        source_topic_ids: BTreeMap::new(),
        end_topic_ids: BTreeMap::new(),
        plan: None,
    }
}

fn queries() -> Queries {
    let store = CheckpointStore::in_memory();
    let epoch = store.claim_epoch().unwrap();
    Queries::new(store, Cluster::new(epoch, Duration::from_secs(3)), AccessPolicy::ALL, Clock::system())
}

/// Runs a test without waiting, at its end, for the threads that look for the broker.
fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(test);
    runtime.shutdown_background();
}

async fn started(queries: &Queries, spec: &QuerySpec) -> RunHandle {
    queries.put(spec.clone()).await.unwrap();
    queries.insert(spec.clone(), Ok(Arc::new(compile(spec.sql.clone()).await.unwrap())));
    queries.start_run(spec.id).await.unwrap();
    queries.get(&spec.name).unwrap().run.unwrap()
}

fn fatal(message: &str) -> RunnerEvent {
    RunnerEvent::Machine(Event::Trouble { executor: None, kind: ErrorKind::Fatal, message: message.into() })
}

async fn end_of(mut run: RunHandle) -> RunState {
    run.view.wait_for(|view| matches!(view.state, RunState::Ended(_))).await.unwrap().state.clone()
}

#[test]
fn messages_of_an_old_run_do_not_end_the_new_one() {
    block_on(async {
        let queries = queries();
        let spec = spec("q");
        let old = started(&queries, &spec).await;
        queries.stop("q").await.unwrap();
        queries.start("q").await.unwrap();
        let new = queries.get("q").unwrap().run.unwrap();
        assert_ne!(old.run_id, new.run_id);
        assert!(queries.offer(spec.id, old.run_id, fatal("of the old run")));
        assert!(queries.offer(spec.id, new.run_id, fatal("of the new run")));
        assert_eq!(end_of(new).await, RunState::Ended(End::Failed("of the new run".into())));
    });
}

#[test]
fn a_query_that_fails_and_is_started_at_once_is_not_stored_as_failed() {
    block_on(async {
        let queries = queries();
        let spec = spec("q");
        for round in 0..20 {
            let run = started(&queries, &spec).await;
            run.events.push(fatal("once"));
            end_of(run).await;
            queries.start("q").await.unwrap();
            let stored = queries.stored(spec.id).await.unwrap().unwrap();
            assert_eq!((stored.desired, stored.message), (DesiredState::Running, None), "round {round}");
            queries.stop("q").await.unwrap();
        }
    });
}

#[test]
fn a_query_keeps_running_if_its_replacement_fails() {
    block_on(async {
        let queries = queries();
        let (old, other) = (spec("q"), spec("other"));
        started(&queries, &other).await;
        started(&queries, &old).await;
        let compiled = Arc::new(compile(SQL.into()).await.unwrap());
        let _one = queries.changes.lock().await;
        // The store refuses a name that another query has.
        let refused = QuerySpec { name: "other".into(), ..spec("new") };
        let replaced = queries.replace(queries.get("q").unwrap(), refused, compiled.clone()).await;
        assert!(matches!(replaced, Err(DriverError::Checkpoint(_))), "{replaced:?}");
        assert!(is_live(&queries.get("q").unwrap()));
        assert_eq!(queries.stored(old.id).await.unwrap().unwrap().desired, DesiredState::Running);
        let new = spec("q");
        queries.replace(queries.get("q").unwrap(), new.clone(), compiled).await.unwrap();
        assert_eq!(queries.get("q").unwrap().spec, new);
        assert_eq!(queries.stored(old.id).await.unwrap(), None);
    });
}
