//! Tables for the terminal.
//!
//! Owns: columns and number formats. Does not own: the JSON (`json`).

use crate::json::{partitions, state_name};
use arrow::array::{Array, RecordBatch};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use highwater_dataflow::runtime::state_reader::TIME_COLUMNS;
use highwater_proto::v1::{ExecutorStatus, GetLagResponse, QueryStatus};
use std::time::Duration;

/// An empty table with these headings.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headings.iter().map(|heading| Cell::new(heading.to_uppercase())));
    table
}

/// Rows of state, under the names of their columns. Times that none of them has are left out.
pub fn rows_table(rows: &RecordBatch) -> Result<Table, ArrowError> {
    let schema = rows.schema();
    let is_shown = |column: &usize| {
        let is_time = TIME_COLUMNS.contains(&schema.field(*column).name().as_str());
        !is_time || rows.column(*column).null_count() < rows.num_rows()
    };
    let columns: Vec<usize> = (0..rows.num_columns()).filter(is_shown).collect();
    let mut table = table(&[]);
    table.set_header(columns.iter().map(|column| Cell::new(schema.field(*column).name())));
    let options = FormatOptions::default().with_null("NULL");
    let format = |column: &usize| ArrayFormatter::try_new(rows.column(*column).as_ref(), &options);
    let texts = columns.iter().map(format).collect::<Result<Vec<_>, _>>()?;
    for row in 0..rows.num_rows() {
        table.add_row(columns.iter().zip(&texts).map(|(column, text)| {
            let value = text.value(row);
            if schema.field(*column).data_type().is_numeric() { number(value) } else { Cell::new(value) }
        }));
    }
    Ok(table)
}

/// A cell for a number, aligned to the right.
pub fn number(value: impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

/// A cell for a number that may be unknown.
pub fn maybe(value: Option<impl ToString>) -> Cell {
    value.map_or_else(|| number("?"), number)
}

/// `ls`.
pub fn list(queries: &[QueryStatus]) -> String {
    if queries.is_empty() {
        return "no queries; submit one with `highwater submit FILE.sql`".to_string();
    }
    let mut table = table(&["name", "state", "batch", "executors", "message"]);
    for query in queries {
        table.add_row(vec![
            Cell::new(&query.name),
            Cell::new(state_name(query.state())),
            query.batch_id.map_or_else(|| number("-"), number),
            number(query.executors.len()),
            Cell::new(&query.message),
        ]);
    }
    table.to_string()
}

/// `lag`.
pub fn lag(lag: &GetLagResponse) -> String {
    let mut table = table(&["topic", "partition", "committed", "earliest", "latest", "lag", "behind"]);
    for partition in &lag.partitions {
        table.add_row(vec![
            Cell::new(&partition.topic),
            number(partition.partition),
            maybe(partition.committed_offset),
            maybe(partition.earliest_offset),
            maybe(partition.latest_offset),
            maybe(partition.lag),
            maybe(partition.behind_ms.map(milliseconds)),
        ]);
    }
    let total = lag.total_lag.map_or_else(|| "? (a broker did not answer)".to_string(), |total| total.to_string());
    format!("{table}\ntotal lag of {}: {total}", lag.name)
}

/// Partitions of one executor: `payments 0-3, refunds 0`.
pub fn share(executor: &ExecutorStatus) -> String {
    let shares: Vec<_> =
        partitions(executor).into_iter().map(|(topic, numbers)| format!("{topic} {}", ranges(numbers))).collect();
    if shares.is_empty() { "-".to_string() } else { shares.join(", ") }
}

/// Shortens ascending numbers: `0-3,7`.
pub fn ranges(numbers: &[i32]) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == number => *end = number,
            _ => runs.push((number, number)),
        }
    }
    let runs: Vec<_> = runs.into_iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    runs.join(",")
}

/// Returns the last 8 characters of a UUID, which suffice to distinguish executors: its beginning is a time, which
/// executors started together share.
pub fn short(id: &str) -> &str {
    id.get(id.len().saturating_sub(8)..).unwrap_or(id)
}

/// A readable number of bytes.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1_000.0;
    let mut unit = 0;
    while size >= 999.95 && unit + 1 < UNITS.len() {
        size /= 1_000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// The width of the terminal that stdout goes to; `None` if it is not a terminal.
pub fn terminal_width() -> Option<u16> {
    Table::new().width()
}

/// A duration in its two largest units.
pub fn milliseconds(ms: i64) -> String {
    let ms = u64::try_from(ms).unwrap_or(0);
    if ms >= 10_000 {
        return humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
    }
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_shortened() {
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn an_unknown_lag_is_a_question_mark() {
        let wire = GetLagResponse {
            name: "q".into(),
            total_lag: None,
            partitions: vec![highwater_proto::v1::PartitionLag { topic: "t".into(), ..Default::default() }],
        };
        let text = lag(&wire);
        assert!(text.contains('?') && text.contains("total lag of q: ?"), "{text}");
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        let sizes = [999, 1_000, 999_949, 999_950, 25_300_000].map(size);
        assert_eq!(sizes, ["999 B", "1.0 kB", "999.9 kB", "1.0 MB", "25.3 MB"]);
    }

    #[test]
    fn long_times_drop_their_milliseconds() {
        assert_eq!(milliseconds(1_234), "1s 234ms");
        assert_eq!(milliseconds(61_234), "1m 1s");
        assert_eq!(milliseconds(-1), "0s");
    }
}
