//! gRPC `ExchangeService`: takes the batches other executors send.
//!
//! Owns: the wire side of receiving. Does not own: inboxes (`exchange`).

use super::{Admission, Exchange};
use crate::error::TaskError;
use arrow_ipc::reader::StreamReader;
use highwater_core::ids::{EdgeId, TaskId};
use highwater_engine::delta::DeltaBatch;
use highwater_proto::convert;
use highwater_proto::v1::exchange_service_server::ExchangeService;
use highwater_proto::v1::{PushBatchesRequest, PushBatchesResponse};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

/// How long a sender's attempt may be unknown here before the sender is told to give up.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);

pub struct ExchangeApi {
    pub exchange: Exchange,
}

#[tonic::async_trait]
impl ExchangeService for ExchangeApi {
    async fn push_batches(
        &self,
        request: Request<Streaming<PushBatchesRequest>>,
    ) -> Result<Response<PushBatchesResponse>, Status> {
        let mut incoming = request.into_inner();
        let mut admitted = None;
        let mut next: BTreeMap<(EdgeId, TaskId, TaskId), u64> = BTreeMap::new();
        while let Some(message) = incoming.next().await {
            let message = message?;
            let query = convert::query_id(&message.query_id)?;
            let (attempt, _) = convert::attempt(message.attempt)?;
            let inboxes = match &admitted {
                Some((known, inboxes)) if *known == (query, attempt) => inboxes,
                _ => {
                    let admission = tokio::time::timeout(ADMISSION_TIMEOUT, self.exchange.admit(query, attempt)).await;
                    match admission {
                        Ok(Admission::Current(inboxes)) => &admitted.insert(((query, attempt), inboxes)).1,
                        Ok(Admission::Stale) => {
                            return Err(Status::failed_precondition(format!("attempt {attempt} is over here")));
                        }
                        // Not "unavailable": that is what a broken way says.
                        Err(_) => return Err(Status::aborted(format!("attempt {attempt} did not start here"))),
                    }
                }
            };
            let (edge, from, to) = (EdgeId(message.edge_id), TaskId(message.from_task), TaskId(message.to_task));
            let expected = next.entry((edge, from, to)).or_default();
            if message.sequence != *expected {
                return Err(Status::data_loss(format!(
                    "message {} of task {from} came, {expected} was due",
                    message.sequence
                )));
            }
            *expected += 1;
            for rows in decode(&message.arrow_ipc)? {
                inboxes.push(to, (edge, from), rows).map_err(refused)?;
            }
            if let Some(rows) = message.end_rows {
                inboxes.end(to, (edge, from), rows).map_err(refused)?;
            }
        }
        Ok(Response::new(PushBatchesResponse {}))
    }
}

fn refused(error: TaskError) -> Status {
    Status::failed_precondition(error.to_string())
}

fn decode(bytes: &[u8]) -> Result<Vec<DeltaBatch>, Status> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let damaged = |error: &dyn std::fmt::Display| Status::data_loss(format!("not an Arrow IPC stream: {error}"));
    let reader = StreamReader::try_new(bytes, None).map_err(|error| damaged(&error))?;
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(&error))?;
        batches.push(DeltaBatch::from_wire(batch).map_err(|error| damaged(&error))?);
    }
    Ok(batches)
}
