//! The raw format: the bytes of one column, unchanged.
//!
//! Owns: reading and writing them. Does not own: which column that is (`sql::record_columns`). Invariant: NULL is a
//! missing part, never an empty one.

use super::fault::utf8;
use super::{Codec, Decoded, Fault, Input, Layout, RowDecoder, RowEncoder};
use crate::error::ConnectorError;
use arrow::array::{ArrayRef, AsArray, BinaryBuilder, LargeBinaryArray, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use highwater_sql::formats::{Format, RAW};
use std::sync::Arc;

pub const CODEC: Codec = Codec { spec: &RAW, decoder, encoder };

/// Opens a decoder of the one column; if the column is not wanted, a decoder that does nothing.
fn decoder(layout: &Layout<'_>) -> Result<Box<dyn RowDecoder>, ConnectorError> {
    let Some(wanted) = layout.wanted.first() else { return Ok(Box::new(Nothing)) };
    let field = &layout.fields[wanted.at];
    let builder = match field.data_type() {
        _ if layout.fields.len() != 1 => return Err(one_column(layout.fields.len())),
        DataType::Utf8 => Builder::Text(StringBuilder::new()),
        DataType::Binary => Builder::Bytes(BinaryBuilder::new()),
        other => {
            let message = format!("column '{}': type {other} cannot be read from raw bytes", field.name());
            return Err(ConnectorError::Config(message));
        }
    };
    Ok(Box::new(RawDecoder { name: field.name().clone(), nullable: field.is_nullable(), builder }))
}

fn encoder(_: &Format, columns: Vec<usize>) -> Result<Arc<dyn RowEncoder>, ConnectorError> {
    match columns.as_slice() {
        [column] => Ok(Arc::new(RawEncoder { column: *column })),
        all => Err(one_column(all.len())),
    }
}

fn one_column(found: usize) -> ConnectorError {
    ConnectorError::Config(format!("format 'raw' needs exactly one column, not {found}"))
}

struct Nothing;

impl RowDecoder for Nothing {
    fn decode(&mut self, _: &[Input<'_>]) -> Result<Decoded, ArrowError> {
        Ok(Decoded::default())
    }
}

struct RawDecoder {
    name: String,
    nullable: bool,
    builder: Builder,
}

enum Builder {
    Text(StringBuilder),
    Bytes(BinaryBuilder),
}

impl RawDecoder {
    fn append(&mut self, record: Input<'_>) -> Result<(), Fault> {
        let fault = match (record, &mut self.builder) {
            (Input::Bytes(bytes), Builder::Bytes(builder)) => {
                builder.append_value(bytes);
                return Ok(());
            }
            (Input::Bytes(bytes), Builder::Text(builder)) => match utf8(bytes) {
                Ok(text) => {
                    builder.append_value(text);
                    return Ok(());
                }
                Err(fault) => Err(fault),
            },
            (Input::Null, _) if !self.nullable => Err(Fault::new("NULL, but declared NOT NULL")),
            (Input::Null | Input::Skip, _) => Ok(()),
        };
        let stand_in = !self.nullable;
        match &mut self.builder {
            Builder::Text(builder) => builder.append_option(stand_in.then_some("")),
            Builder::Bytes(builder) => builder.append_option(stand_in.then_some([])),
        }
        fault.map_err(|fault| fault.within(&self.name))
    }

    fn finish(&mut self) -> ArrayRef {
        match &mut self.builder {
            Builder::Text(builder) => Arc::new(builder.finish()),
            Builder::Bytes(builder) => Arc::new(builder.finish()),
        }
    }
}

impl RowDecoder for RawDecoder {
    fn decode(&mut self, records: &[Input<'_>]) -> Result<Decoded, ArrowError> {
        let mut bad = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if let Err(fault) = self.append(*record) {
                bad.push((index, fault));
            }
        }
        Ok(Decoded { columns: vec![self.finish()], bad, absent: None })
    }
}

#[derive(Debug)]
struct RawEncoder {
    column: usize,
}

impl RowEncoder for RawEncoder {
    fn encode(&self, batch: &RecordBatch) -> Result<LargeBinaryArray, ConnectorError> {
        let bytes = cast(batch.column(self.column), &DataType::LargeBinary)
            .map_err(|error| ConnectorError::Config(format!("a row cannot be written as raw bytes: {error}")))?;
        Ok(bytes.as_binary::<i64>().clone())
    }

    fn header(&self, _: &arrow::datatypes::Schema) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Wanted;
    use arrow::array::{Array, BinaryArray, StringArray};
    use arrow::datatypes::{Field, Fields};

    fn read(data_type: DataType, nullable: bool, records: &[Input<'_>]) -> (ArrayRef, Vec<(usize, String)>) {
        let format = Format::of(&RAW);
        let fields = Fields::from(vec![Field::new("c", data_type, nullable)]);
        let wanted = vec![Wanted { at: 0, is_key: false }];
        let mut decoder = decoder(&Layout { format: &format, fields: &fields, wanted }).unwrap();
        let Decoded { mut columns, bad, .. } = decoder.decode(records).unwrap();
        (columns.remove(0), bad.into_iter().map(|(index, fault)| (index, fault.to_string())).collect())
    }

    #[test]
    fn bytes_are_read_as_they_are_and_nothing_is_null() {
        let records = [Input::Bytes(b"\xff\x00"), Input::Null, Input::Bytes(b""), Input::Skip];
        let (column, bad) = read(DataType::Binary, true, &records);
        let values: Vec<_> = column.as_binary::<i32>().iter().collect();
        assert_eq!(values, [Some(&b"\xff\x00"[..]), None, Some(&b""[..]), None]);
        assert!(bad.is_empty(), "{bad:?}");
        let (column, bad) = read(DataType::Utf8, false, &records);
        assert_eq!((column.len(), column.null_count()), (4, 0));
        let reasons = ["column 'c': not UTF-8 at byte 0", "column 'c': NULL, but declared NOT NULL"];
        assert_eq!(bad, [(0, reasons[0].to_string()), (1, reasons[1].to_string())]);
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("\n,\"é")]));
        let bytes: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\xff"), None, Some(b""), Some(b"x")]));
        for column in [texts, bytes] {
            let batch = RecordBatch::try_from_iter_with_nullable([("c", column.clone(), true)]).unwrap();
            let written = encoder(&Format::of(&RAW), vec![0]).unwrap().encode(&batch).unwrap();
            let records: Vec<Input<'_>> = written.iter().map(|one| one.map_or(Input::Null, Input::Bytes)).collect();
            let (again, bad) = read(column.data_type().clone(), true, &records);
            assert_eq!((&again, bad.len()), (&column, 0));
        }
    }

    #[test]
    fn a_column_nobody_asks_for_is_not_looked_at() {
        let format = Format::of(&RAW);
        let fields = Fields::from(vec![Field::new("c", DataType::Utf8, false)]);
        let mut decoder = decoder(&Layout { format: &format, fields: &fields, wanted: Vec::new() }).unwrap();
        let Decoded { columns, bad, .. } = decoder.decode(&[Input::Bytes(b"\xff"), Input::Null]).unwrap();
        assert!(columns.is_empty() && bad.is_empty());
    }
}
