//! `stop`, `start`, `drop`: changes to a stored query.

use crate::cli::{DropArgs, NameArgs, StartArgs};
use crate::client::{CHANGE, Client, LOOK, request};
use crate::context::Context;
use crate::failure::Failure;
use crate::{follow, json, output};
use highwater_proto::v1::{DropQueryRequest, StartQueryRequest, StopQueryRequest};
use serde_json::json;

pub async fn stop(args: NameArgs, context: &Context) -> Result<(), Failure> {
    let name = args.name.as_str();
    let bar = output::spinner(format!("stopping {name} after the batch in flight"));
    let call = |mut client: Client| async move {
        client.stop_query(request(StopQueryRequest { name: name.to_string() }, CHANGE)).await
    };
    let result = context.driver()?.call(call).await;
    bar.finish_and_clear();
    result?;
    context.show(|| json!({"name": name, "state": "stopped"}), || format!("stopped {name}"))
}

pub async fn start(args: StartArgs, context: &Context) -> Result<(), Failure> {
    let name = args.name.as_str();
    let driver = context.driver()?;
    let call = |mut client: Client| async move {
        client.start_query(request(StartQueryRequest { name: name.to_string() }, LOOK * 4)).await
    };
    driver.call(call).await?;
    if !args.wait {
        return context.show(|| json!({"name": name, "state": "starting"}), || format!("started {name}"));
    }
    let ended = follow::wait(&driver, name).await?;
    follow::outcome(&ended)?;
    context.show(|| json::status(&ended), || format!("{name} finished"))
}

pub async fn drop(args: DropArgs, context: &Context) -> Result<(), Failure> {
    let DropArgs { name, force, delete_progress } = &args;
    let call = |mut client: Client| async move {
        let (force, delete_progress) = (*force, *delete_progress);
        client.drop_query(request(DropQueryRequest { name: name.clone(), force, delete_progress }, CHANGE)).await
    };
    context.driver()?.call(call).await?;
    context.show(
        || json!({"name": name, "dropped": true}),
        || format!("dropped {name} and its checkpoint; its sinks keep their data"),
    )
}
