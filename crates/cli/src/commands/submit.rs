//! `submit`: stores a query; with `--wait`, stays until it ends.

use crate::cli::SubmitArgs;
use crate::client::{Client, LOOK, request};
use crate::context::Context;
use crate::failure::Failure;
use crate::{follow, json, output, script};
use highwater_proto::v1::SubmitQueryRequest;
use serde_json::Value;

pub async fn submit(args: SubmitArgs, context: &Context) -> Result<(), Failure> {
    let name = script::name(args.name, &args.file)?;
    let sql = script::read(&args.file)?;
    let driver = context.driver()?;
    let message = SubmitQueryRequest { name: name.clone(), sql, replace: args.replace, new_output: args.new_output };
    let bar = output::spinner(format!("submitting {name}: checking its topics"));
    let wanted = &message;
    // Replacing stops the old query first, and brokers may be slow to return offsets.
    let call = |mut client: Client| async move { client.submit_query(request(wanted.clone(), LOOK * 6)).await };
    let stored = driver.call(call).await;
    bar.finish_and_clear();
    let stored = stored?;
    let document = || json::submitted(&name, &stored.query_id, &stored.warnings);
    if !args.wait {
        let text = || format!("submitted {name} ({})", stored.query_id);
        return context.show_warned(document, text, &stored.warnings);
    }
    if !context.global.json {
        output::line(&format!("submitted {name} ({})", stored.query_id))?;
        output::warnings(&stored.warnings);
    }
    match follow::wait(&driver, &name).await {
        Ok(ended) => {
            if context.global.json {
                output::json(&with_status(document(), json::status(&ended)))?;
            }
            follow::outcome(&ended)?;
            if !context.global.json {
                output::line(&format!("{name} finished"))?;
            }
            Ok(())
        }
        Err(detached @ Failure::Interrupted(_)) => {
            if context.global.json {
                output::json(&document())?;
            }
            Err(detached)
        }
        Err(failure) => Err(failure),
    }
}

/// One document: what was stored, and how it ended.
fn with_status(mut stored: Value, status: Value) -> Value {
    if let (Some(stored), Value::Object(status)) = (stored.as_object_mut(), status) {
        stored.extend(status);
    }
    stored
}
