//! The HTTP side, for scripts and metrics: health, Prometheus metrics, queries as JSON.
//!
//! Owns: routes. Does not own: anything it shows.

use crate::error::DriverError;
use crate::query_service::QueryApi;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use highwater_proto::json;
use highwater_proto::v1;
use highwater_proto::v1::query_service_server::QueryService;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tonic::Request;

#[derive(Clone)]
pub(crate) struct HttpState {
    pub api: QueryApi,
    pub metrics: PrometheusHandle,
}

/// `/health`, `/metrics`, `/api/v1/queries`, `/api/v1/queries/{name}/{status,lag,progress}`.
pub(crate) fn router(state: HttpState) -> Router {
    Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/metrics", get(|State(state): State<HttpState>| async move { state.metrics.render() }))
        .route("/api/v1/queries", get(list))
        .route("/api/v1/queries/{name}/status", get(status))
        .route("/api/v1/queries/{name}/lag", get(lag))
        .route("/api/v1/queries/{name}/progress", get(progress))
        .with_state(state)
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
