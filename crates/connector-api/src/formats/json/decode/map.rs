//! Decoding JSON objects to maps: `MAP<STRING, T>`.
//!
//! Owns: one map column under construction. Does not own: the values' type (`column`). Invariants: entries are sorted
//! by key, and of a repeated key only the last counts, so that equal objects are equal maps; every append adds exactly
//! one entry to the column, even if it fails.

use super::FieldDecoder;
use crate::formats::Fault;
use crate::formats::json::decode_scalar::expected;
use crate::formats::json::scan::{Scanner, Span, unescape};
use arrow::array::{ArrayRef, MapArray, StringBuilder, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, FieldRef, Fields};
use arrow::error::ArrowError;
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct MapDecoder {
    entries: FieldRef,
    fields: Fields,
    keys: StringBuilder,
    values: FieldDecoder,
    offsets: Vec<i32>,
    validity: Vec<bool>,
}

impl MapDecoder {
    /// Returns `None` for a map that cannot be read from a JSON object.
    pub fn new(entries: &FieldRef) -> Option<Self> {
        let DataType::Struct(fields) = entries.data_type() else { return None };
        let [key, value] = fields.as_ref() else { return None };
        (*key.data_type() == DataType::Utf8).then_some(())?;
        Some(Self {
            entries: entries.clone(),
            fields: fields.clone(),
            keys: StringBuilder::new(),
            values: FieldDecoder::new(value)?,
            offsets: vec![0],
            validity: Vec::new(),
        })
    }

    pub fn len(&self) -> usize {
        self.validity.len()
    }

    /// Appends the text of one JSON value. Entries after a bad one are left out, since the record is bad anyway.
    pub fn append(&mut self, value: &str, scratch: &mut String) -> Result<(), Fault> {
        let result = members(value, scratch).and_then(|members| {
            members.into_iter().try_for_each(|(key, span)| {
                self.keys.append_value(&key);
                self.values.append(Some(span.of(value)), scratch).map_err(|fault| fault.within(&key))
            })
        });
        self.end(true);
        result
    }

    pub fn append_absent(&mut self, nullable: bool) {
        self.end(!nullable);
    }

    fn end(&mut self, valid: bool) {
        self.offsets.push(i32::try_from(self.values.rows()).unwrap_or(i32::MAX));
        self.validity.push(valid);
    }

    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let keys: ArrayRef = Arc::new(self.keys.finish());
        let entries = StructArray::try_new(self.fields.clone(), vec![keys, self.values.finish()?], None)?;
        let offsets = OffsetBuffer::new(std::mem::replace(&mut self.offsets, vec![0]).into());
        let validity = std::mem::take(&mut self.validity);
        let nulls = validity.contains(&false).then(|| NullBuffer::from(validity));
        Ok(Arc::new(MapArray::try_new(self.entries.clone(), offsets, entries, nulls, false)?))
    }
}

/// Returns the members of an object by name.
fn members(value: &str, scratch: &mut String) -> Result<BTreeMap<String, Span>, Fault> {
    let mut scanner = Scanner::new(value, 0);
    let mut members = BTreeMap::new();
    if !scanner.take(b'{') {
        return Err(expected("an object", value));
    }
    if scanner.take(b'}') {
        return Ok(members);
    }
    loop {
        scanner.skip_space();
        let name = scanner.string()?.of(value);
        let name = match name.contains('\\') {
            true => {
                unescape(name, scratch)?;
                scratch.clone()
            }
            false => name.to_string(),
        };
        if !scanner.take(b':') {
            return Err(scanner.unexpected("':'"));
        }
        members.insert(name, scanner.value(0)?);
        if scanner.take(b'}') {
            return Ok(members);
        }
        if !scanner.take(b',') {
            return Err(scanner.unexpected("',' or '}'"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::formats::json::decode::JsonDecoder;
    use crate::formats::json::encode::ObjectEncoder;
    use crate::formats::{Input, RowEncoder};
    use arrow::array::RecordBatch;
    use arrow::datatypes::{DataType, Field, Fields, Schema};
    use std::sync::Arc;

    fn map_of(value: DataType) -> DataType {
        let fields = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)]);
        DataType::Map(Arc::new(Field::new("entries", DataType::Struct(fields), false)), false)
    }

    #[test]
    fn objects_are_maps_and_maps_are_objects() {
        let fields = Fields::from(vec![Field::new("m", map_of(DataType::Int32), true)]);
        let mut decoder = JsonDecoder::new(&fields, &[]).unwrap();
        for text in [r#"{"m": {"b": 1, "a\n": null, "b": 2}}"#, r#"{"m": null}"#, r#"{"m": {}}"#] {
            decoder.append(Input::Bytes(text.as_bytes())).unwrap();
        }
        let error = decoder.append(Input::Bytes(br#"{"m": {"a": "x"}}"#)).unwrap_err().to_string();
        assert!(error.starts_with("column 'm.a'"), "{error}");
        let error = decoder.append(Input::Bytes(br#"{"m": [1]}"#)).unwrap_err().to_string();
        assert!(error.contains("an object"), "{error}");
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), decoder.finish().unwrap()).unwrap();
        let objects = ObjectEncoder::new(vec![0]).encode(&batch).unwrap();
        let texts: Vec<&str> = (0..3).map(|row| std::str::from_utf8(objects.value(row)).unwrap()).collect();
        assert_eq!(texts, [r#"{"m":{"a\n":null,"b":2}}"#, r#"{"m":null}"#, r#"{"m":{}}"#]);
    }
}
