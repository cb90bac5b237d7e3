//! Lists: the positions of their elements, for `UNNEST … WITH ORDINALITY`.

use super::Columns;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array, ListArray};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::common::{Result, exec_err};
use std::sync::Arc;

/// Most arguments of a call.
const LISTS: usize = 64;

pub fn all() -> Vec<Columns> {
    let item = Arc::new(Field::new_list_field(DataType::Int32, true));
    vec![Columns::new("hw_positions(from, list, …)", (2, LISTS), DataType::List(item), positions)]
}

/// Returns for each row the numbers `from`, `from + 1`, …, as many as its longest list has elements; NULL if all lists are.
fn positions(columns: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
    let from = cast(&columns[0], &DataType::Int64)?;
    let from = if rows == 0 { 0 } else { from.as_primitive::<Int64Type>().value(0) } as i32;
    let mut lengths: Vec<Option<usize>> = vec![None; rows];
    for column in &columns[1..] {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length = (*length).max(length_at(column, row)?);
        }
    }
    let numbers = lengths.iter().flat_map(|length| from..from + length.unwrap_or(0) as i32);
    let numbers: Int32Array = numbers.map(Some).collect();
    let offsets = OffsetBuffer::from_lengths(lengths.iter().map(|length| length.unwrap_or(0)));
    let nulls: NullBuffer = lengths.iter().map(Option::is_some).collect();
    let item = Arc::new(Field::new_list_field(DataType::Int32, true));
    Ok(Arc::new(ListArray::try_new(item, offsets, Arc::new(numbers), Some(nulls))?))
}

fn length_at(column: &ArrayRef, row: usize) -> Result<Option<usize>> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        DataType::Null => return Ok(None),
        DataType::List(_) => column.as_list::<i32>().value_length(row) as usize,
        DataType::LargeList(_) => column.as_list::<i64>().value_length(row) as usize,
        DataType::FixedSizeList(_, size) => *size as usize,
        other => return exec_err!("UNNEST needs lists, got {other}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::arrow::array::Int64Array;

    #[test]
    fn as_many_as_the_longest() {
        let list = |rows: Vec<Option<Vec<Option<i32>>>>| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<datafusion::arrow::datatypes::Int32Type, _, _>(rows))
        };
        let one = list(vec![Some(vec![Some(7), None]), None, Some(vec![]), None]);
        let two = list(vec![Some(vec![Some(7)]), Some(vec![None]), None, None]);
        let from: ArrayRef = Arc::new(Int64Array::from(vec![1; 4]));
        let found = positions(&[from, one, two], 4).unwrap();
        let expected = list(vec![Some(vec![Some(1), Some(2)]), Some(vec![Some(1)]), Some(vec![]), None]);
        assert_eq!(&found, &expected);
    }
}
