//! `ls`, `status`, `lag`: what the driver says about queries now.

use crate::cli::NameArgs;
use crate::client::{LOOK, request};
use crate::commands::Context;
use crate::failure::Failure;
use crate::{json, table};
use highwater_proto::v1::{GetLagRequest, GetQueryStatusRequest, ListQueriesRequest};

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
    context.show(|| json::status(&status), || table::status(&status))
}

pub async fn lag(args: NameArgs, context: &Context) -> Result<(), Failure> {
    let name = args.name.as_str();
    let call = |mut client: crate::client::Client| async move {
        client.get_lag(request(GetLagRequest { name: name.to_string() }, LOOK)).await
    };
    let lag = context.driver()?.call(call).await?;
    context.show(|| json::lag(&lag), || table::lag(&lag))
}
