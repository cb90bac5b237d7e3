//! The options about reading, typed.
//!
//! Owns: parsing their values, and checking them together. Does not own: the list of them and their defaults (crate
//! `connector-spec`), what they do (crate `protocol`, the driver, connectors).
//! Invariant: every variant of [`Reading`] is parsed here, by an exhaustive match.

use super::connectors::declared;
use super::error::{Result, SqlError};
use super::table_def::OptionEntry;
use super::values::{bad_value, count, duration_ms, parse_time_ms, plain_text, topic_offsets, word};
use highwater_connector_spec::{ConnectorSpec, Default, Reading, reading};
use highwater_protocol::options::{
    EndingOffsets, IsolationLevel, OnBadRecord, OnDataLoss, SourceOptions, StartingOffsets,
};

/// Sets the defaults that the connector declares.
pub fn apply_declared(options: &mut SourceOptions, spec: &ConnectorSpec) -> Result<()> {
    let defaults = spec.options.iter().filter(|option| option.kind.reading().is_some());
    let defaults = defaults.filter_map(|option| match option.default {
        Default::Value(value) => Some(declared(option.name, value)),
        Default::Required(_) | Default::None(_) => None,
    });
    apply(options, &defaults.collect::<Vec<_>>())
}

/// Sets the options that `entries` name. Skips entries of other options.
pub fn apply(options: &mut SourceOptions, entries: &[OptionEntry]) -> Result<()> {
    for entry in entries {
        if let Some(reading) = reading(&entry.key) {
            set(options, reading, entry, entries)?;
        }
    }
    let limits = (options.min_offsets_per_trigger, options.max_offsets_per_trigger);
    let limiting = entries.iter().find(|entry| {
        matches!(reading(&entry.key), Some(Reading::MinOffsetsPerTrigger | Reading::MaxOffsetsPerTrigger))
    });
    if let ((Some(min), Some(max)), Some(entry)) = (limits, limiting)
        && min > max
    {
        let message = format!("min_offsets_per_trigger {min} is above max_offsets_per_trigger {max}");
        return Err(SqlError::at(entry.value_at, message).hint("no batch could ever be planned: lower the minimum"));
    }
    Ok(())
}

/// Sets one option. `entries` contains it and its neighbours, on which it may depend.
fn set(options: &mut SourceOptions, reading: Reading, entry: &OptionEntry, entries: &[OptionEntry]) -> Result<()> {
    match reading {
        Reading::StartingOffsets => options.starting_offsets = starting_offsets(entry)?,
        Reading::EndingOffsets => options.ending_offsets = Some(ending_offsets(entry)?),
        Reading::MaxOffsetsPerTrigger => options.max_offsets_per_trigger = Some(count(entry)?),
        Reading::MinOffsetsPerTrigger => options.min_offsets_per_trigger = Some(count(entry)?),
        Reading::MaxRecordsPerSecond => options.max_records_per_second = Some(count(entry)?),
        Reading::MaxTriggerDelay => options.max_trigger_delay_ms = Some(duration_ms(entry)?),
        Reading::OnDataLoss => {
            let words =
                [("fail", OnDataLoss::Fail), ("earliest", OnDataLoss::Earliest), ("latest", OnDataLoss::Latest)];
            options.on_data_loss = word(entry, &words)?;
        }
        Reading::OnBadRecord => options.on_bad_record = on_bad_record(entry, entries)?,
        // Its value is read with `on_bad_record`.
        Reading::DeadLetterTopic => refuse_unused_topic(entry, entries)?,
        Reading::LateTopic => options.late_topic = Some(plain_text(entry)?),
        Reading::IdleTimeout => {
            let never = entry.value.eq_ignore_ascii_case("never");
            options.idle_timeout_ms = if never { None } else { Some(duration_ms(entry)?) };
        }
        Reading::IsolationLevel => {
            let words = [
                ("read_committed", IsolationLevel::ReadCommitted),
                ("read_uncommitted", IsolationLevel::ReadUncommitted),
            ];
            options.isolation_level = word(entry, &words)?;
        }
    }
    Ok(())
}

fn find(entries: &[OptionEntry], wanted: Reading) -> Option<&OptionEntry> {
    entries.iter().find(|entry| reading(&entry.key) == Some(wanted))
}

fn on_bad_record(entry: &OptionEntry, entries: &[OptionEntry]) -> Result<OnBadRecord> {
    match word(entry, &[("fail", 0), ("skip", 1), ("dead_letter", 2)])? {
        0 => Ok(OnBadRecord::Fail),
        1 => Ok(OnBadRecord::Skip),
        _ => {
            let topic = find(entries, Reading::DeadLetterTopic).map(plain_text).transpose()?;
            Ok(OnBadRecord::DeadLetter { topic })
        }
    }
}

fn refuse_unused_topic(entry: &OptionEntry, entries: &[OptionEntry]) -> Result<()> {
    if find(entries, Reading::OnBadRecord).is_some_and(|other| other.value == "dead_letter") {
        return Ok(());
    }
    let message = "'dead_letter_topic' does nothing without 'on_bad_record' = 'dead_letter'";
    Err(SqlError::at(entry.key_at, message).hint("add it, or drop the topic"))
}

const STARTS: &str = "write 'earliest', 'latest', '{\"topic\":{\"0\":100}}' or a time such as '2026-01-01T00:00:00Z'";

fn starting_offsets(entry: &OptionEntry) -> Result<StartingOffsets> {
    let value = entry.value.trim();
    match value.to_lowercase().as_str() {
        "earliest" => Ok(StartingOffsets::Earliest),
        "latest" => Ok(StartingOffsets::Latest),
        _ if value.starts_with('{') => Ok(StartingOffsets::Explicit { offsets: topic_offsets(entry, -2)? }),
        _ => {
            let timestamp_ms = parse_time_ms(value).ok_or_else(|| bad_value(entry, STARTS))?;
            Ok(StartingOffsets::Timestamp { timestamp_ms })
        }
    }
}

fn ending_offsets(entry: &OptionEntry) -> Result<EndingOffsets> {
    let value = entry.value.trim();
    match value.to_lowercase().as_str() {
        "latest" => Ok(EndingOffsets::Latest),
        _ if value.starts_with('{') => Ok(EndingOffsets::Explicit { offsets: topic_offsets(entry, -1)? }),
        _ => {
            let timestamp_ms =
                parse_time_ms(value).ok_or_else(|| bad_value(entry, &STARTS.replace("'earliest', ", "")))?;
            Ok(EndingOffsets::Timestamp { timestamp_ms })
        }
    }
}
