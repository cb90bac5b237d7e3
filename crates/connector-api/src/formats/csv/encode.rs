//! Rows to CSV records.
//!
//! Owns: delimiters, quotes and NULL. Does not own: the text of values, which JSON's encoders write. Invariants: a text
//! is quoted if it would otherwise be read as something else; a value is written in the same way by every process.

use super::Style;
use crate::error::ConnectorError;
use crate::formats::{BytesOfRows, RowEncoder, json};
use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Schema};
use arrow::error::ArrowError;
use arrow_json::EncoderOptions;
use arrow_json::writer::{NullableEncoder, make_encoder};
use highwater_sql::formats::Format;
use memchr::memchr3;

/// Encodes some columns of batches of one schema as one line per row, without the end of line.
#[derive(Debug)]
pub struct CsvEncoder {
    columns: Vec<usize>,
    style: Style,
    /// Whether files begin with the names of the columns.
    has_header: bool,
    options: EncoderOptions,
}

/// The source of a column's fields.
enum Cells<'a> {
    Texts(StringArray),
    /// Values whose JSON text, without quotes, is the field.
    Others(NullableEncoder<'a>),
}

impl CsvEncoder {
    /// Takes the indexes of the columns, in the order of the fields.
    pub fn new(format: &Format, columns: Vec<usize>) -> Self {
        let has_header = format.flag("csv.header");
        Self { columns, style: Style::of(format), has_header, options: json::encoder_options() }
    }

    fn cells<'a>(&'a self, field: &'a FieldRef, column: &'a ArrayRef) -> Result<Cells<'a>, ArrowError> {
        match column.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Ok(Cells::Texts(cast(column, &DataType::Utf8)?.as_string::<i32>().clone()))
            }
            _ => make_encoder(field, column, &self.options).map(Cells::Others),
        }
    }

    /// Writes a field; `None` is NULL.
    fn write(&self, field: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(field) = field else {
            out.extend_from_slice(self.style.null.as_bytes());
            return;
        };
        // An empty line would not be a record.
        let is_all = self.columns.len() == 1 && field.is_empty();
        let Style { delimiter, quote, null } = &self.style;
        let has_syntax = memchr3(*delimiter, *quote, b'\n', field).is_some() || field.contains(&b'\r');
        if !is_all && !has_syntax && field != null.as_bytes() {
            out.extend_from_slice(field);
            return;
        }
        out.push(*quote);
        for byte in field {
            if byte == quote {
                out.push(*quote);
            }
            out.push(*byte);
        }
        out.push(*quote);
    }
}

impl RowEncoder for CsvEncoder {
    fn encode(&self, batch: &RecordBatch) -> Result<LargeBinaryArray, ConnectorError> {
        let failed = |error: ArrowError| ConnectorError::Config(format!("a row cannot be written as CSV: {error}"));
        let schema = batch.schema();
        let cells = |column: &usize| self.cells(&schema.fields()[*column], batch.column(*column));
        let mut columns: Vec<Cells<'_>> = self.columns.iter().map(cells).collect::<Result<_, _>>().map_err(failed)?;
        let rows = batch.num_rows();
        let mut lines = BytesOfRows::with_capacity(rows, rows * 16 * columns.len());
        let mut value = Vec::new();
        for row in 0..rows {
            for (place, cells) in columns.iter_mut().enumerate() {
                if place > 0 {
                    lines.bytes().push(self.style.delimiter);
                }
                let field = match cells {
                    Cells::Texts(texts) => texts.is_valid(row).then(|| texts.value(row).as_bytes()),
                    Cells::Others(encoder) if encoder.is_null(row) => None,
                    Cells::Others(encoder) => {
                        value.clear();
                        encoder.encode(row, &mut value);
                        bare(&value)
                    }
                };
                self.write(field, lines.bytes());
            }
            lines.end_row();
        }
        lines.finish().map_err(failed)
    }

    fn header(&self, schema: &Schema) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        for (place, column) in self.columns.iter().enumerate().filter(|_| self.has_header) {
            if place > 0 {
                line.push(self.style.delimiter);
            }
            self.write(Some(schema.field(*column).name().as_bytes()), &mut line);
        }
        self.has_header.then_some(line)
    }
}

/// Returns a JSON value without quotes; `None` for null. The value is not a string with escapes.
fn bare(value: &[u8]) -> Option<&[u8]> {
    match value {
        // A float that is not finite is written as null.
        b"null" => None,
        [b'"', inside @ .., b'"'] => Some(inside),
        other => Some(other),
    }
}
