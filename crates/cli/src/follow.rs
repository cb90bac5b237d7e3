//! Following a query batch by batch, across restarts of its driver.
//!
//! Owns: the stream, reconnecting, leaving out batches already seen. Does not own: how batches are shown.
//! Invariant: a follow ends with the query's end, its removal or the caller; it survives a driver that is away.

use crate::client::{Driver, NoConnection};
use crate::failure::Failure;
use crate::output;
use crate::totals::Totals;
use highwater_proto::v1::{
    GetQueryStatusRequest, QueryState, QueryStatus, StreamProgressRequest, StreamProgressResponse,
};
use serde_json::Value;
use std::time::Duration;
use tonic::{Code, Status, Streaming};

/// Pause between two attempts to reach a driver that is away.
const PAUSE: Duration = Duration::from_millis(250);

/// One micro-batch's progress, as text and parsed.
#[derive(Clone, Debug)]
pub struct Batch {
    pub text: String,
    pub document: Value,
}

/// An event for the follower.
#[derive(Debug)]
pub enum News {
    Batch(Batch),
    /// The driver is away; the follow waits for its return.
    Away(String),
    /// The driver is back.
    Back,
}

/// Follows the query `name`, beginning with its `last` batches, until it ends. Returns its final status.
pub async fn follow<F>(driver: &Driver, name: &str, last: u32, mut tell: F) -> Result<QueryStatus, Failure>
where
    F: FnMut(News) -> Result<(), Failure>,
{
    // The first connection has the patience of every command; later ones wait for as long as it takes.
    let mut stream = Some(driver.call(|mut client| async move { open(&mut client, name, last).await }).await?);
    let mut seen: Option<u64> = None;
    loop {
        let reason = match stream.take() {
            Some(open) => match read(open, &mut seen, &mut tell).await? {
                Ended::With(status) => return Ok(status),
                Ended::Broken(reason) => reason,
            },
            None => String::new(),
        };
        if !reason.is_empty() {
            tell(News::Away(reason))?;
        }
        stream = reconnect(driver, name, seen).await?;
        if stream.is_some() {
            tell(News::Back)?;
        } else {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

enum Ended {
    With(QueryStatus),
    Broken(String),
}

async fn open(
    client: &mut crate::client::Client,
    name: &str,
    last: u32,
) -> Result<tonic::Response<Streaming<StreamProgressResponse>>, Status> {
    client.stream_progress(StreamProgressRequest { name: name.to_string(), last, follow: true }).await
}

/// Reads one stream to its end.
async fn read<F>(
    mut stream: Streaming<StreamProgressResponse>,
    seen: &mut Option<u64>,
    tell: &mut F,
) -> Result<Ended, Failure>
where
    F: FnMut(News) -> Result<(), Failure>,
{
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                if let Some(batch) = parse(&message.progress_json)? {
                    let id = batch.document.get("batchId").and_then(Value::as_u64);
                    if id.is_none() || id > *seen {
                        *seen = id.max(*seen);
                        tell(News::Batch(batch))?;
                    }
                }
                if let Some(status) = message.ended {
                    return Ok(Ended::With(status));
                }
            }
            Ok(None) => return Ok(Ended::Broken("it closed the stream".to_string())),
            Err(status) if passing(&status) => return Ok(Ended::Broken(status.message().to_string())),
            Err(status) => return Err(status.into()),
        }
    }
}

