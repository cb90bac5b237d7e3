//! `progress`: the committed micro-batches.
//!
//! Owns: the one-line view of a progress document. Does not own: the documents, which are the driver's.

use crate::cli::ProgressArgs;
use crate::client::{Client, LOOK, request};
use crate::context::Context;
use crate::failure::Failure;
use crate::follow::{self, Batch, News};
use crate::output;
use crate::table;
use crate::totals::{rate, whole};
use comfy_table::Cell;
use highwater_proto::v1::StreamProgressRequest;
use serde_json::Value;

const HEADING: &str =
    "   BATCH  TIME                 RECORDS  RECORDS/S    TOOK MS  WATERMARK            STATE ROWS  STATE SIZE    LATE";

pub async fn progress(args: ProgressArgs, context: &Context) -> Result<(), Failure> {
    let driver = context.driver()?;
    let mut view = View { json: context.global.json, stages: args.stages, headed: false };
    if args.follow {
        return follow_until_end(&driver, &args, view).await;
    }
    let (name, last) = (args.name.as_str(), args.last);
    let call = |mut client: Client| async move {
        let asked = StreamProgressRequest { name: name.to_string(), last, follow: false };
        client.stream_progress(request(asked, LOOK)).await
    };
    let mut stream = driver.call(call).await?;
    let mut batches = 0;
    while let Some(message) = stream.message().await? {
        if let Some(batch) = follow::parse(&message.progress_json)? {
            batches += 1;
            view.batch(&batch)?;
        }
    }
    if batches == 0 && last > 0 {
        output::note(&format!("query {name} has not committed a micro-batch yet"));
    }
    Ok(())
}

async fn follow_until_end(driver: &crate::client::Driver, args: &ProgressArgs, mut view: View) -> Result<(), Failure> {
    let followed = follow::follow(driver, &args.name, args.last, |news| match news {
        News::Batch(batch) => view.batch(&batch),
        News::Away(reason) => {
            output::note(&format!("the driver is away ({reason}); waiting for it to return"));
            Ok(())
        }
        News::Back => Ok(()),
    });
    tokio::select! {
        ended = followed => {
            let status = ended?;
            let state = crate::json::state_name(status.state());
            output::note(format!("query {} {state} {}", status.name, status.message).trim_end());
            Ok(())
        }
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted(String::new())),
    }
}

struct View {
    json: bool,
    /// Each batch is followed by its stages.
    stages: bool,
    headed: bool,
}

impl View {
    fn batch(&mut self, batch: &Batch) -> Result<(), Failure> {
        if self.json {
            return output::line(&batch.text);
        }
        if !self.headed {
            self.headed = true;
            output::line(HEADING)?;
        }
        output::line(&row(&batch.document))?;
        if self.stages {
            output::line(&stages(&batch.document))?;
        }
        Ok(())
    }
}

/// One batch on one line, under [`HEADING`].
pub fn row(document: &Value) -> String {
    let time = text(document, "timestamp").unwrap_or("?");
    let watermark = document.get("eventTime").and_then(|event| event.get("watermark")).and_then(Value::as_str);
    format!(
        "{:>8}  {:<19} {:>8}  {:>9}  {:>9}  {:<19}  {:>10}  {:>10}  {:>6}",
        whole(document, "batchId").map_or_else(|| "?".to_string(), |id| id.to_string()),
        seconds(time),
        whole(document, "numInputRows").unwrap_or(0),
        rate(document, "processedRowsPerSecond").map_or_else(|| "?".to_string(), |rate| format!("{rate:.0}")),
        whole(document, "batchDuration").unwrap_or(0),
        watermark.map_or("-", seconds),
        of_operators(document, "numRowsTotal"),
        table::size(of_operators(document, "memoryUsedBytes")),
        of_operators(document, "numRowsDroppedByWatermark"),
    )
}

