//! gRPC `ExchangeService`: receives the batches that other executors send.
//!
//! Owns: the wire side of receiving. Does not own: inboxes (`exchange`).

use super::{Admission, Exchange};
use crate::error::TaskError;
use arrow_ipc::reader::StreamReader;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_proto::convert;
use highwater_proto::v1::exchange_service_server::ExchangeService;
use highwater_proto::v1::{PushBatchesRequest, PushBatchesResponse};
use highwater_protocol::error::ErrorKind;
use highwater_protocol::ids::{EdgeId, TaskId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

/// How long a sender's attempt may be unknown here before its call fails.
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
                            return Err(Status::failed_precondition(format!(
                                "attempt {attempt} is over on this executor"
                            )));
                        }
                        // Not `unavailable`, which means a broken connection.
                        Err(_) => {
                            return Err(Status::aborted(format!("attempt {attempt} did not start on this executor")));
                        }
                    }
                }
            };
            let (edge, from, to) = (EdgeId(message.edge_id), TaskId(message.from_task), TaskId(message.to_task));
            let expected = next.entry((edge, from, to)).or_default();
            if message.sequence != *expected {
                return Err(Status::data_loss(format!(
                    "message {} of task {from} arrived, but message {expected} was expected",
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

/// An error that a new attempt cannot fix has its own status code.
fn refused(error: TaskError) -> Status {
    match error.kind() {
        ErrorKind::Fix => Status::resource_exhausted(error.to_string()),
        _ => Status::failed_precondition(error.to_string()),
    }
}

/// Decodes the rows of a message. Arrow's reader trusts the lengths in a message, and panics if they are wrong.
fn decode(bytes: &[u8]) -> Result<Vec<ChangeBatch>, Status> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    std::panic::catch_unwind(|| read(bytes)).unwrap_or_else(|_| Err(damaged(&"its lengths are wrong")))
}

fn damaged(error: &dyn std::fmt::Display) -> Status {
    Status::data_loss(format!("not an Arrow IPC stream: {error}"))
}

fn read(bytes: &[u8]) -> Result<Vec<ChangeBatch>, Status> {
    let reader = StreamReader::try_new(bytes, None).map_err(|error| damaged(&error))?;
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(&error))?;
        batches.push(ChangeBatch::from_wire(batch).map_err(|error| damaged(&error))?);
    }
    Ok(batches)
}

#[cfg(test)]
mod fuzz {
    use super::decode;
    use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
    use arrow::datatypes::Int32Type;
    use arrow_ipc::writer::StreamWriter;
    use std::sync::Arc;

    /// Rows as a sender encodes them.
    fn stream() -> Vec<u8> {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let columns: [(&str, ArrayRef); 3] = [
            ("n", Arc::new(Int64Array::from(vec![Some(1), None]))),
            ("s", Arc::new(StringArray::from(vec!["a", "bc"]))),
            ("l", Arc::new(lists)),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    /// If bytes are accepted as rows, all values of the rows can be read.
    fn check(bytes: &[u8]) {
        for rows in decode(bytes).into_iter().flatten() {
            let _ = format!("{:?}", rows.batch);
        }
    }

    #[test]
    fn fuzz_batches_of_any_bytes() {
        bolero::check!().for_each(check);
    }

    #[test]
    fn fuzz_batches_that_are_nearly_right() {
        let whole = stream();
        assert_eq!(decode(&whole).unwrap()[0].num_rows(), 2);
        bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|edits| {
            let mut bytes = whole.clone();
            for (place, byte) in edits {
                let place = usize::from(*place) % bytes.len();
                bytes[place] = *byte;
            }
            check(&bytes);
            check(&bytes[..edits.first().map_or(0, |(place, _)| usize::from(*place) % bytes.len())]);
        });
    }
}
