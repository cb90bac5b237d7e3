//! The page that `status` prints: state, rates, limits, warnings, then executors and state.
//!
//! Owns: the page's order and layout. Does not own: tables and number formats (`table`), the JSON (`json`).
//! Invariant: with a width, no line is longer; a page of an ordinary query fits one screen of 80 by 24.

use crate::json::state_name;
use crate::table::{maybe, milliseconds, number, share, short, size, table};
use comfy_table::{Cell, ContentArrangement, Table, presets};
use highwater_proto::v1::QueryStatus;
use serde_json::Value;

/// Lays out the page. `progress` is the document of the last committed batch; `None` if this driver has not seen one.
/// `width` is the maximum number of columns; `None`: no limit.
pub fn page(query: &QueryStatus, progress: Option<&Value>, width: Option<u16>) -> String {
    let mut parts = vec![facts(query, progress, width)];
    parts.extend(executors(query, width));
    parts.extend(progress.and_then(|progress| operators(progress, width)));
    parts.join("\n\n")
}

/// One line per fact, warnings last.
fn facts(query: &QueryStatus, progress: Option<&Value>, width: Option<u16>) -> String {
    let mut facts = Table::new();
    facts.load_preset(presets::NOTHING);
    within(&mut facts, width);
    let mut fact = |name: &str, text: String| {
        facts.add_row([name.to_string(), text]);
    };
    let state = state_name(query.state());
    fact("name", query.name.clone());
    fact("state", if query.message.is_empty() { state.into() } else { format!("{state}: {}", query.message) });
    fact("batch", batch(query, progress));
    if !query.run_id.is_empty() {
        fact("run", query.run_id.clone());
    }
    if let Some(progress) = progress {
        fact("rate", rates(progress));
        fact("behind", behind(progress));
        if let Some(watermark) = progress["eventTime"]["watermark"].as_str() {
            fact("watermark", watermark.to_string());
        }
    }
    if !query.limits.is_empty() {
        fact("limits", limits(query));
    }
    // The reason for which a query waits is among its warnings, too.
    for warning in query.warnings.iter().filter(|warning| **warning != query.message) {
        fact("warning", warning.clone());
    }
    trimmed(&facts)
}

/// The last committed batch, when it was planned and how long it took.
fn batch(query: &QueryStatus, progress: Option<&Value>) -> String {
    let Some(batch) = query.batch_id else { return "none yet".to_string() };
    let about = progress.filter(|progress| progress["batchId"].as_u64() == Some(batch)).and_then(|progress| {
        let planned = progress["timestamp"].as_str()?;
        let duration = milliseconds(progress["batchDuration"].as_i64()?);
        Some(format!(" at {}, took {duration}", planned.get(..19).unwrap_or(planned)))
    });
    format!("{batch}{}", about.unwrap_or_default())
}

/// Records per second that arrived and that were processed, over the last batch.
fn rates(progress: &Value) -> String {
    let rate = |key: &str| progress[key].as_f64().map_or_else(|| "?".to_string(), |rate| format!("{rate:.0}"));
    let rows = progress["numInputRows"].as_u64().unwrap_or(0);
    format!(
        "{} records/s in, {} records/s processed, {rows} in the last batch",
        rate("inputRowsPerSecond"),
        rate("processedRowsPerSecond")
    )
}

/// Number of offsets between the end of the last batch and the log ends that it saw.
fn behind(progress: &Value) -> String {
    let offsets = |value: &Value| -> Option<i64> {
        let topics = value.as_object()?.values();
        topics.map(|partitions| partitions.as_object()?.values().map(Value::as_i64).sum::<Option<i64>>()).sum()
    };
    let lag = |source: &Value| Some((offsets(&source["latestOffset"])? - offsets(&source["endOffset"])?).max(0));
    let sources = progress["sources"].as_array().map_or(&[][..], Vec::as_slice);
    match sources.iter().map(lag).sum::<Option<i64>>() {
        Some(lag) => format!("{lag} records after the last batch; `highwater lag` asks the brokers"),
        None => "unknown; `highwater lag` asks the brokers".to_string(),
    }
}

fn limits(query: &QueryStatus) -> String {
    let limit = |limit: &highwater_proto::v1::QueryLimit| {
        let table = if limit.table.is_empty() { String::new() } else { format!("{}.", limit.table) };
        format!("{table}{} {}", limit.name, limit.value)
    };
    query.limits.iter().map(limit).collect::<Vec<_>>().join(", ")
}

fn executors(query: &QueryStatus, width: Option<u16>) -> Option<String> {
    let mut executors = table(&["executor", "address", "slots", "partitions", "shards", "input rows"]);
    within(&mut executors, width);
    for executor in &query.executors {
        executors.add_row(vec![
            Cell::new(short(&executor.id)),
            Cell::new(&executor.address),
            number(executor.slots),
            Cell::new(share(executor)),
            number(executor.shards),
            number(executor.input_rows),
        ]);
    }
    (!query.executors.is_empty()).then(|| trimmed(&executors))
}

