//! DataFusion's errors, told as errors in the script.
//!
//! Owns: the translation, with places and near-miss names. Does not own: the text of refusals.
//! Invariant: an error that carries a place keeps it; one that does not gets the statement's.

use crate::sql::error::SqlError;
use crate::sql::suggest::did_you_mean;
use datafusion::common::{Column, DataFusionError, Diagnostic, SchemaError, Span};
use datafusion::sql::sqlparser::tokenizer::Location;

/// Carries an error of ours through DataFusion's planner.
pub fn external(error: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The error of ours that a planner's error means; `fallback` is the statement's place.
pub fn sql_error(error: DataFusionError, fallback: Location) -> SqlError {
    translate(&error, None).or_at(fallback)
}

fn translate(error: &DataFusionError, diagnostic: Option<&Diagnostic>) -> SqlError {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<SqlError>() {
            Some(ours) => ours.clone().or_at(place(diagnostic)),
            None => plain(&inner.to_string(), diagnostic),
        },
        DataFusionError::Diagnostic(diagnostic, inner) => translate(inner, Some(diagnostic)),
        DataFusionError::Context(_, inner) => translate(inner, diagnostic),
        DataFusionError::Shared(inner) => translate(inner, diagnostic),
        DataFusionError::Collection(errors) if !errors.is_empty() => translate(&errors[0], diagnostic),
        DataFusionError::SchemaError(schema, _) => schema_error(schema, diagnostic),
        DataFusionError::SQL(parser, _) => SqlError::from(parser.as_ref().clone()).or_at(place(diagnostic)),
        DataFusionError::Plan(text) | DataFusionError::NotImplemented(text) | DataFusionError::Execution(text) => {
            plain(text, diagnostic)
        }
        other => plain(&other.strip_backtrace(), diagnostic),
    }
}

fn plain(text: &str, diagnostic: Option<&Diagnostic>) -> SqlError {
    let text = text.split("\n\nbacktrace:").next().unwrap_or(text).trim();
    let (mut message, mut hint) = (text.to_string(), None);
    if let Some(diagnostic) = diagnostic {
        message = diagnostic.message.clone();
        hint = diagnostic
            .helps
            .first()
            .map(|help| help.message.clone())
            .or(diagnostic.notes.first().map(|note| note.message.clone()));
    }
    // Coercion errors bring their candidates along, one per line.
    if let Some((first, rest)) = message.clone().split_once('\n') {
        message = first.trim().to_string();
        hint = hint.or_else(|| Some(rest.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    SqlError::at(place(diagnostic), message).maybe_hint(hint)
}

fn schema_error(error: &SchemaError, diagnostic: Option<&Diagnostic>) -> SqlError {
    let located = |column: &Column| {
        let span = diagnostic.and_then(|diagnostic| diagnostic.span).or(column.spans().first());
        span.map_or(Location::empty(), start)
    };
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|valid| valid.name()).collect();
            let hint = did_you_mean(&field.name, names, "columns here");
            let message = match &field.relation {
                Some(relation) if !valid_fields.iter().any(|valid| valid.relation.as_ref() == Some(relation)) => {
                    format!("'{relation}' in '{relation}.{}' is neither a table nor a column here", field.name)
                }
                _ => format!("column '{}' not found", field.name),
            };
            SqlError::at(located(field), message).maybe_hint(hint)
        }
        SchemaError::AmbiguousReference { field } => {
            SqlError::at(located(field), format!("column '{}' is ambiguous", field.name))
                .hint("say of which table: t.column")
        }
        SchemaError::DuplicateUnqualifiedField { name } | SchemaError::DuplicateQualifiedField { name, .. } => {
            SqlError::at(place(diagnostic), format!("column '{name}' is there twice"))
                .hint("rename one: … AS other_name")
        }
    }
}

fn place(diagnostic: Option<&Diagnostic>) -> Location {
    diagnostic.and_then(|diagnostic| diagnostic.span).map_or(Location::empty(), start)
}

fn start(span: Span) -> Location {
    Location::new(span.start.line, span.start.column)
}
