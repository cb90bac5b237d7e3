//! The options of a table's connector, checked against the connector's declaration.
//!
//! Owns: checking a script's options against a declaration, and typing them. Does not own: the declarations (crate
//! `connector-spec`), options of formats (`formats`), how tables are read (`reading_options`).
//! Invariants: an option that the connector does not declare is refused, with the nearest declared one as the hint; only
//! secrets, logins and paths take `${…}` references.

use super::error::{Result, SqlError};
use super::format_options::{file_format, format_keys, is_format_key, json_only, record_formats};
use super::suggest::{did_you_mean, nearest};
use super::table_def::{OptionEntry, TableDef};
use super::values::{bad_value, count, duration_ms, plain_text, text, word};
use crate::formats::{Format, JSON};
use crate::tables::{ConnectorOptions, KeyOptions, SinkTable, SourceTable};
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_connector_spec::{
    CONNECTORS, ConnectorSpec, Default, Encoding, Fault, FaultAt, OptionKind, OptionValue, OptionValues, PropertySpec,
    Use,
};
use std::collections::BTreeMap;

/// Returns the names of all options of all connectors and formats.
pub fn known_options() -> Vec<String> {
    let own = CONNECTORS.iter().flat_map(|spec| spec.options).map(|option| option.name.to_string());
    std::iter::once("connector".to_string()).chain(own).chain(format_keys()).collect()
}

/// True if a connector or a format has this option.
pub fn is_known(key: &str) -> bool {
    let has = |spec: &&ConnectorSpec| spec.kind(key).is_some();
    key == "connector" || is_format_key(key) || CONNECTORS.iter().any(has)
}

/// Returns `'connector' = 'a' or 'b'`, with the connectors that can be used as `wanted`.
pub fn usable(wanted: Use) -> String {
    let names = CONNECTORS.iter().filter(|spec| spec.is(wanted)).map(|spec| format!("'{}'", spec.name));
    format!("'connector' = {}", names.collect::<Vec<_>>().join(" or "))
}

/// Returns the connector that the value of `entry` names.
pub fn spec_named(entry: &OptionEntry) -> Result<&'static ConnectorSpec> {
    let words: Vec<(&'static str, &'static ConnectorSpec)> =
        CONNECTORS.iter().flat_map(|spec| spec.names().map(|name| (name, *spec))).collect();
    word(entry, &words)
}

/// Checks and types the options of a table.
pub fn connector_options(
    table: &TableDef,
    spec: &'static ConnectorSpec,
    own: &[OptionEntry],
) -> Result<ConnectorOptions> {
    own.iter().try_for_each(|entry| refuse_stray(spec, entry))?;
    let find = |key: &str| own.iter().find(|entry| entry.key == key);
    let mut values = OptionValues::of(spec);
    for option in spec.options {
        let given = match (find(option.name), option.default) {
            (Some(entry), _) => entry.clone(),
            (None, Default::None(_)) => continue,
            (None, Default::Value(value)) => declared(option.name, value),
            (None, Default::Required(example)) => {
                let message = format!("table '{}' lacks the option '{}'", table.name.text, option.name);
                return Err(SqlError::at(table.name.at, message).hint(format!("add '{}' = {example}", option.name)));
            }
        };
        if let Some(value) = value(&given, option.kind)? {
            values.set(option.name, value);
        }
    }
    let (format, key) = match spec.encoding {
        Encoding::Records => record_formats(table, own)?,
        Encoding::Files => (file_format(table, own)?, KeyOptions::default()),
        Encoding::Json => {
            find("format").map(|entry| json_only(entry, spec)).transpose()?;
            (Format::of(&JSON), KeyOptions::default())
        }
    };
    add_properties(&mut values, own)?;
    Ok(ConnectorOptions { values, format, key })
}

/// Sets the properties among `entries` that are not set yet, and checks all together.
pub fn add_properties(values: &mut OptionValues, entries: &[OptionEntry]) -> Result<()> {
    if let Some(spec) = values.spec().properties {
        values.add_properties(properties(spec, entries)?);
    }
    (values.spec().check)(values).map_err(|fault| located(fault, entries))
}

fn located(fault: Fault, entries: &[OptionEntry]) -> SqlError {
    let entry = entries.iter().find(|entry| entry.key == fault.option);
    let at = entry.map_or_else(Location::empty, |entry| match fault.at {
        FaultAt::Name => entry.key_at,
        FaultAt::Value => entry.value_at,
    });
    SqlError::at(at, fault.message).hint(fault.hint)
}

