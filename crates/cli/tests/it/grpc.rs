//! The services as any gRPC client sees them: reflection, health, and the whole life of a query.

use crate::table::Tables;
use highwater_proto::MAX_MESSAGE_BYTES;
use highwater_proto::v1::cluster_service_client::ClusterServiceClient;
use highwater_proto::v1::query_service_client::QueryServiceClient;
use highwater_proto::v1::{
    Attempt, DropQueryRequest, ExplainQueryRequest, FetchStateRequest, GetLagRequest, GetQueryStatusRequest,
    ListQueriesRequest, PutStateDeltaRequest, QueryState, StartQueryRequest, StopQueryRequest, StreamProgressRequest,
    SubmitQueryRequest, ValidateQueryRequest,
};
use highwater_testkit::Highwater;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn connect(cluster: &Highwater) -> Channel {
    Endpoint::from_shared(cluster.url.clone()).unwrap().connect().await.unwrap()
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn reflection_lists_the_services_and_health_says_serving() {
    let cluster = Highwater::start(0);
    block_on(async {
        let channel = connect(&cluster).await;
        let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let wanted = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("highwater.v1.QueryService".into())),
        ];
        let answers = ServerReflectionClient::new(channel.clone())
            .server_reflection_info(tokio_stream::iter(wanted))
            .await
            .unwrap()
            .into_inner();
        let answers: Vec<_> = answers.map(|answer| answer.unwrap().message_response.unwrap()).collect().await;
        let MessageResponse::ListServicesResponse(list) = &answers[0] else { panic!("{answers:?}") };
        let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
        for name in ["highwater.v1.QueryService", "highwater.v1.ClusterService", "grpc.health.v1.Health"] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        assert!(matches!(&answers[1], MessageResponse::FileDescriptorResponse(_)), "{answers:?}");
        let request = HealthCheckRequest { service: "highwater.v1.QueryService".into() };
        let health = HealthClient::new(channel).check(request).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving);
    });
}

#[test]
fn a_plain_grpc_client_can_manage_a_query() {
    let tables = Tables::new("grpc", 2);
    tables.produce(0, 0..50);
    tables.produce(1, 50..100);
    let cluster = Highwater::start(1);
    let (name, sql) = ("g".to_string(), tables.copy("", ""));
    block_on(async {
        let mut client = QueryServiceClient::new(connect(&cluster).await);
        client.validate_query(ValidateQueryRequest { sql: sql.clone() }).await.unwrap();
        let wrong = client.validate_query(ValidateQueryRequest { sql: "SELEC 1".into() }).await.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument);
        let plan = client.explain_query(ExplainQueryRequest { sql: sql.clone() }).await.unwrap().into_inner();
        assert!(plan.plan.contains("stage"), "{}", plan.plan);
        let submit = SubmitQueryRequest { name: name.clone(), sql, replace: false, new_output: false };
        let stored = client.submit_query(submit.clone()).await.unwrap().into_inner();
        assert_eq!(client.submit_query(submit).await.unwrap_err().code(), Code::AlreadyExists);

        let follow = StreamProgressRequest { name: name.clone(), last: 1000, follow: true };
        let mut progress = client.stream_progress(follow).await.unwrap().into_inner();
        let mut rows = 0;
        while rows < 100 {
            let line = progress.next().await.unwrap().unwrap().progress_json;
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["id"], stored.query_id.as_str());
            rows += line["numInputRows"].as_u64().unwrap();
        }
        let lag = client.get_lag(GetLagRequest { name: name.clone() }).await.unwrap().into_inner();
        assert_eq!((lag.total_lag, lag.partitions.len()), (Some(0), 2));
        let status = GetQueryStatusRequest { name: name.clone() };
        let status = client.get_query_status(status).await.unwrap().into_inner().status.unwrap();
        assert_eq!((status.state(), status.executors.len()), (QueryState::Running, 1));

        client.stop_query(StopQueryRequest { name: name.clone() }).await.unwrap();
        client.start_query(StartQueryRequest { name: name.clone() }).await.unwrap();
        client.stop_query(StopQueryRequest { name: name.clone() }).await.unwrap();
        client.drop_query(DropQueryRequest { name: name.clone(), force: true, delete_progress: false }).await.unwrap();
        assert!(client.list_queries(ListQueriesRequest {}).await.unwrap().into_inner().queries.is_empty());
        let gone = client.get_lag(GetLagRequest { name }).await.unwrap_err();
        assert_eq!(gone.code(), Code::NotFound);
    });
}

#[test]
fn messages_beyond_the_limit_and_calls_beyond_their_deadline_are_refused() {
    let cluster = Highwater::start(0);
    block_on(async {
        let mut client = QueryServiceClient::new(connect(&cluster).await);
        let sql = "-".repeat(MAX_MESSAGE_BYTES + 1);
        let refused = client.validate_query(ValidateQueryRequest { sql }).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
        let mut follow = Request::new(StreamProgressRequest { name: "none".into(), last: 1, follow: true });
        follow.set_timeout(std::time::Duration::from_millis(500));
        let missing = client.stream_progress(follow).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound, "{missing}");
    });
}

#[test]
fn state_of_another_epoch_is_neither_accepted_nor_returned() {
    let cluster = Highwater::start(0);
    let query_id = uuid::Uuid::from_u128(1).to_string();
    let delta = |epoch: u64| PutStateDeltaRequest {
        query_id: query_id.clone(),
        run_id: uuid::Uuid::from_u128(2).to_string(),
        attempt: Some(Attempt { epoch, number: 1, batch_id: 0 }),
        task_id: 0,
        index: 0,
        chunk: vec![1; 10].into(),
    };
    block_on(async {
        let mut client = ClusterServiceClient::new(connect(&cluster).await);
        client.put_state_delta(tokio_stream::iter([delta(1)])).await.unwrap();
        for parts in [vec![delta(9)], vec![delta(1), delta(9)]] {
            let refused = client.put_state_delta(tokio_stream::iter(parts)).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
            assert!(refused.message().contains("epoch 9"), "{refused}");
        }
        let request = FetchStateRequest { query_id: query_id.clone(), batch_id: 0, shards: vec![0], epoch: 9 };
        let refused = client.fetch_state(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    });
}
