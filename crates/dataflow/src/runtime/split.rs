//! Splits batches into parts small enough to be sent.
//!
//! Owns: where a batch is split. Invariants: every row is in one part, in order; the cuts depend only on the rows, so
//! that a repeated batch has the same; a part is larger than [`MAX_SPLIT_BYTES`] only if it is one row.

use super::pipeline::OUTPUT_ROWS;
use crate::changelog::ChangeBatch;

/// Most bytes of a part. A message may hold several parts.
pub const MAX_SPLIT_BYTES: usize = 2 << 20;

/// Splits rows into pieces of at most [`OUTPUT_ROWS`] rows and [`MAX_SPLIT_BYTES`] bytes, or of one row.
pub fn pieces(rows: ChangeBatch) -> Vec<ChangeBatch> {
    let mut pieces = Vec::new();
    for first in (0..rows.num_rows()).step_by(OUTPUT_ROWS) {
        cut(rows.slice(first, OUTPUT_ROWS.min(rows.num_rows() - first)), &mut pieces);
    }
    pieces
}

fn cut(rows: ChangeBatch, pieces: &mut Vec<ChangeBatch>) {
    let count = rows.num_rows();
    if count <= 1 || rows.size_bytes() <= MAX_SPLIT_BYTES {
        pieces.push(rows);
        return;
    }
    cut(rows.slice(0, count / 2), pieces);
    cut(rows.slice(count / 2, count - count / 2), pieces);
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::Int32Type;
    use std::sync::Arc;

    fn whole(pieces: &[ChangeBatch]) -> RecordBatch {
        concat_batches(&pieces[0].batch.schema(), pieces.iter().map(|piece| &piece.batch)).unwrap()
    }

    #[test]
    fn many_rows_and_large_rows_are_cut_and_none_is_lost() {
        // given small rows, then large ones
        let text = |row: usize| if row < 20_000 { "x".to_string() } else { "y".repeat(300_000) };
        let texts: StringArray = (0..20_030).map(|row| Some(text(row))).collect();
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(
            (0..20_030).map(|row| Some(vec![Some(row); if row == 7 { 1_000_000 } else { 1 }])),
        );
        let batch =
            RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef), ("list", Arc::new(lists) as ArrayRef)])
                .unwrap();
        let weights: Int64Array = (0..20_030).map(|row| Some(row % 5 - 2)).collect();
        let rows = ChangeBatch { batch: batch.clone(), weights: Some(weights.clone()) };
        // when
        let pieces = pieces(rows);
        // then
        assert_eq!(whole(&pieces), batch);
        let kept: Vec<i64> =
            pieces.iter().flat_map(|piece| piece.weights.as_ref().unwrap().values().to_vec()).collect();
        assert_eq!(kept, weights.values().to_vec());
        for piece in &pieces {
            assert!(piece.num_rows() <= OUTPUT_ROWS);
            assert!(piece.num_rows() == 1 || piece.size_bytes() <= MAX_SPLIT_BYTES, "{} rows", piece.num_rows());
        }
        assert!(pieces.len() < 40, "{} pieces: slices of lists are not taken for the whole", pieces.len());
    }

    #[test]
    fn what_is_small_stays_as_it_is() {
        let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)]).unwrap();
        let pieces = pieces(ChangeBatch::inserts(batch.clone()));
        assert_eq!((pieces.len(), &pieces[0].batch), (1, &batch));
    }
}
