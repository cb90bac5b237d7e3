//! The formats of records: decoding bytes to Arrow columns, and encoding rows as bytes.
//!
//! Owns: the traits of a format, and the list of codecs. Does not own: names and options of formats
//! (`highwater_sql::formats` has a declaration for each), Kafka, the meaning of a record without value.
//! A new format needs a declaration in `highwater_sql::formats`, a file here, and a line in [`CODECS`]. Invariants: a
//! codec is chosen once, when a source or sink is opened; nothing outside this folder depends on which codec it is.

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

/// The codecs of all formats of records.
static CODECS: &[Codec] = &[json::CODEC, csv::CODEC, raw::CODEC];

/// Reading and writing of a format.
pub struct Codec {
    pub spec: &'static FormatSpec,
    pub decoder: fn(&Layout<'_>) -> Result<Box<dyn RowDecoder>, ConnectorError>,
    /// Opens an encoder of the given columns.
    pub encoder: fn(&Format, Vec<usize>) -> Encoder,
}

/// An encoder, or the reason why the format cannot be written.
pub type Encoder = Result<Arc<dyn RowEncoder>, ConnectorError>;

/// The part of a table's records that a decoder reads: the keys or the values.
#[derive(Clone, Debug)]
pub struct Layout<'a> {
    pub format: &'a Format,
    /// All columns of this part, in order.
    pub fields: &'a Fields,
    /// The columns to decode, in the order of the result.
    pub wanted: Vec<Wanted>,
}

/// A column to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Index into `fields`.
    pub at: usize,
    /// Whether it is in the PRIMARY KEY, and so never NULL.
    pub is_key: bool,
}

/// The part of a record to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    Bytes(&'a [u8]),
    /// The part is missing: every column is NULL, which is a fault if a column cannot be NULL.
    Null,
    /// The part is ignored, and a placeholder row is appended.
    Skip,
}

/// Columns with a row for every record, good or bad.
#[derive(Debug, Default)]
pub struct Decoded {
    pub columns: Vec<ArrayRef>,
    /// Indexes and faults of bad records, ascending. The content of their rows is undefined.
    pub bad: Vec<(usize, Fault)>,
    /// Which columns none of the records had a field for; `None` if the format does not go by the names of fields, or there
    /// was no record to look at.
    pub absent: Option<Vec<bool>>,
}

/// Decodes one part of a table's records.
pub trait RowDecoder: Send {
    /// Decodes records to columns, in the order of `Layout::wanted`. A bad record is no error.
    ///
    /// # Errors
    /// The rows do not fit into one batch.
    fn decode(&mut self, records: &[Input<'_>]) -> Result<Decoded, ArrowError>;
}

/// Encodes one part of a table's records.
pub trait RowEncoder: Debug + Send + Sync {
    /// Returns the bytes of every row; NULL if the part is missing.
    ///
    /// # Errors
    /// A row cannot be written in this format.
    fn encode(&self, batch: &RecordBatch) -> Result<LargeBinaryArray, ConnectorError>;

    /// Returns the first line of a file, without the end of line; `None` if files begin with the first row.
    fn header(&self, schema: &Schema) -> Option<Vec<u8>>;
}

/// A builder of the bytes of many rows, written one after another.
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

    /// Returns the buffer to which the bytes of the current row are appended.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn end_row(&mut self) {
        self.ends.push(self.bytes.len() as i64);
    }

    /// Returns one value per row.
    ///
    /// # Errors
    /// None in practice: Arrow checks that the offsets ascend, and they do.
    pub fn finish(self) -> Result<LargeBinaryArray, ArrowError> {
        LargeBinaryArray::try_new(OffsetBuffer::new(self.ends.into()), self.bytes.into(), None)
    }
}

/// Opens the decoder of a format.
///
/// # Errors
/// The format cannot be read, or cannot hold one of the columns.
pub fn decoder(layout: &Layout<'_>) -> Result<Box<dyn RowDecoder>, ConnectorError> {
    (codec(layout.format)?.decoder)(layout)
}

/// Opens the encoder of a format for these columns.
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
