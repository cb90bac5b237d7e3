//! Converts between protobuf messages and the types of crate `protocol`.
//!
//! Owns: parsing and its errors (`INVALID_ARGUMENT`, naming the field). Plans and reports are sent as JSON documents of
//! `protocol`'s types, since both ends have the same version.

use crate::v1;
use highwater_protocol::error::ErrorKind;
use highwater_protocol::files::FileContent;
use highwater_protocol::ids::{AttemptId, AttemptNumber, BatchId, Epoch, ExecutorId, QueryId, RunId};
use highwater_protocol::plan::BatchPlan;
use highwater_protocol::report::TaskReport;
use std::str::FromStr;
use tonic::Status;

fn parse<T: FromStr>(field: &str, text: &str) -> Result<T, Status> {
    T::from_str(text).map_err(|_| Status::invalid_argument(format!("{field}: `{text}` is not a UUID")))
}

pub fn query_id(text: &str) -> Result<QueryId, Status> {
    parse("query_id", text)
}

/// Parses the content of a file: digest and size.
pub fn file_content(digest: &str, size_bytes: u64) -> Result<FileContent, Status> {
    Ok(FileContent { digest: parse("digest", digest)?, size_bytes })
}

pub fn run_id(text: &str) -> Result<RunId, Status> {
    parse("run_id", text)
}

pub fn executor_id(text: &str) -> Result<ExecutorId, Status> {
    parse("executor_id", text)
}

/// Parses an attempt and its batch.
pub fn attempt(message: Option<v1::Attempt>) -> Result<(AttemptId, BatchId), Status> {
    let message = message.ok_or_else(|| Status::invalid_argument("attempt: missing"))?;
    let attempt = AttemptId { epoch: Epoch(message.epoch), number: AttemptNumber(message.number) };
    Ok((attempt, BatchId(message.batch_id)))
}

pub fn attempt_to_proto(attempt: AttemptId, batch: BatchId) -> v1::Attempt {
    v1::Attempt { epoch: attempt.epoch.0, number: attempt.number.0, batch_id: batch.0 }
}

/// Encodes a plan as a JSON document.
pub fn plan_to_bytes(plan: &BatchPlan) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(plan).map_err(|error| Status::internal(format!("plan: {error}")))
}

pub fn plan_from_bytes(bytes: &[u8]) -> Result<BatchPlan, Status> {
    serde_json::from_slice(bytes).map_err(|error| Status::invalid_argument(format!("plan: {error}")))
}

/// Encodes a report as a JSON document, without the bytes of its state deltas.
pub fn report_to_bytes(report: &TaskReport) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(report).map_err(|error| Status::internal(format!("report: {error}")))
}

pub fn report_from_bytes(bytes: &[u8]) -> Result<TaskReport, Status> {
    serde_json::from_slice(bytes).map_err(|error| Status::invalid_argument(format!("report: {error}")))
}

pub fn error_kind(kind: v1::TroubleKind) -> ErrorKind {
    match kind {
        v1::TroubleKind::Fix => ErrorKind::Fix,
        v1::TroubleKind::Fatal => ErrorKind::Fatal,
        v1::TroubleKind::Fenced => ErrorKind::Fenced,
        v1::TroubleKind::Retry | v1::TroubleKind::Unspecified => ErrorKind::Retry,
    }
}

pub fn trouble_kind(kind: ErrorKind) -> v1::TroubleKind {
    match kind {
        ErrorKind::Retry => v1::TroubleKind::Retry,
        ErrorKind::Fix => v1::TroubleKind::Fix,
        ErrorKind::Fatal => v1::TroubleKind::Fatal,
        ErrorKind::Fenced => v1::TroubleKind::Fenced,
    }
}
