//! Lists and structs told apart.
//!
//! Owns: `UNNEST` over one batch. Invariants: a row gives as many rows as its longest list has elements, shorter ones
//! filled up with NULL; each carries the row's weight.

use super::pipeline::batch;
use crate::dataflow::{UnnestSpec, Unnested};
use crate::delta::DeltaBatch;
use crate::error::EngineError;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Int64Type};
use std::sync::Arc;

/// The elements of the lists of these rows.
pub fn unnest(spec: &UnnestSpec, rows: &DeltaBatch) -> Result<DeltaBatch, EngineError> {
    let mut lists: Vec<Option<ArrayRef>> = vec![None; spec.columns.len()];
    for (place, (column, unnested)) in spec.columns.iter().enumerate() {
        if *unnested == Unnested::Element {
            lists[place] = Some(as_list(rows.batch.column(*column))?);
        }
    }
    let is_any = lists.iter().any(Option::is_some);
    let lengths: Vec<usize> =
        (0..rows.num_rows()).map(|row| if is_any { length(spec, &lists, row) } else { 1 }).collect();
    let parents: UInt32Array =
        lengths.iter().enumerate().flat_map(|(row, length)| std::iter::repeat_n(row as u32, *length)).collect();
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(spec.columns.len());
    for ((column, unnested), list) in spec.columns.iter().zip(&lists) {
        let column = rows.batch.column(*column);
        columns.push(match (unnested, list) {
            (Unnested::Element, Some(list)) => elements(list, &lengths)?,
            (Unnested::Field(field), _) => {
                let parts =
                    column.as_struct_opt().ok_or_else(|| EngineError::Internal("no struct to unnest".into()))?;
                // A field of a struct that is NULL is NULL.
                let values =
                    arrow::compute::kernels::nullif::nullif(parts.column(*field), &arrow::compute::is_null(column)?)?;
                take(&values, &parents, None)?
            }
            _ => take(column, &parents, None)?,
        });
    }
    let weights = match &rows.weights {
        Some(weights) => Some(take(weights, &parents, None)?.as_primitive::<Int64Type>().clone()),
        None => None::<Int64Array>,
    };
    Ok(DeltaBatch { batch: batch(&spec.schema, columns, parents.len())?, weights })
}

/// Lists of any layout as plain ones.
fn as_list(column: &ArrayRef) -> Result<ArrayRef, EngineError> {
    let item = match column.data_type() {
        DataType::List(_) => return Ok(column.clone()),
        DataType::Null => return Ok(new_null_array(&DataType::new_list(DataType::Null, true), column.len())),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item,
        DataType::ListView(item) | DataType::LargeListView(item) => item,
        other => return Err(EngineError::Internal(format!("UNNEST of {other}"))),
    };
    Ok(cast(column, &DataType::List(Arc::clone(item)))?)
}

fn length(spec: &UnnestSpec, lists: &[Option<ArrayRef>], row: usize) -> usize {
    let of = |list: &ArrayRef| match list.is_null(row) {
        true => usize::from(spec.keeps_null),
        false => (list.as_list::<i32>().value_length(row) as usize).max(usize::from(spec.keeps_empty)),
    };
    lists.iter().flatten().map(of).max().unwrap_or(0)
}

fn elements(list: &ArrayRef, lengths: &[usize]) -> Result<ArrayRef, EngineError> {
    let list = list.as_list::<i32>();
    let mut places: Vec<Option<u32>> = Vec::with_capacity(lengths.iter().sum());
    for (row, length) in lengths.iter().enumerate() {
        let start = list.value_offsets()[row] as u32;
        let there = if list.is_null(row) { 0 } else { list.value_length(row) as usize };
        places.extend((0..*length).map(|element| (element < there).then_some(start + element as u32)));
    }
    Ok(take(list.values(), &UInt32Array::from(places), None)?)
}
