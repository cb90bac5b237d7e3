//! Fuzzing of the wire format: arbitrary bytes as each message, and conversions of their fields.
//!
//! Checks that nothing panics, and that a message that was read is the same after writing and reading it again.

use crate::{convert, v1};
use highwater_protocol::plan::BatchPlan;
use highwater_protocol::report::TaskReport;
use prost::Message;
use prost_types::FileDescriptorSet;
use std::collections::BTreeSet;

fn again<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let written = message.encode_to_vec();
    assert_eq!(M::decode(written.as_slice()).as_ref(), Ok(&message));
    Some(message)
}

/// Every message that a driver or an executor receives, by name.
macro_rules! requests {
    ($($name:ident),* $(,)?) => {
        const REQUESTS: &[&str] = &[$(stringify!($name)),*];

        fn read_all(bytes: &[u8]) {
            $(let _ = again::<v1::$name>(bytes);)*
        }
    };
}

requests!(
    RegisterExecutorRequest,
    RenewLeaseRequest,
    StreamTasksRequest,
    FetchStateRequest,
    FetchFileRequest,
    PutStateDeltaRequest,
    PushBatchesRequest,
    SubmitQueryRequest,
    ValidateQueryRequest,
    ExplainQueryRequest,
    ListQueriesRequest,
    GetQueryStatusRequest,
    StreamProgressRequest,
    GetLagRequest,
    StopQueryRequest,
    StartQueryRequest,
    DropQueryRequest,
    // What an executor receives over the stream that it opens.
    StreamTasksResponse,
);

/// Converts the fields of messages as driver and executors do before they act on them.
fn convert_all(bytes: &[u8]) {
    read_all(bytes);
    if let Some(request) = again::<v1::StreamTasksRequest>(bytes) {
        use v1::stream_tasks_request::Message;
        match request.message {
            Some(Message::Hello(hello)) => {
                let _ = convert::executor_id(&hello.executor_id);
            }
            Some(Message::TaskDone(done)) => {
                let _ = (convert::attempt(done.attempt), convert::report_from_bytes(&done.report));
            }
            Some(Message::TaskFailed(failed)) => {
                let _ = (convert::attempt(failed.attempt), convert::error_kind(failed.kind()));
            }
            _ => {}
        }
    }
    if let Some(response) = again::<v1::StreamTasksResponse>(bytes)
        && let Some(v1::stream_tasks_response::Message::RunTasks(tasks)) = response.message
    {
        let _ = (
            convert::query_id(&tasks.query_id),
            convert::attempt(tasks.attempt),
            convert::plan_from_bytes(&tasks.plan),
        );
    }
    if let Some(batches) = again::<v1::PushBatchesRequest>(bytes) {
        let _ = (convert::query_id(&batches.query_id), convert::attempt(batches.attempt));
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = (convert::query_id(&text), convert::run_id(&text), convert::executor_id(&text));
    check_documents(bytes);
}

/// Plans and reports are JSON documents within a message.
fn check_documents(bytes: &[u8]) {
    if let Ok(plan) = convert::plan_from_bytes(bytes) {
        let written = convert::plan_to_bytes(&plan).unwrap();
        assert_eq!(convert::plan_from_bytes(&written).unwrap(), plan);
    }
    if let Ok(report) = convert::report_from_bytes(bytes) {
        let written = convert::report_to_bytes(&report).unwrap();
        assert_eq!(convert::report_from_bytes(&written).unwrap(), report);
    }
}

/// Returns the bytes with some of them changed, left out or repeated.
fn edited(bytes: &[u8], edits: &[(u16, u8, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, what, byte) in edits {
        let place = usize::from(*place) % (bytes.len() + 1);
        match what % 4 {
            0 => bytes.insert(place, *byte),
            1 if place < bytes.len() => bytes[place] = *byte,
            2 if place < bytes.len() => drop(bytes.remove(place)),
            _ => {
                let part = bytes[place..].iter().copied().take(usize::from(*what)).collect::<Vec<_>>();
                bytes.splice(place..place, part);
            }
        }
    }
    bytes
}

fn messages() -> Vec<Vec<u8>> {
    let attempt = Some(v1::Attempt { epoch: 3, number: 1, batch_id: 7 });
    let id = "0190c5d2-7a3e-7000-8000-000000000001".to_string();
    let plan = br#"{"batch":1,"timestamp_ms":5,"ranges":[],"late_before":{},"close_before":{"0":-1},"tasks":[]}"#;
    let report = convert::report_to_bytes(&TaskReport::default()).unwrap();
    let done = v1::TaskDone { query_id: id.clone(), attempt, report: report.into(), ..Default::default() };
    let tasks = v1::RunTasks { query_id: id.clone(), attempt, plan: plan.to_vec().into(), ..Default::default() };
    let hello = v1::Hello { executor_id: id.clone(), epoch: 3 };
    let sent = |message| v1::StreamTasksRequest { message: Some(message) }.encode_to_vec();
    vec![
        sent(v1::stream_tasks_request::Message::Hello(hello)),
        sent(v1::stream_tasks_request::Message::TaskDone(done)),
        v1::StreamTasksResponse {
            message: Some(v1::stream_tasks_response::Message::RunTasks(tasks)),
            ..Default::default()
        }
        .encode_to_vec(),
        v1::PushBatchesRequest { query_id: id.clone(), attempt, edge_id: 1, end_rows: Some(9), ..Default::default() }
            .encode_to_vec(),
        v1::SubmitQueryRequest { name: "q".into(), sql: "SET a = 'b';".into(), ..Default::default() }.encode_to_vec(),
        plan.to_vec(),
        convert::report_to_bytes(&TaskReport::default()).unwrap(),
    ]
}

#[test]
fn fuzz_messages_of_any_bytes() {
    bolero::check!().for_each(convert_all);
}

#[test]
fn fuzz_messages_that_are_nearly_valid() {
    let messages = messages();
    bolero::check!().with_type::<(u8, Vec<(u16, u8, u8)>)>().for_each(|(message, edits)| {
        convert_all(&edited(&messages[usize::from(*message) % messages.len()], edits));
    });
}

#[test]
fn the_messages_are_valid_before_they_are_edited() {
    let messages = messages();
    let plan: BatchPlan = convert::plan_from_bytes(&messages[5]).unwrap();
    assert_eq!(plan.timestamp_ms, 5);
    assert!(convert::report_from_bytes(&messages[6]).is_ok());
    assert!(matches!(again::<v1::StreamTasksResponse>(&messages[2]), Some(response) if response.message.is_some()));
}

/// Fails if the request of a new RPC is not fuzzed.
#[test]
fn every_request_is_read() {
    let files = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
    let services = files.file.iter().filter(|file| file.package() == "highwater.v1").flat_map(|file| &file.service);
    let asked = services
        .flat_map(|service| &service.method)
        .map(|method| method.input_type().rsplit('.').next().unwrap_or_default().to_string());
    let missing: BTreeSet<String> = asked.filter(|name| !REQUESTS.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "not in REQUESTS: {missing:?}");
}
