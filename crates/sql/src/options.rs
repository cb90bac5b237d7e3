//! The options of a query and of its tables, typed.
//!
//! Owns: the names of `SET` (snake_case, and Spark's camelCase), their defaults and checks. Does not own: the text forms
//! of values (`values`), which options a connector has (`connectors`), how tables are read (`reading_options`), the options
//! of formats (`formats`), what the options do (driver, connectors).
//! Invariant: an unknown option is refused, with the nearest known one as the hint.

use super::connectors::{connector_options, is_known, known_options, spec_named};
use super::error::{Result, SqlError};
use super::limits::MAX_SHARDS;
use super::reading_options;
use super::table_def::{OptionEntry, TableDef};
use super::values::{bad_value, canonical, count, duration_ms, parse_duration_ms, size_bytes, word};
use crate::tables::ConnectorOptions;
use datafusion::sql::sqlparser::tokenizer::Location;
use highwater_connector_spec::settable;
use highwater_protocol::options::{OnKeyConflict, OutputMode, SourceOptions, Trigger};
use std::collections::BTreeMap;

/// Number of a query's shards, unless `SET shards` gives another.
pub const DEFAULT_SHARDS: u16 = 64;

/// Options of the whole query, from `SET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryOptions {
    pub trigger: Trigger,
    /// `None`: update for sinks with a PRIMARY KEY, append for the others.
    pub output_mode: Option<OutputMode>,
    pub shards: u16,
    /// How long windows stay open after the watermark has passed their end, in milliseconds.
    pub allowed_lateness_ms: u64,
    /// Size of state in memory, on all executors together, at which the query stops, in bytes; `None` = no limit.
    pub state_memory_limit: Option<u64>,
    /// Greatest lead of a partition's watermark over that of the slowest, in milliseconds; `None` = no limit.
    pub max_drift_ms: Option<u64>,
    /// Time after its last write at which state that no watermark bounds expires, in milliseconds; `None` = never.
    pub state_ttl_ms: Option<u64>,
    /// What happens when a key of a keyed sink has more than one live row; `None` = the default, warn.
    pub on_key_conflict: Option<OnKeyConflict>,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            trigger: Trigger::Asap,
            output_mode: None,
            shards: DEFAULT_SHARDS,
            allowed_lateness_ms: 0,
            state_memory_limit: None,
            state_ttl_ms: None,
            max_drift_ms: None,
            on_key_conflict: None,
        }
    }
}

/// A table's options: its connector, and how it would be read.
#[derive(Clone, Debug)]
pub struct TableOptions {
    pub connector: ConnectorOptions,
    pub source: SourceOptions,
}

const QUERY_KEYS: [&str; 8] = [
    "trigger",
    "output_mode",
    "shards",
    "allowed_lateness",
    "state_memory_limit",
    "state_ttl",
    "max_watermark_drift",
    "on_key_conflict",
];

/// Splits the script's `SET`s into the query's own options and defaults for all sources.
pub fn query_options(settings: &[OptionEntry]) -> Result<(QueryOptions, Vec<OptionEntry>)> {
    let mut options = QueryOptions::default();
    let mut defaults: Vec<OptionEntry> = Vec::new();
    let mut seen: BTreeMap<String, Location> = BTreeMap::new();
    for entry in settings {
        let key = canonical(&entry.key);
        refuse_second(&mut seen, &key, entry)?;
        match key.as_str() {
            "trigger" => options.trigger = trigger(entry)?,
            "output_mode" => options.output_mode = Some(output_mode(entry)?),
            "shards" => options.shards = shards(entry)?,
            "state_memory_limit" => options.state_memory_limit = Some(size_bytes(entry)?),
            "max_watermark_drift" => options.max_drift_ms = Some(duration_ms(entry)?),
            "on_key_conflict" => options.on_key_conflict = Some(on_key_conflict(entry)?),
            "state_ttl" => options.state_ttl_ms = state_ttl(entry)?,
            "allowed_lateness" => options.allowed_lateness_ms = duration_ms(entry)?,
            _ if settable(&key) => {
                defaults.push(OptionEntry { key, ..entry.clone() });
            }
            _ if is_known(&key) => {
                return Err(SqlError::at(entry.key_at, format!("'{}' belongs to one table", entry.key))
                    .hint("write it in the WITH (…) of each table"));
            }
            _ => {
                let options = known_options();
                let known = options.iter().map(String::as_str).filter(|name| settable(name));
                return Err(SqlError::at(entry.key_at, format!("unknown setting '{}'", entry.key)).suggest(
                    &entry.key,
                    QUERY_KEYS.into_iter().chain(known),
                    "settings",
                ));
            }
        }
    }
    reading_options::apply(&mut SourceOptions::default(), &defaults)?;
    Ok((options, defaults))
}

