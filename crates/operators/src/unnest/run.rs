//! Running `UNNEST` over one batch.
//!
//! Invariants: a row yields as many rows as its longest list has elements, with NULL for the missing elements of
//! shorter lists; each has the row's weight. The size of an output batch is bounded, however long the lists are and
//! however large the values copied for each element. How the output is split depends only on the rows.

use crate::unnest::{UnnestSpec, Unnested};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array, new_null_array};
use arrow::compute::kernels::nullif::nullif;
use arrow::compute::{cast, is_null, take};
use arrow::datatypes::{DataType, Int64Type};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch};
use highwater_dataflow::runtime::split::MAX_SPLIT_BYTES;
use highwater_functions::size::array_bytes;
use std::ops::Range;
use std::sync::Arc;

/// Emits the output of these rows in pieces of bounded size.
pub fn unnest(
    spec: &UnnestSpec,
    rows: &ChangeBatch,
    give: &mut dyn FnMut(ChangeBatch) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut lists: Vec<Option<ArrayRef>> = vec![None; spec.columns.len()];
    for (place, (column, unnested)) in spec.columns.iter().enumerate() {
        if *unnested == Unnested::Element {
            lists[place] = Some(as_list(rows.batch.column(*column))?);
        }
    }
    let copied = spec.columns.iter().filter(|(_, unnested)| *unnested != Unnested::Element);
    let widths: Vec<Width> = copied.map(|(column, _)| Width::of(rows.batch.column(*column))).collect();
    let is_any = lists.iter().any(Option::is_some);
    let mut piece = Piece::default();
    for row in 0..rows.num_rows() {
        let length = if is_any { length(spec, &lists, row) } else { 1 };
        let bytes = widths.iter().map(|width| width.bytes(row)).sum::<usize>().max(1);
        let mut next = 0;
        while next < length {
            let room = (OUTPUT_ROWS - piece.rows).min((MAX_SPLIT_BYTES.saturating_sub(piece.bytes) / bytes).max(1));
            let count = room.min(length - next);
            piece.add(row, next..next + count, count * bytes);
            next += count;
            if piece.rows >= OUTPUT_ROWS || piece.bytes >= MAX_SPLIT_BYTES {
                give(std::mem::take(&mut piece).make(spec, rows, &lists)?)?;
            }
        }
    }
    match piece.rows {
        0 => Ok(()),
        _ => give(piece.make(spec, rows, &lists)?),
    }
}

/// Rows of the output that are emitted together.
#[derive(Default)]
struct Piece {
    /// Rows of the input, each with the range of its elements.
    parts: Vec<(usize, Range<usize>)>,
    rows: usize,
    bytes: usize,
}

impl Piece {
    fn add(&mut self, row: usize, elements: Range<usize>, bytes: usize) {
        self.rows += elements.len();
        self.bytes += bytes;
        self.parts.push((row, elements));
    }

    fn make(
        self,
        spec: &UnnestSpec,
        rows: &ChangeBatch,
        lists: &[Option<ArrayRef>],
    ) -> Result<ChangeBatch, EngineError> {
        let parents: UInt32Array =
            self.parts.iter().flat_map(|(row, elements)| std::iter::repeat_n(*row as u32, elements.len())).collect();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(spec.columns.len());
        for ((column, unnested), list) in spec.columns.iter().zip(lists) {
            let column = rows.batch.column(*column);
            columns.push(match (unnested, list) {
                (Unnested::Element, Some(list)) => self.elements(list)?,
                (Unnested::Field(field), _) => {
                    let parts = column
                        .as_struct_opt()
                        .ok_or_else(|| Fault::Type { what: "a struct to unnest", found: column.data_type().clone() })?;
                    // A field of a struct that is NULL is NULL.
                    let values = nullif(parts.column(*field), &is_null(column)?)?;
                    take(&values, &parents, None)?
                }
                _ => take(column, &parents, None)?,
            });
        }
        let weights = match &rows.weights {
            Some(weights) => Some(take(weights, &parents, None)?.as_primitive::<Int64Type>().clone()),
            None => None::<Int64Array>,
        };
        Ok(ChangeBatch { batch: batch(&spec.schema, columns, parents.len())?, weights })
    }