/// The state of the operators, from the progress of the last batch; `None` if no operator keeps state.
fn operators(progress: &Value, width: Option<u16>) -> Option<String> {
    let operators = progress.get("stateOperators")?.as_array().filter(|operators| !operators.is_empty())?;
    let mut operators_table = table(&["operator", "rows", "size", "closed to", "late", "expired"]);
    within(&mut operators_table, width);
    for operator in operators {
        let text = |key: &str| operator.get(key).and_then(Value::as_str);
        let whole = |key: &str| operator.get(key).and_then(Value::as_u64);
        let name = text("operatorName").unwrap_or("?");
        let keeps = text("description").unwrap_or("?");
        operators_table.add_row(vec![
            Cell::new(format!("{} {name}: {keeps}", whole("operatorId").unwrap_or(0))),
            maybe(whole("numRowsTotal")),
            maybe(whole("memoryUsedBytes").map(size)),
            Cell::new(text("closeBefore").map_or("-", |time| time.get(..19).unwrap_or(time))),
            maybe(whole("numRowsDroppedByWatermark")),
            maybe(whole("numRowsExpired")),
        ]);
    }
    Some(trimmed(&operators_table))
}

fn within(table: &mut Table, width: Option<u16>) {
    match width {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
}

/// Prints a table without the spaces that fill its last column.
fn trimmed(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_proto::v1::{ExecutorStatus, PartitionList, QueryLimit, QueryState};
    use serde_json::json;

    fn query() -> QueryStatus {
        let executor = |number: usize| ExecutorStatus {
            id: format!("0199f3a0-0000-7000-8000-00000000000{number}"),
            address: format!("10.0.0.{number}:7080"),
            slots: 8,
            partitions: [("payments".to_string(), PartitionList { partitions: vec![0, 1, 2, 3] })].into(),
            shards: 21,
            input_rows: 123_456_789,
        };
        let limit = |name: &str, table: &str, value: &str| QueryLimit {
            name: name.into(),
            table: table.into(),
            value: value.into(),
        };
        QueryStatus {
            name: "card_totals".into(),
            state: QueryState::Running.into(),
            run_id: "0199f3a0-1111-7000-8000-000000000000".into(),
            batch_id: Some(1234),
            warnings: vec![
                "12 rows were dropped: late, or without event time".into(),
                "payments-3 is about to lose records to retention before they are read: offset 5 is next, 4 is the \
                 earliest retained, 100 is the end; raise retention.ms or add executors"
                    .into(),
            ],
            executors: (1..=3).map(executor).collect(),
            limits: vec![
                limit("trigger", "", "asap"),
                limit("state_memory_limit", "", "12.0 GB"),
                limit("max_offsets_per_trigger", "payments", "100000"),
            ],
            ..QueryStatus::default()
        }
    }

    fn progress() -> Value {
        json!({
            "batchId": 1234, "timestamp": "2026-01-01T00:00:10.123Z", "batchDuration": 45, "numInputRows": 4500,
            "inputRowsPerSecond": 99_876.4, "processedRowsPerSecond": 100_000.0,
            "eventTime": {"watermark": "2026-01-01T00:00:05.000Z"},
            "sources": [{"endOffset": {"payments": {"0": 100, "1": 150}}, "latestOffset": {"payments": {"0": 110, "1": 157}}}],
            "stateOperators": [{"operatorId": 0, "operatorName": "aggregate",
                "description": "count(*), sum(amount) by window_start, card", "numRowsTotal": 12, "memoryUsedBytes": 3400,
                "closeBefore": "2026-01-01T00:00:10.000Z", "numRowsDroppedByWatermark": 5, "numRowsExpired": 0}]
        })
    }

    #[test]
    fn an_ordinary_query_fits_one_screen() {
        let page = page(&query(), Some(&progress()), Some(80));
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        assert!(page.lines().count() <= 24, "{page}");
        for part in [
            "99876 records/s in, 100000 records/s processed",
            "17 records after the last batch",
            "1234 at 2026-01-01T00:00:10, took 45ms",
            "payments.max_offsets_per_trigger 100000",
            "payments 0-3",
            "3.4 kB",
        ] {
            let unwrapped = page.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(unwrapped.contains(part), "{part} is not in\n{page}");
        }
    }

    #[test]
    fn without_a_terminal_nothing_is_wrapped() {
        let query = query();
        let page = page(&query, Some(&progress()), None);
        assert!(query.warnings.iter().all(|warning| page.contains(warning.as_str())), "{page}");
    }

    #[test]
    fn the_reason_for_waiting_appears_once() {
        let reason = "no executor is connected; start one with `highwater executor`";
        let waiting = QueryStatus {
            name: "q".into(),
            state: QueryState::Waiting.into(),
            message: reason.into(),
            warnings: vec![reason.into()],
            ..QueryStatus::default()
        };
        let page = page(&waiting, None, None);
        assert_eq!(page.matches(reason).count(), 1, "{page}");
        assert!(page.contains("none yet"), "{page}");
    }

    #[test]
    fn operators_without_state_are_left_out() {
        assert_eq!(operators(&json!({"stateOperators": []}), None), None);
    }
}
