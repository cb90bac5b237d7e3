//! Values of options: durations, counts, words, times and explicit offsets.
//!
//! Owns: the text forms of values, read and written. Does not own: which option takes which (`options`).
//! Invariant: a value is refused with an example of a right one.

use super::error::{Result, SqlError};
use super::table_def::OptionEntry;
use crate::references::REDACTED;
use bytesize::ByteSize;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use highwater_connector_spec::{CONNECTORS, unaliased};
use std::collections::BTreeMap;

/// Explicit offsets: topic → partition → offset.
pub type TopicOffsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// Returns the canonical name of an option: Spark's `camelCase` and Flink's names are aliases of the `snake_case` name.
pub fn canonical(key: &str) -> String {
    let is_property = CONNECTORS.iter().any(|spec| spec.property(key).is_some());
    if is_property && unaliased(key).is_none() {
        return key.to_string();
    }
    let mut snake = String::new();
    for c in key.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() && !key.chars().all(|c| !c.is_ascii_lowercase()) {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    match snake.as_str() {
        // Flink's.
        "value.fields-include" => "value.fields_include".into(),
        // Flink's.
        "table.exec.state.ttl" => "state_ttl".into(),
        _ => unaliased(&snake).map_or(snake, String::from),
    }
}

/// Returns an error about the value of `entry`, with the hint `wanted`. A secret value is not shown.
pub fn bad_value(entry: &OptionEntry, wanted: &str) -> SqlError {
    let shown = if highwater_connector_spec::is_secret(&entry.key) { REDACTED } else { &entry.value };
    SqlError::at(entry.value_at, format!("'{shown}' is not a value of '{}'", entry.key)).hint(wanted)
}

/// Parses a duration above zero to milliseconds: `'10 seconds'`, `'1m 30s'`, `'500 ms'`.
pub fn duration_ms(entry: &OptionEntry) -> Result<u64> {
    parse_duration_ms(&entry.value)
        .ok_or_else(|| bad_value(entry, "write a duration, for example '10 seconds' or '500 ms'"))
}

/// Parses a duration to milliseconds; `None` if the text is no duration, or one of less than a millisecond.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    // humantime knows "ms" and "millis".
    let text = text.trim().replace("milliseconds", "ms").replace("millisecond", "ms");
    let duration = humantime::parse_duration(&text).ok()?;
    u64::try_from(duration.as_millis()).ok().filter(|ms| *ms > 0)
}

/// Writes a duration as people do: `1 hour`, `1 minute 30 seconds`.
pub fn duration_text(ms: u64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second"), (1, "millisecond")];
    let mut rest = ms;
    let mut parts = Vec::new();
    for (length, unit) in UNITS {
        let count = rest / length;
        rest %= length;
        match count {
            0 => {}
            1 => parts.push(format!("1 {unit}")),
            _ => parts.push(format!("{count} {unit}s")),
        }
    }
    if parts.is_empty() { "0 seconds".into() } else { parts.join(" ") }
}

/// Writes a time as ISO 8601 in UTC with milliseconds, or as the number `ms` if its year is out of range.
pub fn iso_ms(ms: i64) -> String {
    match DateTime::from_timestamp_millis(ms) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        None => ms.to_string(),
    }
}

/// Parses a size above zero to bytes: `'512 MB'`, `'2 GiB'`.
pub fn size_bytes(entry: &OptionEntry) -> Result<u64> {
    let size = entry.value.trim().parse::<ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|bytes| *bytes > 0).ok_or_else(|| bad_value(entry, "write a size, for example '512 MB' or '2 GiB'"))
}

/// Parses a whole number above zero; `_` may group its digits.
pub fn count(entry: &OptionEntry) -> Result<u64> {
    let digits = entry.value.trim().replace('_', "");
    digits
        .parse()
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| bad_value(entry, "write a whole number above 0, for example '10000'"))
}

/// Returns the meaning of the entry's value, which is one of `words` in any case.
pub fn word<T: Copy>(entry: &OptionEntry, words: &[(&'static str, T)]) -> Result<T> {
    let wanted = entry.value.trim();
    words.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let all = names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
        let near = super::suggest::nearest(wanted, names).map(|near| format!("did you mean '{near}'? "));
        bad_value(entry, &format!("{}write one of {all}", near.unwrap_or_default()))
    })
}