/// Tries once to follow again; `None` while the driver is away.
async fn reconnect(
    driver: &Driver,
    name: &str,
    seen: Option<u64>,
) -> Result<Option<Streaming<StreamProgressResponse>>, Failure> {
    let mut client = match driver.connect().await {
        Ok(client) => client,
        Err(NoConnection::Away(_)) => return Ok(None),
        Err(NoConnection::Refused(reason)) => return Err(driver.refused(&reason)),
    };
    // Batches may have been committed meanwhile: asks for as many as were missed.
    let missed = match client.get_query_status(GetQueryStatusRequest { name: name.to_string() }).await {
        Ok(response) => {
            let newest = response.into_inner().status.and_then(|status| status.batch_id);
            newest.map_or(0, |newest| seen.map_or(newest + 1, |seen| newest.saturating_sub(seen)))
        }
        Err(status) if passing(&status) => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    match open(&mut client, name, u32::try_from(missed).unwrap_or(u32::MAX)).await {
        Ok(response) => Ok(Some(response.into_inner())),
        Err(status) if passing(&status) => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// True if the driver died, was shut down or is recovering, so that the status says nothing about the query.
fn passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted)
}

/// Parses one progress document; `None` for empty text, since a message may only report that the query ended.
pub fn parse(text: &str) -> Result<Option<Batch>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(document) => Ok(Some(Batch { text: document.to_string(), document })),
        Err(error) => Err(Failure::failed(format!("the driver sent a progress document that is not JSON: {error}"))),
    }
}

/// Turns the end of a query into the result of the command that waited for it.
pub fn outcome(status: &QueryStatus) -> Result<(), Failure> {
    let name = &status.name;
    let reason = if status.message.is_empty() { "no reason is known" } else { status.message.as_str() };
    match status.state() {
        QueryState::Finished => Ok(()),
        QueryState::Stopped => Err(Failure::failed(format!("query {name} was stopped: {reason}"))),
        _ => Err(Failure::failed(format!("query {name} failed: {reason}"))),
    }
}

/// Follows a query to its end, with a line on stderr; ^C leaves it running.
pub async fn wait(driver: &Driver, name: &str) -> Result<QueryStatus, Failure> {
    tokio::select! {
        ended = wait_quietly(driver, name) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted(format!(
            "detached: query {name} keeps running; follow it with `highwater progress {name} --follow`, stop it with \
             `highwater stop {name}`"
        ))),
    }
}

/// Follows a query to its end, with a line on stderr; leaves signals to the caller.
pub async fn wait_quietly(driver: &Driver, name: &str) -> Result<QueryStatus, Failure> {
    let bar = ClearOnDrop(output::spinner(format!("{name}: starting")));
    let mut totals = Totals::default();
    let away = format!("the driver at {} is away; waiting for it to return", driver.url());
    follow(driver, name, 1, |news| {
        match news {
            News::Batch(batch) => totals.add(&batch.document),
            News::Away(reason) => {
                tracing::debug!(reason, "driver away");
                if bar.0.is_hidden() {
                    output::note(&away);
                }
                bar.0.set_message(away.clone());
                return Ok(());
            }
            News::Back if bar.0.is_hidden() => output::note("the driver is back"),
            News::Back => {}
        }
        bar.0.set_message(format!("{name}: {totals}"));
        Ok(())
    })
    .await
}

/// Clears the line, also when the future is dropped.
struct ClearOnDrop(indicatif::ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(state: QueryState, message: &str) -> QueryStatus {
        QueryStatus { name: "q".into(), state: state.into(), message: message.into(), ..QueryStatus::default() }
    }

    #[test]
    fn only_a_finished_query_is_success() {
        assert_eq!(outcome(&ended(QueryState::Finished, "")), Ok(()));
        let failed = outcome(&ended(QueryState::Failed, "bad record in t-0 at offset 7")).unwrap_err();
        assert_eq!(failed.exit_code(), 1);
        assert_eq!(failed.message().unwrap(), "error: query q failed: bad record in t-0 at offset 7");
        assert_eq!(outcome(&ended(QueryState::Stopped, "")).unwrap_err().exit_code(), 1);
    }

    #[test]
    fn a_document_is_one_line() {
        let batch = parse("{\n \"batchId\": 3\n}").unwrap().unwrap();
        assert_eq!(batch.text, r#"{"batchId":3}"#);
        assert!(parse("").unwrap().is_none());
        assert!(parse("not json").is_err());
    }
}
