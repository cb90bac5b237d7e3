//! The results of a run, as text and JSON.
//!
//! Owns: the columns. Does not own: measuring.

use crate::cli::NexmarkArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::{number, table};
use comfy_table::Cell;
use serde_json::{Value, json};

/// One query of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub query: &'static str,
    /// Number of records it read from its tables.
    pub events: u64,
    /// From submit to the last commit.
    pub seconds: f64,
    /// Number of records it wrote, corrections included.
    pub output_rows: u64,
}

impl Measured {
    fn events_per_second(&self) -> u64 {
        if self.seconds > 0.0 { (self.events as f64 / self.seconds) as u64 } else { 0 }
    }
}

/// Shows a run: a row per query, or one document.
pub fn show(args: &NexmarkArgs, measured: &[Measured], context: &Context) -> Result<(), Failure> {
    context.show(|| document(args, measured), || rows(measured))
}

fn rows(measured: &[Measured]) -> String {
    let mut table = table(&["query", "events", "seconds", "events/s", "output rows"]);
    for one in measured {
        table.add_row(vec![
            Cell::new(one.query),
            number(one.events),
            number(format!("{:.2}", one.seconds)),
            number(one.events_per_second()),
            number(one.output_rows),
        ]);
    }
    table.to_string()
}

fn document(args: &NexmarkArgs, measured: &[Measured]) -> Value {
    let query = |one: &Measured| {
        json!({
            "query": one.query,
            "events": one.events,
            "seconds": (one.seconds * 1_000.0).round() / 1_000.0,
            "eventsPerSecond": one.events_per_second(),
            "outputRows": one.output_rows,
        })
    };
    json!({
        "events": args.events,
        "partitions": args.partitions,
        "executors": args.executors,
        "queries": measured.iter().map(query).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_per_query() {
        let measured = [Measured { query: "q5", events: 920, seconds: 2.0, output_rows: 7 }];
        let text = rows(&measured);
        let row: Vec<&str> = text.lines().last().unwrap_or_default().split_whitespace().collect();
        assert_eq!(row, ["q5", "920", "2.00", "460", "7"]);
        assert!(text.contains("EVENTS/S") && text.contains("OUTPUT ROWS"), "{text}");
    }
}