fn refuse_second(seen: &mut BTreeMap<String, Location>, key: &str, entry: &OptionEntry) -> Result<()> {
    match seen.insert(key.to_string(), entry.key_at) {
        Some(first) => Err(SqlError::at(entry.key_at, format!("'{}' is set twice", entry.key))
            .hint(format!("the first is on line {}", first.line))),
        None => Ok(()),
    }
}

fn trigger(entry: &OptionEntry) -> Result<Trigger> {
    let value = entry.value.trim().to_lowercase();
    match value.as_str() {
        "asap" => return Ok(Trigger::Asap),
        "available_now" | "availablenow" => return Ok(Trigger::AvailableNow),
        "once" => return Ok(Trigger::Once),
        _ => {}
    }
    let interval_ms = value.strip_prefix("every ").and_then(parse_duration_ms);
    interval_ms
        .map(|interval_ms| Trigger::Every { interval_ms })
        .ok_or_else(|| bad_value(entry, "write one of 'asap', 'every 1 second', 'available_now', 'once'"))
}

fn output_mode(entry: &OptionEntry) -> Result<OutputMode> {
    word(entry, &[("append", OutputMode::Append), ("update", OutputMode::Update), ("complete", OutputMode::Complete)])
}

fn on_key_conflict(entry: &OptionEntry) -> Result<OnKeyConflict> {
    word(entry, &[("warn", OnKeyConflict::Warn), ("fail", OnKeyConflict::Fail)])
}

/// Returns `None` for 'never' and, as in Flink, for zero.
fn state_ttl(entry: &OptionEntry) -> Result<Option<u64>> {
    let value = entry.value.trim();
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let is_zero = !number.is_empty() && number.chars().all(|c| c == '0');
    let is_unit = unit.trim().is_empty() || parse_duration_ms(&format!("1 {}", unit.trim())).is_some();
    if value.eq_ignore_ascii_case("never") || is_zero && is_unit {
        return Ok(None);
    }
    duration_ms(entry).map(Some)
}

fn shards(entry: &OptionEntry) -> Result<u16> {
    u16::try_from(count(entry)?)
        .ok()
        .filter(|shards| *shards <= MAX_SHARDS)
        .ok_or_else(|| bad_value(entry, &format!("write a number from 1 to {MAX_SHARDS}")))
}

/// Types a table's `WITH` options over the script's defaults.
pub fn table_options(table: &TableDef, defaults: &[OptionEntry]) -> Result<TableOptions> {
    let mut own: Vec<OptionEntry> = Vec::new();
    let mut seen = BTreeMap::new();
    for entry in &table.options {
        let key = canonical(&entry.key);
        refuse_second(&mut seen, &key, entry)?;
        check_known(entry, &key)?;
        own.push(OptionEntry { key, ..entry.clone() });
    }
    let find = |key: &str| own.iter().find(|entry| entry.key == key);
    let Some(connector) = find("connector") else {
        return Err(SqlError::at(table.name.at, format!("table '{}' lacks the option 'connector'", table.name.text))
            .hint("add 'connector' = 'kafka', or 'connector' = 'console' for a sink"));
    };
    // A wrong value is reported before an unknown connector.
    let spec = spec_named(connector);
    let mut source = SourceOptions::default();
    if let Ok(spec) = &spec {
        reading_options::apply_declared(&mut source, spec)?;
    }
    reading_options::apply(&mut source, defaults)?;
    reading_options::apply(&mut source, &own)?;
    let connector = connector_options(table, spec?, &own)?;
    Ok(TableOptions { connector, source })
}

fn check_known(entry: &OptionEntry, key: &str) -> Result<()> {
    if is_known(key) {
        return Ok(());
    }
    if QUERY_KEYS.contains(&key) {
        return Err(SqlError::at(entry.key_at, format!("'{}' holds for the whole query", entry.key))
            .hint(format!("write SET {key} = '{}'; before the tables", entry.value)));
    }
    let known = known_options();
    let known = known.iter().map(String::as_str);
    Err(SqlError::at(entry.key_at, format!("unknown option '{}'", entry.key)).suggest(&entry.key, known, "options"))
}
