//! The options that say how records and files are encoded.
//!
//! Owns: `format`, `key.format`, `value.format`, `key.fields`, `value.fields-include`, and where options of formats may
//! stand: `csv.delimiter` for key and value, `key.csv.delimiter` and `value.csv.delimiter` for one of them. Does not own:
//! which formats and options there are (crate's `formats`), whether a format holds a table's columns (`plan::formats`).

use super::error::{Result, SqlError};
use super::identifier::Name;
use super::metadata_columns::METADATA;
use super::suggest::nearest;
use super::table_def::{OptionEntry, TableDef};
use super::values::canonical;
use super::values::{bad_value, plain_text, refuse_reference, word};
use crate::formats::{FORMATS, Format, FormatSpec, JSON, OptionScope, OptionSpec};
use crate::tables::KeyOptions;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_connector_spec::ConnectorSpec;

const KEYS: [&str; 5] = ["format", "key.format", "value.format", "key.fields", "value.fields_include"];
/// Prefixes of options of formats, by the part of the record that they apply to; without prefix they apply to both parts.
const PARTS: [&str; 3] = ["", "key.", "value."];

/// Returns the names of all options of this module.
pub fn format_keys() -> Vec<String> {
    let options = || FORMATS.iter().flat_map(|spec| spec.options);
    let prefixed = PARTS.into_iter().flat_map(|part| options().map(move |option| format!("{part}{}", option.name)));
    KEYS.into_iter().map(String::from).chain(prefixed).collect()
}

/// True if the canonical name `key` is one of an option of this module.
pub fn is_format_key(key: &str) -> bool {
    KEYS.contains(&key) || option_of(key).is_some()
}

/// Returns the prefix in `key`, the format and the format's declaration of the option; `None` if no format has the option.
fn option_of(key: &str) -> Option<(&'static str, &'static FormatSpec, &'static OptionSpec)> {
    let declared = |name: &str| {
        let mut all = FORMATS.iter().flat_map(|spec| spec.options.iter().map(move |option| (*spec, option)));
        all.find(|(_, option)| option.name == name)
    };
    PARTS.into_iter().find_map(|part| {
        let (spec, option) = declared(key.strip_prefix(part)?)?;
        Some((part, spec, option))
    })
}

/// Returns the format of record values, and the options of record keys.
pub fn record_formats(table: &TableDef, own: &[OptionEntry]) -> Result<(Format, KeyOptions)> {
    let find = |key: &str| own.iter().find(|entry| entry.key == key);
    let value = match (find("format"), find("value.format")) {
        (Some(_), Some(second)) => {
            return Err(SqlError::at(second.key_at, "'format' and 'value.format' are one option").hint("drop one"));
        }
        (Some(entry), None) | (None, Some(entry)) => format_named(entry, |spec| spec.reads || spec.writes)?,
        (None, None) => return Err(lacks_format(table, "'json'")),
    };
    let key = find("key.format").map(|entry| format_named(entry, |spec| spec.keys)).transpose()?.unwrap_or(value);
    for entry in own {
        let Some((part, spec, option)) = option_of(&entry.key) else { continue };
        if option.scope == OptionScope::Files {
            return Err(SqlError::at(entry.key_at, format!("'{}' is an option of files", entry.key))
                .hint("drop it, or use 'connector' = 'filesystem'"));
        }
        let is_used = part != "key." && spec.name == value.name || part != "value." && spec.name == key.name;
        if !is_used {
            let what = if part == "key." { "key.format" } else { "format" };
            return Err(stray(entry, what, spec));
        }
    }
    let (format, key) = (chosen(value, "value.", own)?, chosen(key, "key.", own)?);
    let fields = find("key.fields").map(|entry| key_fields(table, entry)).transpose()?.unwrap_or_default();
    if fields.is_empty() && table.primary_key.is_none() {
        let idle = own.iter().find(|entry| entry.key.starts_with("key.") || entry.key == "value.fields_include");
        if let Some(entry) = idle {
            let message = format!(
                "'{}' does nothing: table '{}' has neither a PRIMARY KEY nor 'key.fields'",
                entry.key, table.name.text
            );
            return Err(SqlError::at(entry.key_at, message).hint("add 'key.fields' = '<column>', or drop the option"));
        }
    }
    let apart = find("value.fields_include").map(|entry| word(entry, &[("all", false), ("except_key", true)]));
    let apart = apart.transpose()?.unwrap_or(false);
    let key = KeyOptions { format: (key != format).then_some(key), fields, apart };
    Ok((format, key))
}

/// Returns the format of a file that rows look up.
pub fn file_format(table: &TableDef, own: &[OptionEntry]) -> Result<Format> {
    let Some(entry) = own.iter().find(|entry| entry.key == "format") else {
        return Err(lacks_format(table, "'csv' or 'json'"));
    };
    let spec = format_named(entry, |spec| spec.files.is_some())?;
    for entry in own {
        match option_of(&entry.key) {
            Some(("", of, _)) if of.name != spec.name => return Err(stray(entry, "format", of)),
            Some(("", _, option)) if option.scope == OptionScope::Records => {
                return Err(SqlError::at(entry.key_at, format!("'{}' is an option of records", entry.key))
                    .hint("drop it: in a file an empty field is NULL"));
            }
            Some(("", ..)) => {}
            Some((part, ..)) => return Err(not_of_files(entry, part)),
            None if KEYS.contains(&entry.key.as_str()) && entry.key != "format" => {
                return Err(not_of_files(entry, ""));
            }
            None => {}
        }
    }
    chosen(spec, "", own)
}

