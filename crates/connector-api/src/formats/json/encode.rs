//! Encoding Arrow rows as JSON objects, with arrow-json's encoders.
//!
//! Owns: overriding those encoders for BYTES (base64) and floats (null if not finite). Invariants: all columns are
//! written, nulls explicitly; a value is encoded in the same way by every process.

use crate::error::ConnectorError;
use crate::formats::{BytesOfRows, RowEncoder};
use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow_json::writer::{NullableEncoder, make_encoder};
use arrow_json::{Encoder, EncoderFactory, EncoderOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;

/// Encodes some columns of batches of one schema as one object per row.
#[derive(Clone, Debug)]
pub struct ObjectEncoder {
    columns: Vec<usize>,
    options: EncoderOptions,
}

impl ObjectEncoder {
    /// Takes the indexes of the columns, in the order of the object's members.
    pub fn new(columns: Vec<usize>) -> Self {
        Self { columns, options: encoder_options() }
    }
}

/// Returns the options for encoding single values.
pub fn encoder_options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(Overrides))
}

impl RowEncoder for ObjectEncoder {
    fn encode(&self, batch: &RecordBatch) -> Result<LargeBinaryArray, ConnectorError> {
        let rows = batch.num_rows();
        let schema = batch.schema();
        let fields: Fields = self.columns.iter().map(|column| Arc::new(schema.field(*column).clone())).collect();
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| batch.column(*column).clone()).collect();
        let failed = |error: ArrowError| ConnectorError::Config(format!("a row cannot be written as JSON: {error}"));
        let all = StructArray::try_new_with_length(fields, columns, None, rows).map_err(failed)?;
        let field: FieldRef = Arc::new(Field::new("row", all.data_type().clone(), false));
        let mut encoder = make_encoder(&field, &all, &self.options).map_err(failed)?;
        let mut objects = BytesOfRows::with_capacity(rows, rows * 64);
        for row in 0..rows {
            encoder.encode(row, objects.bytes());
            objects.end_row();
        }
        objects.finish().map_err(failed)
    }

    fn header(&self, _: &arrow::datatypes::Schema) -> Option<Vec<u8>> {
        None
    }
}

#[derive(Debug)]
struct Overrides;

impl EncoderFactory for Overrides {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => Box::new(Base64(|row| array.as_binary::<i32>().value(row))),
            DataType::LargeBinary => Box::new(Base64(|row| array.as_binary::<i64>().value(row))),
            DataType::BinaryView => Box::new(Base64(|row| array.as_binary_view().value(row))),
            DataType::FixedSizeBinary(_) => Box::new(Base64(|row| array.as_fixed_size_binary().value(row))),
            DataType::Float64 => Box::new(Float(|row| array.as_primitive::<Float64Type>().value(row))),
            DataType::Float32 => Box::new(Float32(|row| array.as_primitive::<Float32Type>().value(row))),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct Base64<F>(F);

impl<'a, F: Fn(usize) -> &'a [u8]> Encoder for Base64<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode((self.0)(row)).as_bytes());
        out.push(b'"');
    }
}

/// Writes the shortest digits that read back as the same number.
struct Float<F>(F);
struct Float32<F>(F);

impl<F: Fn(usize) -> f64> Encoder for Float<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        number(serde_json::Number::from_f64((self.0)(row)), out);
    }
}

impl<F: Fn(usize) -> f32> Encoder for Float32<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = (self.0)(row);
        // Converted by way of text: widened to f64, 0.1 would become 0.10000000149011612.
        let shortest = value.is_finite().then(|| value.to_string().parse::<f64>().ok()).flatten();
        number(shortest.and_then(serde_json::Number::from_f64), out);
    }
}

fn number(value: Option<serde_json::Number>, out: &mut Vec<u8>) {
    match value {
        Some(value) => out.extend_from_slice(value.to_string().as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn encode(columns: Vec<(&str, ArrayRef)>) -> Vec<Value> {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap();
        let encoder = ObjectEncoder::new((0..batch.num_columns()).collect());
        let objects = encoder.encode(&batch).unwrap();
        (0..batch.num_rows()).map(|row| serde_json::from_slice(objects.value(row)).unwrap()).collect()
    }

    #[test]
    fn every_type_as_the_contract_says() {
        let decimal = Decimal128Array::from(vec![Some(-1234), None]).with_precision_and_scale(10, 2).unwrap();
        let rows = encode(vec![
            ("i", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
            ("f", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN)]))),
            ("g", Arc::new(Float32Array::from(vec![Some(0.1), Some(f32::INFINITY)]))),
            ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("s", Arc::new(StringArray::from(vec![Some("a\"\n\u{1}é"), None]))),
            ("y", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None]))),
            ("d", Arc::new(decimal)),
            ("t", Arc::new(TimestampMillisecondArray::from(vec![Some(1_767_225_600_500), Some(1_767_225_600_000)]))),
            ("z", Arc::new(TimestampMillisecondArray::from(vec![Some(1_767_225_600_000), None]).with_timezone("UTC"))),
            ("day", Arc::new(Date32Array::from(vec![Some(20_454), None]))),
        ]);
        assert_eq!(
            rows,
            [
                json!({"i": i64::MAX, "f": 0.1, "g": 0.1, "b": true, "s": "a\"\n\u{1}é", "y": "AP8=", "d": -12.34,
                    "t": "2026-01-01T00:00:00.500", "z": "2026-01-01T00:00:00Z", "day": "2026-01-01"}),
                json!({"i": null, "f": null, "g": null, "b": null, "s": null, "y": null, "d": null,
                    "t": "2026-01-01T00:00:00", "z": null, "day": null}),
            ]
        );
    }

    #[test]
    fn nested_values_keep_their_nulls() {
        let inner = StructArray::try_new(
            vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Binary, true)].into(),
            vec![
                Arc::new(Int32Array::from(vec![Some(1), None])),
                Arc::new(BinaryArray::from_opt_vec(vec![None, Some(b"a")])),
            ],
            None,
        )
        .unwrap();
        let list =
            ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(vec![Some(vec![Some(1), None]), None]);
        let rows = encode(vec![("o", Arc::new(inner)), ("l", Arc::new(list))]);
        assert_eq!(rows[0], json!({"o": {"x": 1, "y": null}, "l": [1, null]}));
        assert_eq!(rows[1], json!({"o": {"x": null, "y": "YQ=="}, "l": null}));
    }

    #[test]
    fn columns_come_in_the_order_asked_for() {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let batch = RecordBatch::try_from_iter([("a", column.clone()), ("b", column)]).unwrap();
        assert_eq!(ObjectEncoder::new(vec![1, 0]).encode(&batch).unwrap().value(0), br#"{"b":1,"a":1}"#);
    }

    proptest! {
        #[test]
        fn text_and_floats_read_back_the_same(text in ".*", float in any::<f64>()) {
            let rows = encode(vec![("s", Arc::new(StringArray::from(vec![text.clone()])))]);
            prop_assert_eq!(rows[0]["s"].as_str(), Some(text.as_str()));
            let column: ArrayRef = Arc::new(Float64Array::from(vec![float]));
            let batch = RecordBatch::try_from_iter([("f", column)]).unwrap();
            let objects = ObjectEncoder::new(vec![0]).encode(&batch).unwrap();
            // Read by the standard library: serde_json rounds long numbers.
            let written = std::str::from_utf8(objects.value(0)).unwrap();
            let written = written.strip_prefix("{\"f\":").unwrap().strip_suffix('}').unwrap();
            prop_assert_eq!(written.parse::<f64>().ok(), float.is_finite().then_some(float));
        }
    }
}
