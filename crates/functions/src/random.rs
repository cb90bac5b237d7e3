//! Pseudo-random values: a hash of the query's seed, the place of the call and the record's position.

use super::{Columns, at, texts};
use datafusion::arrow::array::{ArrayRef, AsArray, Float64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

pub fn all() -> Vec<Columns> {
    vec![
        Columns::new("hw_random(seed, place, topic, partition, offset)", (5, 5), DataType::Float64, random),
        Columns::new("hw_uuid(seed, place, topic, partition, offset)", (5, 5), DataType::Utf8, uuid),
    ]
}

/// Returns a hash of 128 bits for each row.
fn hashes(columns: &[ArrayRef], rows: usize) -> Result<Vec<u128>> {
    let (place, topic) = (texts(&columns[1])?, texts(&columns[2])?);
    let number = |place: usize| cast(&columns[place], &DataType::Int64);
    let (seed, partition, offset) = (number(0)?, number(3)?, number(4)?);
    let mut bytes = Vec::new();
    let hash = |row: usize| {
        bytes.clear();
        for numbers in [&seed, &partition, &offset] {
            bytes.extend(numbers.as_primitive::<Int64Type>().value(row).to_le_bytes());
        }
        for text in [&place, &topic] {
            let text = at(text, row).unwrap_or_default();
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        xxh3_128(&bytes)
    };
    Ok((0..rows).map(hash).collect())
}

/// Returns numbers from 0 to below 1, in steps of 2⁻⁵³.
fn random(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let part = |hash: u128| (hash as u64 >> 11) as f64 / (1u64 << 53) as f64;
    Ok(Arc::new(hashes(columns, rows)?.into_iter().map(|hash| Some(part(hash))).collect::<Float64Array>()))
}

/// Returns UUIDs in the form of version 4.
fn uuid(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let form = |hash: u128| {
        let bits = hash & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let hex = format!("{bits:032x}");
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    };
    Ok(Arc::new(hashes(columns, rows)?.into_iter().map(|hash| Some(form(hash))).collect::<StringArray>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::{Int32Array, Int64Array};

    fn columns(place: &str) -> Vec<ArrayRef> {
        vec![
            Arc::new(Int64Array::from(vec![7; 4])),
            Arc::new(StringArray::from(vec![place; 4])),
            Arc::new(StringArray::from(vec!["t"; 4])),
            Arc::new(Int32Array::from(vec![0, 0, 1, 1])),
            Arc::new(Int64Array::from(vec![0, 1, 0, 0])),
        ]
    }

    #[test]
    fn the_same_record_gives_the_same_value() {
        let of = |place| random(&columns(place), 4).unwrap();
        let values = of("1:2");
        let values = values.as_primitive::<datafusion::arrow::datatypes::Float64Type>();
        assert!(values.values().iter().all(|value| (0.0..1.0).contains(value)));
        assert_eq!(values.value(2), values.value(3));
        assert!(values.value(0) != values.value(1) && values.value(0) != values.value(2));
        assert_eq!(&of("1:2"), &of("1:2"));
        assert_ne!(&of("1:2"), &of("1:3"));
    }

    #[test]
    fn uuids_have_their_form() {
        let ids = uuid(&columns("1:2"), 4).unwrap();
        for id in ids.as_string::<i32>().iter().flatten() {
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert!(id[14..15] == *"4" && "89ab".contains(&id[19..20]), "{id}");
        }
    }
}
