//! gRPC `QueryService`: the public calls, each a few lines on top of `Queries`.
//!
//! Owns: the wire side of queries. Does not own: their life (`queries`, `runner`).

use crate::error::DriverError;
use crate::monitor;
use crate::queries::{Entry, Queries, compile};
use crate::status::status_of;
use crate::submit::{Submission, submit};
use highwater_proto::v1::query_service_server::QueryService;
use highwater_proto::v1::{self, StreamProgressResponse};
use highwater_protocol::query::RunState;
use highwater_security::guard;
use highwater_security::tokens::Role;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(crate) struct QueryApi {
    pub queries: Queries,
}

#[tonic::async_trait]
impl QueryService for QueryApi {
    async fn submit_query(
        &self,
        request: Request<v1::SubmitQueryRequest>,
    ) -> Result<Response<v1::SubmitQueryResponse>, Status> {
        if request.get_ref().replace {
            // Replacing deletes a query and its checkpoint, as DropQuery does.
            guard::caller(&request)?.needs(Role::Admin, "SubmitQuery with replace").map_err(Status::from)?;
        }
        let request = request.into_inner();
        let submission = Submission {
            name: request.name,
            sql: request.sql,
            replace: request.replace,
            new_output: request.new_output,
        };
        let (id, warnings) = submit(&self.queries, submission).await?;
        Ok(Response::new(v1::SubmitQueryResponse { query_id: id.to_string(), warnings }))
    }

    async fn validate_query(
        &self,
        request: Request<v1::ValidateQueryRequest>,
    ) -> Result<Response<v1::ValidateQueryResponse>, Status> {
        let compiled = self.queries.compile(request.into_inner().sql).await?;
        Ok(Response::new(v1::ValidateQueryResponse { warnings: compiled.warnings.clone() }))
    }

    async fn explain_query(
        &self,
        request: Request<v1::ExplainQueryRequest>,
    ) -> Result<Response<v1::ExplainQueryResponse>, Status> {
        let compiled = compile(request.into_inner().sql).await?;
        Ok(Response::new(v1::ExplainQueryResponse {
            plan: compiled.explain_text(),
            plan_json: compiled.explain_json().to_string(),
            warnings: compiled.warnings,
        }))
    }

    async fn list_queries(
        &self,
        _: Request<v1::ListQueriesRequest>,
    ) -> Result<Response<v1::ListQueriesResponse>, Status> {
        let mut queries = Vec::new();
        for entry in self.queries.all() {
            queries.push(status_of(&self.queries, &entry).await);
        }
        Ok(Response::new(v1::ListQueriesResponse { queries }))
    }

    async fn get_query_status(
        &self,
        request: Request<v1::GetQueryStatusRequest>,
    ) -> Result<Response<v1::GetQueryStatusResponse>, Status> {
        let entry = self.queries.get(&request.into_inner().name)?;
        let status = Some(status_of(&self.queries, &entry).await);
        Ok(Response::new(v1::GetQueryStatusResponse { status }))
    }

    type StreamProgressStream = ReceiverStream<Result<StreamProgressResponse, Status>>;

    async fn stream_progress(
        &self,
        request: Request<v1::StreamProgressRequest>,
    ) -> Result<Response<Self::StreamProgressStream>, Status> {
        let request = request.into_inner();
        let entry = self.queries.get(&request.name)?;
        let (sender, receiver) = mpsc::channel(64);
        let queries = self.queries.clone();
        tokio::spawn(async move {
            // The client may disconnect at any time, which ends the stream.
            let _ = send_progress(&queries, entry, request, &sender).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_lag(&self, request: Request<v1::GetLagRequest>) -> Result<Response<v1::GetLagResponse>, Status> {
        let entry = self.queries.get(&request.into_inner().name)?;
        let positions = committed_positions(&self.queries, &entry).await?;
        let compiled = entry.compiled()?.clone();
        let partitions = tokio::task::spawn_blocking(move || monitor::lag(&compiled, &positions))
            .await
            .map_err(DriverError::from)?;
        let total_lag = partitions.iter().map(|partition| partition.lag).sum::<Option<i64>>();
        Ok(Response::new(v1::GetLagResponse { total_lag, partitions, name: entry.spec.name }))
    }

    async fn stop_query(
        &self,
        request: Request<v1::StopQueryRequest>,
    ) -> Result<Response<v1::StopQueryResponse>, Status> {
        self.queries.stop(&request.into_inner().name).await?;
        Ok(Response::new(v1::StopQueryResponse {}))
    }

    async fn start_query(
        &self,
        request: Request<v1::StartQueryRequest>,
    ) -> Result<Response<v1::StartQueryResponse>, Status> {
        self.queries.start(&request.into_inner().name).await?;
        Ok(Response::new(v1::StartQueryResponse {}))
    }

    async fn drop_query(
        &self,
        request: Request<v1::DropQueryRequest>,
    ) -> Result<Response<v1::DropQueryResponse>, Status> {
        let request = request.into_inner();
        self.queries.drop_query(&request.name, request.force, request.delete_progress).await?;
        Ok(Response::new(v1::DropQueryResponse {}))
    }
}

type ProgressSender = mpsc::Sender<Result<StreamProgressResponse, Status>>;

async fn send_progress(
    queries: &Queries,
    entry: Entry,
    request: v1::StreamProgressRequest,
    sender: &ProgressSender,
) -> Result<(), mpsc::error::SendError<Result<StreamProgressResponse, Status>>> {
    let document = |progress: &highwater_protocol::query_progress::StreamingQueryProgress| StreamProgressResponse {
        progress_json: serde_json::to_string(progress).unwrap_or_default(),
        ended: None,
    };
    let (past, mut live) = entry.progress.tail(request.last as usize);
    for progress in past {
        sender.send(Ok(document(&progress))).await?;
    }
    if !request.follow {
        return Ok(());
    }
    let mut view = match &entry.run {
        Some(run) => run.view.clone(),
        None => return send_end(queries, &entry.spec.name, sender).await,
    };
    let ended = async move {
        let _ = view.wait_for(|view| matches!(view.state, RunState::Ended(_))).await;
    };
    tokio::pin!(ended);
    loop {
        tokio::select! {
            biased;
            progress = live.recv() => match progress {
                Ok(progress) => sender.send(Ok(document(&progress))).await?,
                // A slow reader misses batches; it does not delay the query.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return send_end(queries, &entry.spec.name, sender).await,
            },
            () = &mut ended => return send_end(queries, &entry.spec.name, sender).await,
            () = sender.closed() => return Ok(()),
        }
    }
}

/// Sends the last message of a followed query: how it ended.
async fn send_end(
    queries: &Queries,
    name: &str,
    sender: &ProgressSender,
) -> Result<(), mpsc::error::SendError<Result<StreamProgressResponse, Status>>> {
    let message = match queries.get(name) {
        Ok(entry) => {
            Ok(StreamProgressResponse { progress_json: String::new(), ended: Some(status_of(queries, &entry).await) })
        }
        Err(error) => Err(error.into()),
    };
    sender.send(message).await
}

/// Returns the positions after the last committed batch, whether the query runs or not.
async fn committed_positions(
    queries: &Queries,
    entry: &Entry,
) -> Result<highwater_protocol::offsets::Positions, DriverError> {
    if let Some(run) = &entry.run {
        return Ok(run.view.borrow().positions.clone());
    }
    let (store, id) = (queries.store(), entry.spec.id);
    let head = tokio::task::spawn_blocking(move || store.latest(id)).await??;
    Ok(head.map_or_else(|| entry.spec.start_positions.clone(), |head| head.record.positions))
}
