//! `validate`, `explain`: compile a script; they need no driver.
//!
//! Invariant: a script that does not compile ends with exit code 2, the reason on stderr.

use crate::cli::ScriptArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::{output, script};
use highwater_planner::CompiledQuery;
use serde_json::json;

pub fn validate(args: &ScriptArgs, context: &Context) -> Result<(), Failure> {
    match compile(args) {
        Ok(query) => {
            let document = || json!({"valid": true, "warnings": query.warnings});
            context.show_warned(document, || format!("{} is valid", args.file), &query.warnings)
        }
        Err(failure) => {
            if let (true, Failure::Invalid(message)) = (context.global.json, &failure) {
                output::json(&json!({"valid": false, "error": message}))?;
            }
            Err(failure)
        }
    }
}

pub fn explain(args: &ScriptArgs, context: &Context) -> Result<(), Failure> {
    let query = compile(args)?;
    // Warnings follow the plan, after an empty line, where a reader of the plan sees them.
    let space = if query.warnings.is_empty() { "" } else { "\n" };
    let text = || format!("{}{space}", query.explain_text().trim_end());
    context.show_warned(|| query.explain_json(), text, &query.warnings)
}

fn compile(args: &ScriptArgs) -> Result<CompiledQuery, Failure> {
    let sql = script::read(&args.file)?;
    highwater_planner::compile(&sql).map_err(|error| Failure::invalid(error.to_string()))
}
