//! Arrow columns built from JSON values.
//!
//! Owns: one builder per data type. Does not own: objects (`decode`), scalar texts (`decode_scalar`).
//! Invariant: every append adds exactly one entry, even if it fails. So the columns of a batch have the same length,
//! and bad records are filtered out afterwards instead of rolled back.

use super::map::MapDecoder;
use super::{FieldDecoder, ObjectDecoder};
use crate::formats::Fault;
use crate::formats::json::decode_scalar as scalar;
use crate::formats::json::scan::Scanner;
use crate::formats::json::scan::shorten;
use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::*;
use arrow::error::ArrowError;
use base64::Engine;
use std::sync::Arc;

/// A column under construction.
pub enum Column {
    Boolean(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Utf8(StringBuilder),
    Binary(BinaryBuilder),
    Decimal(Decimal128Builder, u8, i8),
    Timestamp(Int64Builder, TimeUnit, Option<Arc<str>>),
    Date(Int32Builder),
    Time(Int64Builder, TimeUnit),
    Struct(Box<ObjectDecoder>, Fields, Validity),
    List(Box<FieldDecoder>, FieldRef, Vec<i32>, Validity),
    Map(Box<MapDecoder>),
}

/// Validity bits: false is null.
#[derive(Default)]
pub struct Validity(Vec<bool>);

impl Validity {
    fn push(&mut self, valid: bool) {
        self.0.push(valid);
    }
    fn finish(&mut self) -> Option<NullBuffer> {
        let bits = std::mem::take(&mut self.0);
        bits.contains(&false).then(|| NullBuffer::from(bits))
    }
}

/// Appends a decoded value, or a placeholder for a value that failed to decode.
pub fn put<T: Default>(result: Result<T, Fault>, append: impl FnOnce(T)) -> Result<(), Fault> {
    match result {
        Ok(value) => {
            append(value);
            Ok(())
        }
        Err(fault) => {
            append(T::default());
            Err(fault)
        }
    }
}

/// Matches all columns whose builders take an `Option` of a type with a default.
macro_rules! plain {
    ($column:expr, $b:ident => $body:expr; $($rest:tt)*) => {
        match $column {
            Column::Boolean($b) => $body,
            Column::Int8($b) => $body,
            Column::Int16($b) => $body,
            Column::Int32($b) | Column::Date($b) => $body,
            Column::Int64($b) | Column::Timestamp($b, ..) | Column::Time($b, _) => $body,
            Column::UInt8($b) => $body,
            Column::UInt16($b) => $body,
            Column::UInt32($b) => $body,
            Column::UInt64($b) => $body,
            Column::Float32($b) => $body,
            Column::Float64($b) => $body,
            Column::Decimal($b, ..) => $body,
            $($rest)*
        }
    };
}

impl Column {
    /// Returns `None` for a type that cannot be read from JSON.
    pub fn new(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Int8 => Self::Int8(Int8Builder::new()),
            DataType::Int16 => Self::Int16(Int16Builder::new()),
            DataType::Int32 => Self::Int32(Int32Builder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::UInt8 => Self::UInt8(UInt8Builder::new()),
            DataType::UInt16 => Self::UInt16(UInt16Builder::new()),
            DataType::UInt32 => Self::UInt32(UInt32Builder::new()),
            DataType::UInt64 => Self::UInt64(UInt64Builder::new()),
            DataType::Float32 => Self::Float32(Float32Builder::new()),
            DataType::Float64 => Self::Float64(Float64Builder::new()),
            DataType::Utf8 => Self::Utf8(StringBuilder::new()),
            DataType::Binary => Self::Binary(BinaryBuilder::new()),
            DataType::Decimal128(precision, scale) => {
                let builder = Decimal128Builder::new().with_precision_and_scale(*precision, *scale).ok()?;
                Self::Decimal(builder, *precision, *scale)
            }
            DataType::Timestamp(unit, zone) => Self::Timestamp(Int64Builder::new(), *unit, zone.clone()),
            DataType::Date32 => Self::Date(Int32Builder::new()),
            DataType::Time32(unit) | DataType::Time64(unit) => Self::Time(Int64Builder::new(), *unit),
            DataType::Struct(fields) => {
                Self::Struct(Box::new(ObjectDecoder::new(fields).ok()?), fields.clone(), Validity::default())
            }
            DataType::List(item) => {
                Self::List(Box::new(FieldDecoder::new(item)?), item.clone(), vec![0], Validity::default())
            }
            DataType::Map(entries, _) => Self::Map(Box::new(MapDecoder::new(entries)?)),
            _ => return None,
        })
    }