    fn elements(&self, list: &ArrayRef) -> Result<ArrayRef, EngineError> {
        let list = list.as_list::<i32>();
        let mut places: Vec<Option<u32>> = Vec::with_capacity(self.rows);
        for (row, elements) in &self.parts {
            let start = list.value_offsets()[*row] as u32;
            let there = if list.is_null(*row) { 0 } else { list.value_length(*row) as usize };
            places.extend(elements.clone().map(|element| (element < there).then_some(start + element as u32)));
        }
        Ok(take(list.values(), &UInt32Array::from(places), None)?)
    }
}

/// Sizes in bytes of a column's values, which are copied for each element.
enum Width {
    Same(usize),
    Lengths(Vec<usize>),
    Any(ArrayRef),
}

impl Width {
    fn of(column: &ArrayRef) -> Self {
        let lengths = |offsets: &[i32]| offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).collect();
        match column.data_type() {
            DataType::Utf8 => Self::Lengths(lengths(column.as_string::<i32>().value_offsets())),
            DataType::Binary => Self::Lengths(lengths(column.as_binary::<i32>().value_offsets())),
            other => match other.primitive_width() {
                Some(width) => Self::Same(width),
                None => Self::Any(column.clone()),
            },
        }
    }

    fn bytes(&self, row: usize) -> usize {
        match self {
            Self::Same(width) => *width,
            Self::Lengths(lengths) => lengths[row],
            Self::Any(column) => array_bytes(&column.slice(row, 1)),
        }
    }
}

/// Converts lists of any layout to `List`.
fn as_list(column: &ArrayRef) -> Result<ArrayRef, EngineError> {
    let item = match column.data_type() {
        DataType::List(_) => return Ok(column.clone()),
        DataType::Null => return Ok(new_null_array(&DataType::new_list(DataType::Null, true), column.len())),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item,
        DataType::ListView(item) | DataType::LargeListView(item) => item,
        other => return Err(Fault::Type { what: "the argument of UNNEST", found: other.clone() }.into()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ListArray, RecordBatch, StringArray};
    use arrow::datatypes::{Field, Int32Type, Schema};

    #[test]
    fn a_wide_row_with_a_long_list_is_given_in_pieces() {
        // given rows whose text is copied for each element: 100 000 of them would come to 100 GB
        let texts = StringArray::from(vec!["a".repeat(1 << 20), "b".into(), "c".into()]);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some((0..20).map(Some).collect::<Vec<_>>()),
            None,
            Some((0..20_000).map(Some).collect()),
        ]);
        let columns: [(&str, ArrayRef); 2] = [("text", Arc::new(texts)), ("list", Arc::new(lists))];
        let rows = ChangeBatch {
            batch: RecordBatch::try_from_iter(columns).unwrap(),
            weights: Some(Int64Array::from(vec![1, 2, -3])),
        };
        let schema =
            Schema::new(vec![Field::new("text", DataType::Utf8, true), Field::new("n", DataType::Int32, true)]);
        let columns = vec![(0, Unnested::Same), (1, Unnested::Element)];
        let spec = UnnestSpec { columns, schema: Arc::new(schema), keeps_null: true, keeps_empty: true };
        // when
        let mut pieces = Vec::new();
        unnest(&spec, &rows, &mut |piece| {
            pieces.push(piece);
            Ok(())
        })
        .unwrap();
        // then
        let elements: Vec<Option<i32>> = pieces
            .iter()
            .flat_map(|piece| piece.batch.column(1).as_primitive::<Int32Type>().iter().collect::<Vec<_>>())
            .collect();
        let expected: Vec<Option<i32>> = (0..20).map(Some).chain([None]).chain((0..20_000).map(Some)).collect();
        assert_eq!(elements, expected);
        let weights: i64 = pieces.iter().flat_map(|piece| piece.weights.as_ref().unwrap().values().to_vec()).sum();
        assert_eq!(weights, 20 + 2 - 60_000);
        for piece in &pieces {
            assert!(
                piece.num_rows() <= OUTPUT_ROWS && piece.size_bytes() < 2 * MAX_SPLIT_BYTES,
                "{}",
                piece.size_bytes()
            );
        }
    }
}