/// Returns a default as an entry without a place in the script.
pub fn declared(key: &str, value: &str) -> OptionEntry {
    let at = Location::empty();
    OptionEntry { key: key.into(), key_at: at, value: value.into(), value_at: at }
}

/// Types a value; `None` for options of reading, which `options` types.
fn value(entry: &OptionEntry, kind: OptionKind) -> Result<Option<OptionValue>> {
    Ok(Some(match kind {
        OptionKind::Reading(_) => return Ok(None),
        OptionKind::Text => OptionValue::Text(plain_text(entry)?),
        OptionKind::Url => OptionValue::Text(url(entry)?),
        OptionKind::Login | OptionKind::Secret | OptionKind::Path => OptionValue::Text(text(entry)?),
        OptionKind::Count => OptionValue::Number(count(entry)?),
        OptionKind::Duration => OptionValue::Number(duration_ms(entry)?),
    }))
}

fn url(entry: &OptionEntry) -> Result<String> {
    let text = plain_text(entry)?;
    let rest = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    match rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !text.contains(char::is_whitespace)) {
        true => Ok(text),
        false => Err(bad_value(entry, "write a URL, for example 'https://example.com/rows'")),
    }
}

fn refuse_stray(spec: &ConnectorSpec, entry: &OptionEntry) -> Result<()> {
    let key = entry.key.as_str();
    let is_format = is_format_key(key) && (spec.encoding != Encoding::Json || key == "format");
    if key == "connector" || is_format || spec.kind(key).is_some() {
        return Ok(());
    }
    let names = || spec.options.iter().map(|option| option.name);
    let owner = CONNECTORS.iter().find(|other| other.kind(key).is_some()).map(|other| other.name);
    let hint = match (nearest(key, names()), owner) {
        (Some(near), _) => Some(format!("did you mean '{near}'?")),
        (None, Some(owner)) => Some(format!("drop it, or use 'connector' = '{owner}'")),
        (None, None) => did_you_mean(key, names(), "its options"),
    };
    let message = format!("the {} connector has no option '{}'", spec.name, entry.key);
    Err(SqlError::at(entry.key_at, message).maybe_hint(hint.or(Some("drop it".into()))))
}

/// Checks the properties among `entries`, and returns them without their prefix.
fn properties(spec: &PropertySpec, entries: &[OptionEntry]) -> Result<BTreeMap<String, String>> {
    let mut properties = BTreeMap::new();
    for entry in entries {
        let Some(property) = entry.key.strip_prefix(spec.prefix) else { continue };
        if !spec.known.iter().any(|(name, _)| *name == property) {
            return Err(refused(spec, entry, property));
        }
        let value = match spec.kind(property).takes_references() {
            true => text(entry)?,
            false => plain_text(entry)?,
        };
        properties.insert(property.to_string(), value);
    }
    Ok(properties)
}

fn refused(spec: &PropertySpec, entry: &OptionEntry, property: &str) -> SqlError {
    if let Some((message, hint)) = (spec.refusal)(property) {
        return SqlError::at(entry.key_at, format!("'{}' {message}", entry.key)).hint(hint);
    }
    let hint = match nearest(property, spec.known.iter().map(|(name, _)| *name)) {
        Some(near) => format!("did you mean '{}{near}'?", spec.prefix),
        None => "docs/connectors.md lists the properties that can be set".to_string(),
    };
    SqlError::at(entry.key_at, format!("unknown property '{}'", entry.key)).hint(hint)
}

/// Returns a warning for each secret of a table that is written in the script instead of being referred to.
pub fn written_secrets(sources: &[SourceTable], sinks: &[SinkTable]) -> Vec<String> {
    let read = sources.iter().map(|source| (&source.name, &source.connector));
    let written = sinks.iter().map(|sink| (&sink.name, &sink.connector));
    let tables: BTreeMap<&String, &ConnectorOptions> = read.chain(written).collect();
    let mut warnings = Vec::new();
    for (table, connector) in tables {
        let texts = connector.values.texts();
        let written = texts.iter().filter(|(_, value, kind)| *kind == OptionKind::Secret && !value.contains("${"));
        warnings.extend(written.map(|(option, ..)| {
            format!(
                "table '{table}': the value of '{option}' stands in the script, which is stored; write \
                 ${{env:NAME}} or ${{file:PATH}} instead"
            )
        }));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_defaults_are_values() {
        for option in CONNECTORS.iter().flat_map(|spec| spec.options) {
            if let Default::Value(default) = option.default {
                assert!(value(&declared(option.name, default), option.kind).is_ok(), "{}", option.name);
            }
        }
    }
}