    /// Appends a value that is not null. `value` is the text of exactly one JSON value.
    pub fn append(&mut self, value: &str, scratch: &mut String) -> Result<(), Fault> {
        match self {
            Self::Boolean(b) => put(scalar::boolean(value), |v| b.append_value(v)),
            Self::Int8(b) => put(scalar::narrow(value, "TINYINT"), |v| b.append_value(v)),
            Self::Int16(b) => put(scalar::narrow(value, "SMALLINT"), |v| b.append_value(v)),
            Self::Int32(b) => put(scalar::narrow(value, "INT"), |v| b.append_value(v)),
            Self::Int64(b) => put(scalar::narrow(value, "BIGINT"), |v| b.append_value(v)),
            Self::UInt8(b) => put(scalar::narrow(value, "TINYINT UNSIGNED"), |v| b.append_value(v)),
            Self::UInt16(b) => put(scalar::narrow(value, "SMALLINT UNSIGNED"), |v| b.append_value(v)),
            Self::UInt32(b) => put(scalar::narrow(value, "INT UNSIGNED"), |v| b.append_value(v)),
            Self::UInt64(b) => put(scalar::narrow(value, "BIGINT UNSIGNED"), |v| b.append_value(v)),
            Self::Float32(b) => put(scalar::float(value), |v| b.append_value(v)),
            Self::Float64(b) => put(scalar::double(value), |v| b.append_value(v)),
            Self::Utf8(b) => put(scalar::text(value, scratch), |v| b.append_value(v)),
            Self::Binary(b) => put(binary(value, scratch), |v| b.append_value(v)),
            Self::Decimal(b, precision, scale) => {
                put(scalar::decimal(value, *precision, *scale, scratch), |v| b.append_value(v))
            }
            Self::Timestamp(b, unit, _) => put(scalar::timestamp(value, *unit, scratch), |v| b.append_value(v)),
            Self::Date(b) => put(scalar::date(value, scratch), |v| b.append_value(v)),
            Self::Time(b, unit) => {
                let nanos = scalar::time_nanos(value, scratch).map(|nanos| nanos / nanos_per(*unit));
                put(nanos, |v| b.append_value(v))
            }
            Self::Struct(object, _, validity) => {
                let result = object.append(value, scratch);
                // A struct that failed counts as valid: its children hold placeholders.
                validity.push(true);
                result
            }
            Self::List(item, _, offsets, validity) => {
                let result = append_items(item, value, scratch);
                offsets.push(i32::try_from(item.rows()).unwrap_or(i32::MAX));
                validity.push(true);
                result
            }
            Self::Map(map) => map.append(value, scratch),
        }
    }

    /// Appends a null, or a placeholder if the column is not nullable (the record is then bad and filtered out).
    pub fn append_absent(&mut self, nullable: bool) {
        plain!(self, b => b.append_option((!nullable).then(Default::default));
            Self::Utf8(b) => b.append_option((!nullable).then_some("")),
            Self::Binary(b) => b.append_option((!nullable).then_some([])),
            Self::Struct(object, _, validity) => {
                object.append_absent();
                validity.push(!nullable);
            }
            Self::List(item, _, offsets, validity) => {
                offsets.push(i32::try_from(item.rows()).unwrap_or(i32::MAX));
                validity.push(!nullable);
            }
            Self::Map(map) => map.append_absent(nullable),
        );
    }

    /// Returns the number of entries so far.
    pub fn len(&self) -> usize {
        plain!(self, b => b.len();
            Self::Utf8(b) => b.len(),
            Self::Binary(b) => b.len(),
            Self::Struct(_, _, validity) | Self::List(_, _, _, validity) => validity.0.len(),
            Self::Map(map) => map.len(),
        )
    }

