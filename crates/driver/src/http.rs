//! The HTTP server, for scripts and metrics: health, Prometheus metrics, queries as JSON.
//!
//! Owns: routes. Does not own: the data it shows, or who may see it (`highwater_security`).

use crate::error::DriverError;
use crate::query_service::QueryApi;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, MatchedPath, Path, Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use highwater_proto::json;
use highwater_proto::v1;
use highwater_proto::v1::query_service_server::QueryService;
use highwater_security::access::Access;
use highwater_security::guard::{Authority, Refusal};
use highwater_security::incoming::Incoming;
use highwater_security::stream::{Peer, Stream};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::Request;

#[derive(Clone)]
pub(crate) struct HttpState {
    pub api: QueryApi,
    pub metrics: PrometheusHandle,
    pub access: Access,
}

/// Serves until `stop` is cancelled.
pub(crate) async fn serve(state: HttpState, incoming: Incoming, stop: CancellationToken) -> std::io::Result<()> {
    let service = router(state).into_make_service_with_connect_info::<HttpPeer>();
    axum::serve(Connections(incoming), service).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// `/health`, `/metrics`, `/api/v1/queries`, `/api/v1/queries/{name}/{status,lag,progress}`.
fn router(state: HttpState) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/metrics", get(|State(state): State<HttpState>| async move { state.metrics.render() }))
        .route("/api/v1/queries", get(list))
        .route("/api/v1/queries/{name}/status", get(status))
        .route("/api/v1/queries/{name}/lag", get(lag))
        .route("/api/v1/queries/{name}/progress", get(progress))
        .route_layer(middleware::from_fn_with_state(state.access.clone(), guard))
        .with_state(state)
}

/// Admits a request if the rule of its route allows it.
async fn guard(
    State(access): State<Access>,
    ConnectInfo(HttpPeer(peer)): ConnectInfo<HttpPeer>,
    route: MatchedPath,
    request: HttpRequest,
    next: Next,
) -> Response {
    match access.admit(route.as_str(), request.headers(), peer) {
        Ok(_) => next.run(request).await,
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Response {
    metrics::counter!("highwater_calls_refused_total").increment(1);
    let body = Json(json!({ "error": refusal.message() }));
    match refusal {
        Refusal::Unauthenticated(_) => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response()
        }
        Refusal::Denied(_) => (StatusCode::FORBIDDEN, body).into_response(),
    }
}

/// Adapts incoming connections to axum.
struct Connections(Incoming);

impl Listener for Connections {
    type Io = Stream;
    type Addr = ();

    async fn accept(&mut self) -> (Stream, ()) {
        match self.0.next().await {
            Some(stream) => (stream, ()),
            // The server is stopping.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
struct HttpPeer(Peer);

impl Connected<IncomingStream<'_, Connections>> for HttpPeer {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> Self {
        Self(stream.io().peer())
    }
}

struct HttpError(tonic::Status);

impl From<tonic::Status> for HttpError {
    fn from(status: tonic::Status) -> Self {
        Self(status)
    }
}

impl From<DriverError> for HttpError {
    fn from(error: DriverError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let code = match self.0.code() {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
            tonic::Code::AlreadyExists | tonic::Code::FailedPrecondition => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(json!({ "error": self.0.message() }))).into_response()
    }
}

async fn list(State(state): State<HttpState>) -> Result<Json<Value>, HttpError> {
    let answer = state.api.list_queries(Request::new(v1::ListQueriesRequest {})).await?.into_inner();
    Ok(Json(answer.queries.iter().map(json::status).collect()))
}

async fn status(State(state): State<HttpState>, Path(name): Path<String>) -> Result<Json<Value>, HttpError> {
    let request = Request::new(v1::GetQueryStatusRequest { name });
    let answer = state.api.get_query_status(request).await?.into_inner();
    Ok(Json(answer.status.as_ref().map(json::status).unwrap_or(Value::Null)))
}

async fn lag(State(state): State<HttpState>, Path(name): Path<String>) -> Result<Json<Value>, HttpError> {
    let answer = state.api.get_lag(Request::new(v1::GetLagRequest { name })).await?.into_inner();
    Ok(Json(json::lag(&answer)))
}

async fn progress(State(state): State<HttpState>, Path(name): Path<String>) -> Result<Json<Value>, HttpError> {
    let entry = state.api.queries.get(&name)?;
    let (past, _) = entry.progress.tail(usize::MAX);
    let documents: Vec<Value> = past.iter().filter_map(|progress| serde_json::to_value(progress).ok()).collect();
    Ok(Json(Value::Array(documents)))
}
