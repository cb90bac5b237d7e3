//! The CSV format: one line per record, columns by position.
//!
//! Owns: splitting a line into fields (`split`), reading them (`decode`) and writing them (`encode`). Does not own: the
//! text of values, which is as in JSON, without quotes. Invariants: written values are read back unchanged; quotes
//! distinguish an empty text from NULL.

mod decode;
mod encode;
mod split;
mod values;

use super::{Codec, Decoded, Input, Layout, RowDecoder};
use arrow::error::ArrowError;
use decode::CsvDecoder;
use encode::CsvEncoder;
use highwater_sql::formats::{CSV, Format};
use std::sync::Arc;

pub const CODEC: Codec = Codec {
    spec: &CSV,
    decoder: |layout: &Layout<'_>| Ok(Box::new(CsvDecoder::new(layout)?)),
    encoder: |format, columns| Ok(Arc::new(CsvEncoder::new(format, columns))),
};

/// The syntax of records.
#[derive(Clone, Debug)]
struct Style {
    delimiter: u8,
    quote: u8,
    /// The text that means NULL if it is not quoted.
    null: String,
}

impl Style {
    fn of(format: &Format) -> Self {
        Self {
            delimiter: format.character("csv.delimiter"),
            quote: format.character("csv.quote"),
            null: format.text("csv.null").to_string(),
        }
    }
}

impl RowDecoder for CsvDecoder {
    fn decode(&mut self, records: &[Input<'_>]) -> Result<Decoded, ArrowError> {
        let mut bad = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if let Err(fault) = self.append(*record) {
                bad.push((index, fault));
            }
        }
        Ok(Decoded { columns: self.finish()?, bad, absent: None })
    }
}

#[cfg(test)]
mod tests;