/// The stages of a batch: a line per operator with its rows and time, and the state of those that keep some.
fn stages(document: &Value) -> String {
    let mut table =
        table::table(&["stage", "step", "rows in", "rows out", "retracted", "time ms", "state rows", "state"]);
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let states = list(document, "stateOperators");
    let state_of = |step: &Value| {
        let id = whole(step, "operatorId")?;
        states.iter().find(|state| whole(state, "operatorId") == Some(id))
    };
    for stage in list(document, "stages") {
        let id = whole(&stage, "stageId").unwrap_or_default();
        for step in list(&stage, "steps") {
            let state = state_of(&step);
            let of_state = |key: &str| state.and_then(|state| whole(state, key));
            table.add_row(vec![
                table::number(id),
                Cell::new(text(&step, "description").unwrap_or("?")),
                table::number(whole(&step, "numInputRows").unwrap_or(0)),
                table::number(whole(&step, "numOutputRows").unwrap_or(0)),
                table::number(whole(&step, "numRetractedRows").unwrap_or(0)),
                table::number(format!("{:.1}", step.get("timeMs").and_then(Value::as_f64).unwrap_or(0.0))),
                of_state("numRowsTotal").map_or_else(|| Cell::new(""), table::number),
                of_state("memoryUsedBytes").map_or_else(|| Cell::new(""), |bytes| table::number(table::size(bytes))),
            ]);
        }
        let ms = |key: &str| stage.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let output = format!(
            "(sending and writing; the slowest of {} tasks took {:.1} ms in all)",
            whole(&stage, "numTasks").unwrap_or(0),
            ms("slowestTaskMs")
        );
        let blank = || Cell::new("");
        let time = table::number(format!("{:.1}", ms("outputMs")));
        table.add_row(vec![table::number(id), Cell::new(output), blank(), blank(), blank(), time, blank(), blank()]);
    }
    match table.is_empty() {
        true => "no counters: the batch was executed by an earlier run".into(),
        false => table.to_string(),
    }
}

/// Sum of a number over all operators.
fn of_operators(document: &Value, key: &str) -> u64 {
    let operators = document.get("stateOperators").and_then(Value::as_array);
    operators.into_iter().flatten().filter_map(|operator| whole(operator, key)).sum()
}

/// An ISO time without fractions and zone.
fn seconds(time: &str) -> &str {
    time.get(..19).unwrap_or(time)
}

fn text<'a>(document: &'a Value, key: &str) -> Option<&'a str> {
    document.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::totals::Totals;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "batchId": 7, "timestamp": "2026-01-01T00:00:00.123Z", "batchDuration": 42, "numInputRows": 1000,
            "processedRowsPerSecond": 23809.5, "eventTime": {"watermark": "2025-12-31T23:59:55.000Z"},
            "stateOperators": [
                {"numRowsTotal": 3, "memoryUsedBytes": 1500, "numRowsDroppedByWatermark": 2},
                {"numRowsTotal": 4, "memoryUsedBytes": 600},
            ]
        })
    }

    #[test]
    fn a_batch_is_one_line_under_its_heading() {
        let row = row(&document());
        assert_eq!(
            row,
            "       7  2026-01-01T00:00:00     1000      23810         42  2025-12-31T23:59:55           7      2.1 kB       2"
        );
        assert_eq!(row.len(), HEADING.len());
    }

    #[test]
    fn stages_show_each_operator_with_its_state() {
        let step = |description: &str, operator: Value| {
            json!({"pipeline": 0, "description": description, "operatorId": operator, "numInputRows": 10,
                   "numOutputRows": 4, "numRetractedRows": 2, "timeMs": 1.25})
        };
        let steps = [step("aggregate by a", json!(0)), step("sink out", Value::Null)];
        let stage = json!({"stageId": 1, "numTasks": 2, "slowestTaskMs": 3.5, "outputMs": 0.5, "steps": steps});
        let states = json!([{"operatorId": 0, "numRowsTotal": 7, "memoryUsedBytes": 1500}]);
        let shown = stages(&json!({"stages": [stage], "stateOperators": states}));
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["1", "aggregate", "by", "a", "10", "4", "2", "1.2", "7", "1.5", "kB"], "{shown}");
        assert_eq!(lines[2], ["1", "sink", "out", "10", "4", "2", "1.2"], "{shown}");
        assert!(shown.contains("the slowest of 2 tasks took 3.5 ms"), "{shown}");
        assert!(stages(&json!({"stages": []})).starts_with("no counters"));
    }

    #[test]
    fn unknown_values_are_question_marks() {
        let row = row(&json!({}));
        assert!(row.trim_start().starts_with('?'), "{row}");
    }

    #[test]
    fn totals_add_up() {
        let mut totals = Totals::default();
        assert_eq!(totals.to_string(), "no batch committed yet");
        totals.add(&document());
        totals.add(&document());
        assert_eq!(totals.to_string(), "batch 7, 2000 records, 23810 records/s");
    }
}