/// Returns text that may hold `${env:NAME}` and `${file:PATH}`, unresolved. Refuses empty text.
pub fn text(entry: &OptionEntry) -> Result<String> {
    let mut rest = entry.value.as_str();
    while let Some(start) = rest.find("${") {
        let body = &rest[start + 2..];
        let Some(end) = body.find('}') else {
            return Err(bad_value(entry, "close the reference: ${env:NAME} or ${file:PATH}"));
        };
        let named = ["env:", "file:"].iter().find_map(|kind| body[..end].strip_prefix(kind));
        if named.is_none_or(str::is_empty) {
            return Err(bad_value(entry, "secrets are written ${env:NAME} or ${file:PATH}"));
        }
        rest = &body[end + 1..];
    }
    if entry.value.trim().is_empty() {
        return Err(
            SqlError::at(entry.value_at, format!("'{}' is empty", entry.key)).hint("give it a value, or leave it out")
        );
    }
    Ok(entry.value.clone())
}

/// Returns text without references. Such text is shown, logged and sent, so no reference may put a secret into it.
pub fn plain_text(entry: &OptionEntry) -> Result<String> {
    refuse_reference(entry)?;
    text(entry)
}

/// Refuses `${env:NAME}` and `${file:PATH}`.
pub fn refuse_reference(entry: &OptionEntry) -> Result<()> {
    if entry.value.contains("${") {
        let message = format!("'{}' takes no reference: only secrets and paths do", entry.key);
        return Err(SqlError::at(entry.value_at, message).hint("write the value itself"));
    }
    Ok(())
}

/// Parses an ISO-8601 time, in UTC if it has no zone, to milliseconds since the Unix epoch; `None` if the text is no time.
pub fn parse_time_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(time.and_utc().timestamp_millis());
        }
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis())
}

/// Parses `{"topic":{"0":100}}`. `lowest` is the lowest offset allowed: −2 means earliest, −1 latest.
pub fn topic_offsets(entry: &OptionEntry, lowest: i64) -> Result<TopicOffsets> {
    let example = "write it as {\"topic\":{\"0\":100,\"1\":150}}";
    let parsed: BTreeMap<String, BTreeMap<String, i64>> =
        serde_json::from_str(&entry.value).map_err(|error| bad_value(entry, &format!("{example} ({error})")))?;
    let mut offsets = TopicOffsets::new();
    for (topic, partitions) in parsed {
        let slots = offsets.entry(topic).or_default();
        for (partition, offset) in partitions {
            let number = partition.parse::<i32>().ok().filter(|number| *number >= 0);
            let number =
                number.ok_or_else(|| bad_value(entry, &format!("'{partition}' is not a partition; {example}")))?;
            if offset < lowest {
                let meaning = if lowest == -2 { "-2 is earliest, -1 latest" } else { "-1 is latest" };
                return Err(bad_value(
                    entry,
                    &format!("offset {offset} of partition {partition} is out of range; {meaning}"),
                ));
            }
            slots.insert(number, offset);
        }
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::tokenizer::Location;

    fn entry(value: &str) -> OptionEntry {
        let at = Location::new(1, 1);
        OptionEntry { key: "k".into(), key_at: at, value: value.into(), value_at: at }
    }

    #[test]
    fn durations() {
        for (text, ms) in [
            ("10 seconds", Some(10_000)),
            ("1 second", Some(1_000)),
            ("500ms", Some(500)),
            ("1m 30s", Some(90_000)),
            ("2 hours", Some(7_200_000)),
            ("soon", None),
            ("0s", None),
        ] {
            assert_eq!(parse_duration_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn durations_in_words() {
        for (ms, text) in [
            (3_600_000, "1 hour"),
            (90_000, "1 minute 30 seconds"),
            (172_800_001, "2 days 1 millisecond"),
            (0, "0 seconds"),
        ] {
            assert_eq!(duration_text(ms), text);
        }
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("2026-01-01T00:00:00Z", Some(1_767_225_600_000)),
            ("2026-01-01T01:00:00+01:00", Some(1_767_225_600_000)),
            ("2026-01-01 00:00:00.250", Some(1_767_225_600_250)),
            ("2026-01-01", Some(1_767_225_600_000)),
            ("yesterday", None),
        ] {
            assert_eq!(parse_time_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn offsets() {
        let offsets = topic_offsets(&entry(r#"{"t":{"0":5,"1":-1}}"#), -2).unwrap();
        assert_eq!(offsets["t"], BTreeMap::from([(0, 5), (1, -1)]));
        assert!(topic_offsets(&entry(r#"{"t":{"0":-2}}"#), -1).is_err());
        assert!(topic_offsets(&entry(r#"{"t":{"x":1}}"#), -2).is_err());
        assert!(topic_offsets(&entry("{"), -2).is_err());
    }

    #[test]
    fn secrets_stay_references() {
        assert_eq!(text(&entry("u:${env:PW}@${file:/x}")).unwrap(), "u:${env:PW}@${file:/x}");
        assert!(text(&entry("${env:PW")).is_err());
        assert!(text(&entry("${vault:PW}")).is_err());
        assert!(text(&entry("${env:}")).is_err());
    }
}