    /// Returns the array built so far, and clears the column.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Boolean(b) => Arc::new(b.finish()),
            Self::Int8(b) => Arc::new(b.finish()),
            Self::Int16(b) => Arc::new(b.finish()),
            Self::Int32(b) => Arc::new(b.finish()),
            Self::Int64(b) => Arc::new(b.finish()),
            Self::UInt8(b) => Arc::new(b.finish()),
            Self::UInt16(b) => Arc::new(b.finish()),
            Self::UInt32(b) => Arc::new(b.finish()),
            Self::UInt64(b) => Arc::new(b.finish()),
            Self::Float32(b) => Arc::new(b.finish()),
            Self::Float64(b) => Arc::new(b.finish()),
            Self::Utf8(b) => Arc::new(b.finish()),
            Self::Binary(b) => Arc::new(b.finish()),
            Self::Decimal(b, precision, scale) => Arc::new(b.finish().with_precision_and_scale(*precision, *scale)?),
            Self::Timestamp(b, unit, zone) => timestamps(b.finish(), *unit, zone.clone()),
            Self::Date(b) => Arc::new(b.finish().reinterpret_cast::<Date32Type>()),
            Self::Time(b, unit) => times(b.finish(), *unit),
            Self::Struct(object, fields, validity) => {
                let rows = validity.0.len();
                Arc::new(StructArray::try_new_with_length(fields.clone(), object.finish()?, validity.finish(), rows)?)
            }
            Self::List(item, field, offsets, validity) => {
                let offsets = OffsetBuffer::new(std::mem::replace(offsets, vec![0]).into());
                Arc::new(ListArray::try_new(field.clone(), offsets, item.finish()?, validity.finish())?)
            }
            Self::Map(map) => map.finish()?,
        })
    }
}

/// Appends the items of an array value. Items after a bad one are left out, since the record is bad anyway.
fn append_items(item: &mut FieldDecoder, value: &str, scratch: &mut String) -> Result<(), Fault> {
    let mut scanner = Scanner::new(value, 0);
    if !scanner.take(b'[') {
        return Err(scalar::expected("an array", value));
    }
    if scanner.take(b']') {
        return Ok(());
    }
    for index in 0.. {
        let span = scanner.value(0)?;
        item.append(Some(span.of(value)), scratch).map_err(|fault| fault.within(&format!("[{index}]")))?;
        if !scanner.take(b',') {
            break;
        }
    }
    Ok(())
}

fn binary(value: &str, scratch: &mut String) -> Result<Vec<u8>, Fault> {
    let text = scalar::string(value, scratch).map_err(|_| scalar::expected("a base64 string", value))?;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| Fault::new(format!("expected a base64 string, found {}: {error}", shorten(value))))
}

/// Returns the number of nanoseconds in a unit.
pub fn nanos_per(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1000,
        TimeUnit::Nanosecond => 1,
    }
}

fn timestamps(values: Int64Array, unit: TimeUnit, zone: Option<Arc<str>>) -> ArrayRef {
    match unit {
        TimeUnit::Second => Arc::new(values.reinterpret_cast::<TimestampSecondType>().with_timezone_opt(zone)),
        TimeUnit::Millisecond => {
            Arc::new(values.reinterpret_cast::<TimestampMillisecondType>().with_timezone_opt(zone))
        }
        TimeUnit::Microsecond => {
            Arc::new(values.reinterpret_cast::<TimestampMicrosecondType>().with_timezone_opt(zone))
        }
        TimeUnit::Nanosecond => Arc::new(values.reinterpret_cast::<TimestampNanosecondType>().with_timezone_opt(zone)),
    }
}

fn times(values: Int64Array, unit: TimeUnit) -> ArrayRef {
    // A day has fewer than 2^31 milliseconds, so the narrow types hold it.
    let narrow = |value: i64| i32::try_from(value).unwrap_or_default();
    match unit {
        TimeUnit::Second => Arc::new(values.unary::<_, Time32SecondType>(narrow)),
        TimeUnit::Millisecond => Arc::new(values.unary::<_, Time32MillisecondType>(narrow)),
        TimeUnit::Microsecond => Arc::new(values.reinterpret_cast::<Time64MicrosecondType>()),
        TimeUnit::Nanosecond => Arc::new(values.reinterpret_cast::<Time64NanosecondType>()),
    }
}
