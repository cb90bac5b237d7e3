//! The limits with which a query was submitted, as `status` lists them.
//!
//! Owns: which options count as limits, and their text. Does not own: applying them (crate `protocol`, `state_limit`).

use bytesize::ByteSize;
use highwater_planner::CompiledQuery;
use highwater_proto::v1::QueryLimit;
use highwater_protocol::options::Trigger;
use std::time::Duration;

/// Returns the configured limits: those of the whole query first, then those of each source table. An option without a
/// limit is not listed.
pub(crate) fn limits_of(compiled: &CompiledQuery) -> Vec<QueryLimit> {
    let options = &compiled.options;
    let mut limits = vec![limit("trigger", "", trigger(&options.trigger))];
    let of_query = [
        ("state_memory_limit", options.state_memory_limit.map(|bytes| ByteSize(bytes).display().si().to_string())),
        ("state_ttl", options.state_ttl_ms.map(milliseconds)),
        ("max_watermark_drift", options.max_drift_ms.map(milliseconds)),
    ];
    limits.extend(of_query.into_iter().filter_map(|(name, value)| Some(limit(name, "", value?))));
    for source in &compiled.sources {
        let of_source = [
            ("max_offsets_per_trigger", source.options.max_offsets_per_trigger.map(|count| count.to_string())),
            ("min_offsets_per_trigger", source.options.min_offsets_per_trigger.map(|count| count.to_string())),
            ("max_records_per_second", source.options.max_records_per_second.map(|count| count.to_string())),
            ("max_trigger_delay", source.options.max_trigger_delay_ms.map(milliseconds)),
        ];
        limits.extend(of_source.into_iter().filter_map(|(name, value)| Some(limit(name, &source.name, value?))));
    }
    limits
}

fn limit(name: &str, table: &str, value: String) -> QueryLimit {
    QueryLimit { name: name.to_string(), table: table.to_string(), value }
}

fn trigger(trigger: &Trigger) -> String {
    match trigger {
        Trigger::Asap => "asap".to_string(),
        Trigger::Every { interval_ms } => format!("every {}", milliseconds(*interval_ms)),
        Trigger::AvailableNow => "available_now".to_string(),
        Trigger::Once => "once".to_string(),
    }
}

fn milliseconds(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configured_limits_are_listed_with_their_table() {
        let script = "
            SET trigger = 'every 2 seconds';
            SET state_memory_limit = '2 GB';
            CREATE TABLE a (x BIGINT) WITH ('connector' = 'kafka', 'topic' = 'a', 'bootstrap.servers' = 'h:1',
              'format' = 'json', 'max_offsets_per_trigger' = '1000');
            CREATE TABLE b (x BIGINT) WITH ('connector' = 'kafka', 'topic' = 'b', 'bootstrap.servers' = 'h:1',
              'format' = 'json');
            CREATE TABLE o (x BIGINT) WITH ('connector' = 'console');
            INSERT INTO o SELECT x FROM a UNION ALL SELECT x FROM b;";
        let compiled = highwater_planner::compile(script).unwrap();
        let found = limits_of(&compiled);
        let found: Vec<(&str, &str, &str)> =
            found.iter().map(|limit| (limit.name.as_str(), limit.table.as_str(), limit.value.as_str())).collect();
        assert_eq!(
            found,
            [
                ("trigger", "", "every 2s"),
                ("state_memory_limit", "", "2.0 GB"),
                ("max_offsets_per_trigger", "a", "1000")
            ]
        );
    }
}
