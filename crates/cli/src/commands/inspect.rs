//! `ls`, `status`, `lag`: the current state of queries.

use crate::cli::NameArgs;
use crate::client::{LOOK, request};
use crate::context::Context;
use crate::failure::Failure;
use crate::{follow, json, status_page, table};
use highwater_proto::v1::{GetLagRequest, GetQueryStatusRequest, ListQueriesRequest, StreamProgressRequest};
use serde_json::Value;

pub async fn ls(context: &Context) -> Result<(), Failure> {
    let call = |mut client: crate::client::Client| async move {
        client.list_queries(request(ListQueriesRequest {}, LOOK)).await
    };
    let queries = context.driver()?.call(call).await?.queries;
    context.show(|| json::list(&queries), || table::list(&queries))
}

pub async fn status(args: NameArgs, context: &Context) -> Result<(), Failure> {
    let name = args.name.as_str();
    let call = |mut client: crate::client::Client| async move {
        client.get_query_status(request(GetQueryStatusRequest { name: name.to_string() }, LOOK)).await
    };
    let status = context.driver()?.call(call).await?.status.unwrap_or_default();
    if context.global.json {
        return context.show(|| json::status(&status), String::new);
    }
    let progress = last_progress(context, name).await?;
    let text = || status_page::page(&status, progress.as_ref(), table::terminal_width());
    context.show(|| json::status(&status), text)
}

/// Progress of the last batch that this driver has seen committed; `None` if there is none.
async fn last_progress(context: &Context, name: &str) -> Result<Option<Value>, Failure> {
    let call = |mut client: crate::client::Client| async move {
        let asked = StreamProgressRequest { name: name.to_string(), last: 1, follow: false };
        client.stream_progress(request(asked, LOOK)).await
    };
    let mut stream = context.driver()?.call(call).await?;
    let mut last = None;
    while let Some(message) = stream.message().await? {
        last = follow::parse(&message.progress_json)?.map(|batch| batch.document).or(last);
    }
    Ok(last)
}

pub async fn lag(args: NameArgs, context: &Context) -> Result<(), Failure> {
    let name = args.name.as_str();
    let call = |mut client: crate::client::Client| async move {
        client.get_lag(request(GetLagRequest { name: name.to_string() }, LOOK)).await
    };
    let lag = context.driver()?.call(call).await?;
    context.show(|| json::lag(&lag), || table::lag(&lag))
}
