//! Computing pairs of rows: the join's condition, and the changes of pairs.
//!
//! Owns: evaluating the condition, counting matches, emitting pairs. Invariant: a pair's weight is the product of its
//! rows' weights after the batch minus their product before it.

use super::rows::{KeyRows, Store};
use crate::join::JoinSpec;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::take;
use highwater_dataflow::JoinOutput;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::pipeline::{OUTPUT_ROWS, batch, evaluate};

#[derive(Default)]
struct Pairs {
    left: Vec<u32>,
    right: Vec<u32>,
}

/// Emits rows, or fails if there is no memory for them.
pub type Give<'a> = &'a mut dyn FnMut(ChangeBatch) -> Result<(), EngineError>;

/// Computes all pairs of these keys: counts matches in the stores, and emits the pairs that change.
pub fn emit_pairs(
    spec: &JoinSpec,
    keys: &[&KeyRows],
    stores: &mut [Store; 2],
    columns: &[Vec<ArrayRef>; 2],
    give: Give<'_>,
) -> Result<(), EngineError> {
    let mut pairs = Pairs::default();
    for key in keys {
        for (left, right) in key.blocks() {
            for l in left {
                for r in right.clone() {
                    pairs.left.push(l as u32);
                    pairs.right.push(r as u32);
                    if pairs.left.len() == OUTPUT_ROWS {
                        flush(spec, std::mem::take(&mut pairs), stores, columns, give)?;
                    }
                }
            }
        }
    }
    flush(spec, pairs, stores, columns, give)
}

fn flush(
    spec: &JoinSpec,
    pairs: Pairs,
    stores: &mut [Store; 2],
    columns: &[Vec<ArrayRef>; 2],
    give: Give<'_>,
) -> Result<(), EngineError> {
    if pairs.left.is_empty() {
        return Ok(());
    }
    let shows_pairs = matches!(spec.output, JoinOutput::Pairs { .. });
    if spec.filter.is_none() && !shows_pairs {
        let counts = spec.counts();
        pairs.left.iter().zip(&pairs.right).for_each(|(l, r)| count(counts, stores, *l as usize, *r as usize));
        return Ok(());
    }
    let (left, right) = (UInt32Array::from(pairs.left), UInt32Array::from(pairs.right));
    let mut paired: Vec<ArrayRef> = Vec::new();
    for (side, places) in [(0, &left), (1, &right)] {
        for column in &columns[side][..spec.sides[side].width] {
            paired.push(take(column, places, None)?);
        }
    }
    let paired = batch(&spec.pair_schema, paired, left.len())?;
    let passes = match &spec.filter {
        Some(filter) => evaluate(filter, &paired)?.as_boolean_opt().cloned(),
        None => None,
    };
    let passed = |pair: usize| passes.as_ref().is_none_or(|passes| passes.is_valid(pair) && passes.value(pair));
    let mut weights = vec![0i64; left.len()];
    for pair in (0..left.len()).filter(|pair| passed(*pair)) {
        let (l, r) = (left.value(pair) as usize, right.value(pair) as usize);
        let (left, right) = (&stores[0].rows[l], &stores[1].rows[r]);
        weights[pair] = left.weight() * right.weight() - left.old_weight() * right.old_weight();
        count(spec.counts(), stores, l, r);
    }
    if shows_pairs {
        let changes: BooleanArray = weights.iter().map(|weight| Some(*weight != 0)).collect();
        let paired = paired.with_schema(spec.output_schema.clone())?;
        let rows = ChangeBatch { batch: paired, weights: Some(Int64Array::from(weights)) };
        give(rows.filter(&changes)?)?;
    }
    Ok(())
}

/// Counts the match of two rows, for the sides that need the number.
fn count(counts: [bool; 2], stores: &mut [Store; 2], l: usize, r: usize) {
    let [left, right] = stores;
    let (left, right) = (&mut left.rows[l], &mut right.rows[r]);
    // The stored count of a row covers the other side before the batch.
    let seen = |row: &super::rows::Row, other: &super::rows::Row| match row.old {
        Some(_) => other.delta,
        None => other.weight(),
    };
    let (more_left, more_right) = (seen(left, right), seen(right, left));
    if counts[0] {
        left.count += more_left;
    }
    if counts[1] {
        right.count += more_right;
    }
}
