//! The progress line of a followed query: its newest batch, and all records since the follow began.
//!
//! Owns: adding up progress documents, and reading numbers from them.

use serde_json::Value;
use std::fmt;

/// Returns a whole number of a document; `None` if it has none of that name.
pub fn whole(document: &Value, key: &str) -> Option<u64> {
    document.get(key).and_then(Value::as_u64)
}

/// Returns a number of a document; `None` if it has none of that name.
pub fn rate(document: &Value, key: &str) -> Option<f64> {
    document.get(key).and_then(Value::as_f64)
}

/// What the progress line shows.
#[derive(Debug, Default)]
pub struct Totals {
    batch: Option<u64>,
    records: u64,
    per_second: Option<f64>,
}

impl Totals {
    pub fn add(&mut self, document: &Value) {
        self.batch = whole(document, "batchId");
        self.records += whole(document, "numInputRows").unwrap_or(0);
        self.per_second = rate(document, "processedRowsPerSecond");
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.batch {
            None => f.write_str("no batch committed yet"),
            Some(batch) => {
                write!(f, "batch {batch}, {} records", self.records)?;
                self.per_second.map_or(Ok(()), |rate| write!(f, ", {rate:.0} records/s"))
            }
        }
    }
}
