//! The formats of records: bytes to Arrow columns, and rows to bytes.
//!
//! Owns: what a format is to sources and sinks, and the list of them. Does not own: what scripts may say of formats
//! (`highwater_sql::formats` has a declaration for each), Kafka, what a record without value means.
//! To add a format: its declaration in `highwater_sql::formats`, its file here, its line in [`CODECS`]. Invariants: a codec is
//! chosen once, when a source or sink is opened; nothing outside this folder asks which it is.

mod csv;
mod fault;
pub mod json;
mod raw;

pub use fault::Fault;

use crate::error::ConnectorError;
use arrow::array::{ArrayRef, LargeBinaryArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Fields, Schema};
use arrow::error::ArrowError;
use highwater_sql::formats::{Format, FormatSpec};
use std::fmt::Debug;
use std::sync::Arc;

/// Every format that records can have.
static CODECS: &[Codec] = &[json::CODEC, csv::CODEC, raw::CODEC];

/// A format's reading and writing.
pub struct Codec {
    pub spec: &'static FormatSpec,
    pub decoder: fn(&Layout<'_>) -> Result<Box<dyn RowDecoder>, ConnectorError>,
    /// Of these columns.
    pub encoder: fn(&Format, Vec<usize>) -> Encoder,
}

/// An encoder, or why there is none.
pub type Encoder = Result<Arc<dyn RowEncoder>, ConnectorError>;

/// What a decoder is opened for: the keys or the values of a table.
#[derive(Clone, Debug)]
pub struct Layout<'a> {
    pub format: &'a Format,
    /// Columns of this part of a record, in its order.
    pub fields: &'a Fields,
    /// Those to decode, in the order asked for.
    pub wanted: Vec<Wanted>,
}

/// A column to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its place among the fields.
    pub at: usize,
    /// It is of the PRIMARY KEY, and never NULL.
    pub is_key: bool,
}

/// What a record has in the part that is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    Bytes(&'a [u8]),
    /// Nothing, so that every column is NULL: a fault where one cannot be.
    Null,
    /// It is not to be looked at: a row is wanted that stands in for it.
    Skip,
}

/// Columns with a row for every record, good or bad.
#[derive(Debug, Default)]
pub struct Decoded {
    pub columns: Vec<ArrayRef>,
    /// Which records are bad, ascending, and why. Their rows hold anything.
    pub bad: Vec<(usize, Fault)>,
    /// Which columns none of the records had a field for; `None` if the format does not go by the names of fields, or there
    /// was no record to look at.
    pub absent: Option<Vec<bool>>,
}

/// Reads one part of a table's records.
pub trait RowDecoder: Send {
    /// # Errors
    /// The rows do not fit into one batch; a bad record is no error.
    fn decode(&mut self, records: &[Input<'_>]) -> Result<Decoded, ArrowError>;
}

/// Writes one part of a table's records.
pub trait RowEncoder: Debug + Send + Sync {
    /// The bytes of every row; NULL is no bytes at all.
    ///
    /// # Errors
    /// A row cannot be written so.
    fn encode(&self, batch: &RecordBatch) -> Result<LargeBinaryArray, ConnectorError>;

    /// The line that a file of such rows begins with, without its end; `None`: with the first row.
    fn header(&self, schema: &Schema) -> Option<Vec<u8>>;
}

/// Rows' bytes, written one after another.
#[derive(Debug)]
pub struct BytesOfRows {
    bytes: Vec<u8>,
    ends: Vec<i64>,
}

impl BytesOfRows {
    pub fn with_capacity(rows: usize, size_bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self { bytes: Vec::with_capacity(size_bytes), ends }
    }

    /// Where the bytes of the row go.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn end_row(&mut self) {
        self.ends.push(self.bytes.len() as i64);
    }

    /// # Errors
    /// Arrow's, of offsets that do not ascend: they do.
    pub fn finish(self) -> Result<LargeBinaryArray, ArrowError> {
        LargeBinaryArray::try_new(OffsetBuffer::new(self.ends.into()), self.bytes.into(), None)
    }
}

/// Opens the decoder of a format.
///
/// # Errors
/// The format cannot be read, or has no place for one of the columns.
pub fn decoder(layout: &Layout<'_>) -> Result<Box<dyn RowDecoder>, ConnectorError> {
    (codec(layout.format)?.decoder)(layout)
}

/// Opens the encoder of these columns.
///
/// # Errors
/// The format cannot be written.
pub fn encoder(format: &Format, columns: Vec<usize>) -> Result<Arc<dyn RowEncoder>, ConnectorError> {
    (codec(format)?.encoder)(format, columns)
}

fn codec(format: &Format) -> Result<&'static Codec, ConnectorError> {
    let unknown = || ConnectorError::Config(format!("records of format '{}' cannot be read or written", format.name()));
    CODECS.iter().find(|codec| codec.spec.name == format.name()).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_sql::formats::FORMATS;

    #[test]
    fn every_format_of_records_that_is_declared_has_a_codec_and_no_other() {
        let declared: Vec<&str> =
            FORMATS.iter().filter(|spec| spec.reads || spec.writes).map(|spec| spec.name).collect();
        let here: Vec<&str> = CODECS.iter().map(|codec| codec.spec.name).collect();
        assert_eq!(declared, here);
    }
}
