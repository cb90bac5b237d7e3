//! Translates DataFusion's errors to errors of the script.
//!
//! Owns: the translation, with places and near-miss names. Does not own: the text of refusals.
//! Invariant: an error that has a place keeps it; others get the statement's.

use datafusion::common::{Column, DataFusionError, Diagnostic, SchemaError, Span};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_sql::error::SqlError;
use highwater_sql::suggest::did_you_mean;

/// Wraps a [`SqlError`], to pass it through DataFusion's planner.
pub fn external(error: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Translates an error of DataFusion; `fallback` is the statement's place.
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
    let own = ["\n\nbacktrace:", "\nThis issue was likely caused by a bug in DataFusion"];
    let text = match text.contains(NO_MATCH) {
        true => text,
        false => own.iter().fold(text, |text, mark| text.split(mark).next().unwrap_or(text)).trim(),
    };
    let (mut message, mut hint) = (text.to_string(), None);
    if let Some(diagnostic) = diagnostic {
        message = diagnostic.message.clone();
        hint = diagnostic
            .helps
            .first()
            .map(|help| help.message.clone())
            .or(diagnostic.notes.first().map(|note| note.message.clone()));
    }
    if let Some((message, hint)) = no_match(&message) {
        return SqlError::at(place(diagnostic), message).hint(hint);
    }
    // Coercion errors list their candidates, one per line.
    if let Some((first, rest)) = message.clone().split_once('\n') {
        message = first.trim().to_string();
        hint = hint.or_else(|| Some(rest.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    SqlError::at(place(diagnostic), message).maybe_hint(hint)
}

const NO_MATCH: &str = "No function matches the given name and argument types '";

/// Returns message and hint if the error is a call whose arguments fit no form of the function; `None` for other errors.
/// DataFusion has several texts for it, all of which contain [`NO_MATCH`].
fn no_match(text: &str) -> Option<(String, String)> {
    let (_, rest) = text.split_once(NO_MATCH)?;
    let (call, rest) = rest.split_once('\'')?;
    let candidates = rest.split_once("Candidate functions:").map_or("", |(_, candidates)| candidates);
    let forms: Vec<String> = candidates.lines().map(str::trim).filter(|form| !form.is_empty()).map(in_sql).collect();
    let hint = match forms.is_empty() {
        true => "cast its arguments".to_string(),
        false => format!("cast its arguments; it is called as {}", forms.join(", ")),
    };
    Some((format!("no function takes such arguments: {}", in_sql(call)), hint))
}

/// Replaces Arrow's names of types with SQL's.
fn in_sql(text: &str) -> String {
    const NAMES: [(&str, &str); 14] = [
        ("UInt64", "BIGINT UNSIGNED"),
        ("UInt32", "INT UNSIGNED"),
        ("UInt16", "SMALLINT UNSIGNED"),
        ("UInt8", "TINYINT UNSIGNED"),
        ("Int64", "BIGINT"),
        ("Int32", "INT"),
        ("Int16", "SMALLINT"),
        ("Int8", "TINYINT"),
        ("Float64", "DOUBLE"),
        ("Float32", "FLOAT"),
        ("Utf8View", "STRING"),
        ("LargeUtf8", "STRING"),
        ("Utf8", "STRING"),
        ("Date32", "DATE"),
    ];
    NAMES.iter().fold(text.to_string(), |text, (arrow, sql)| text.replace(arrow, sql))
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
                .hint("name its table: t.column")
        }
        SchemaError::DuplicateUnqualifiedField { name } | SchemaError::DuplicateQualifiedField { name, .. } => {
            SqlError::at(place(diagnostic), format!("there are two columns '{name}'"))
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