/// Checks the format of a table whose rows are always JSON.
pub fn json_only(entry: &OptionEntry, connector: &ConnectorSpec) -> Result<()> {
    let spec = format_named(entry, |_| true)?;
    match spec.name == JSON.name {
        true => Ok(()),
        false => Err(SqlError::at(entry.value_at, format!("rows for {} are always JSON", connector.title))
            .hint("write 'format' = 'json'")),
    }
}

fn not_of_files(entry: &OptionEntry, part: &str) -> SqlError {
    let hint = match entry.key.strip_prefix(part).filter(|_| !part.is_empty()) {
        Some(rest) => format!("write '{rest}'"),
        None => "write 'format'".into(),
    };
    SqlError::at(entry.key_at, format!("a file has no option '{}': it has neither keys nor values", entry.key))
        .hint(hint)
}

fn lacks_format(table: &TableDef, example: &str) -> SqlError {
    SqlError::at(table.name.at, format!("table '{}' lacks the option 'format'", table.name.text))
        .hint(format!("add 'format' = {example}"))
}

fn stray(entry: &OptionEntry, what: &str, spec: &FormatSpec) -> SqlError {
    SqlError::at(entry.key_at, format!("'{}' goes with '{what}' = '{}'", entry.key, spec.name))
}

fn format_named(entry: &OptionEntry, fits: impl Fn(&FormatSpec) -> bool) -> Result<&'static FormatSpec> {
    let wanted = entry.value.trim();
    let fitting = || FORMATS.iter().copied().filter(|spec| fits(spec));
    if let Some(spec) = fitting().find(|spec| spec.name.eq_ignore_ascii_case(wanted)) {
        return Ok(spec);
    }
    let message = match FORMATS.iter().any(|spec| spec.name.eq_ignore_ascii_case(wanted)) {
        true => format!("format '{wanted}' cannot be used for '{}' here", entry.key),
        false => format!("format '{wanted}' is not supported in streaming yet"),
    };
    let names: Vec<String> = fitting().map(|spec| format!("'{}' = '{}'", entry.key, spec.name)).collect();
    let hint = match nearest(wanted, fitting().map(|spec| spec.name)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("use {}", names.join(" or ")),
    };
    Err(SqlError::at(entry.value_at, message).hint(hint))
}

/// Returns the format with its options; those with the prefix `part` override those without.
fn chosen(spec: &'static FormatSpec, part: &str, own: &[OptionEntry]) -> Result<Format> {
    let mut format = Format::of(spec);
    let mut set = Vec::new();
    for wanted in PARTS.into_iter().filter(|one| one.is_empty() || *one == part) {
        for entry in own {
            let Some((found, of, option)) = option_of(&entry.key) else { continue };
            if found == wanted && of.name == spec.name {
                refuse_reference(entry)?;
                format.set(option, &entry.value).map_err(|right| bad_value(entry, right))?;
                set.push((option.name, entry));
            }
        }
    }
    match (spec.conflict)(&format) {
        None => Ok(format),
        Some((option, why)) => {
            let entry = set.iter().rev().find(|(name, _)| *name == option).or(set.last());
            let at = entry.map_or_else(Location::empty, |(_, entry)| entry.value_at);
            Err(SqlError::at(at, why))
        }
    }
}

/// Returns the columns that `key.fields` names, separated by commas or, as in Flink, by semicolons.
fn key_fields(table: &TableDef, entry: &OptionEntry) -> Result<Vec<String>> {
    let text = plain_text(entry)?;
    let stored =
        || table.columns.iter().map(|column| &column.name.text).filter(|name| !METADATA.contains(&name.as_str()));
    let mut fields: Vec<String> = Vec::new();
    for wanted in text.split([',', ';']).map(str::trim) {
        let name = Name { text: wanted.to_string(), at: entry.value_at };
        let Some(name) = name.find(stored().map(String::as_str))? else {
            let message = format!("'key.fields': table '{}' stores no column '{wanted}'", table.name.text);
            let names: Vec<&str> = stored().map(String::as_str).collect();
            return Err(SqlError::at(entry.value_at, message).suggest(wanted, names, "its columns"));
        };
        if fields.iter().any(|known| known == name) {
            return Err(SqlError::at(entry.value_at, format!("'key.fields' names '{wanted}' twice")));
        }
        fields.push(name.to_string());
    }
    if let Some(key) = &table.primary_key {
        let names: Vec<&str> = key.columns.iter().map(|name| name.text.as_str()).collect();
        if names != fields {
            let message = "'key.fields' is not the PRIMARY KEY, whose columns make the record keys of this table";
            return Err(SqlError::at(entry.value_at, message)
                .hint(format!("write 'key.fields' = '{}', or drop it", names.join(", "))));
        }
    }
    Ok(fields)
}

/// Returns the option that sets the format of keys if `of_key`, else of values; `None` if there is none.
pub fn format_entry(table: &TableDef, of_key: bool) -> Option<&OptionEntry> {
    let find = |key: &str| table.options.iter().find(|entry| canonical(&entry.key) == key);
    let key = if of_key { find("key.format") } else { None };
    key.or_else(|| find("value.format")).or_else(|| find("format"))
}
