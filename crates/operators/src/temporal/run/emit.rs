//! Output of a temporal join: rows with their old and new versions.
//!
//! Owns: the conditions on versions, the join's own condition, the columns of the output.
//! Invariant: each condition is evaluated only over versions that have passed the conditions before it, and columns
//! over versions that have passed all, so that a condition can guard a later expression.

use super::versions::Version;
use crate::temporal::TemporalSpec;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::Schema;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::pipeline::{batch, evaluate};
use std::sync::Arc;

/// A row, its version and its weight in the output before and after the batch.
pub struct Emitted {
    pub row: Vec<u8>,
    pub old: Version,
    pub new: Version,
    pub old_weight: i64,
    pub new_weight: i64,
}

/// Indexes of a row's versions before and after the batch; `None` if there is none.
type Places = [Option<u32>; 2];

/// Emits the difference between before and after.
pub fn emit(
    spec: &TemporalSpec,
    row_codec: &Codec,
    version_codec: &Codec,
    emitted: &[Emitted],
    out: &mut Vec<ChangeBatch>,
) -> Result<(), EngineError> {
    if emitted.is_empty() {
        return Ok(());
    }
    let rows = row_codec.decode(emitted.iter().map(|emitted| emitted.row.as_slice()))?;
    let mut bytes: Vec<&[u8]> = Vec::new();
    let mut places: Vec<Places> = Vec::with_capacity(emitted.len());
    for one in emitted {
        let old = one.old.as_deref().map(|version| add(&mut bytes, version));
        let new = match one.new == one.old {
            true => old,
            false => one.new.as_deref().map(|version| add(&mut bytes, version)),
        };
        places.push([old, new]);
    }
    let versions = Versions::of(spec, version_codec, &bytes)?;
    let mut places: Vec<Places> = places.iter().map(|both| both.map(|place| versions.place(place))).collect();
    if let Some(filter) = &spec.filter {
        let is_match = |pairs: &[(u32, u32)]| -> Result<BooleanArray, EngineError> {
            let own: UInt32Array = pairs.iter().map(|(row, _)| *row).collect();
            let theirs: UInt32Array = pairs.iter().map(|(_, version)| *version).collect();
            let columns = paired(spec, &rows, &versions, &own, &theirs)?;
            let passes = evaluate(filter, &batch(&spec.pair_schema, columns, pairs.len())?)?;
            Ok(passes.as_boolean().clone())
        };
        keep_matches(&mut places, is_match)?;
    }
    let (mut own, mut theirs, mut weights): (Vec<u32>, Vec<Option<u32>>, Vec<i64>) = Default::default();
    let mut push = |row: usize, version: Option<u32>, weight: i64| {
        if weight != 0 && (version.is_some() || spec.keeps_unmatched) {
            own.push(row as u32);
            theirs.push(version);
            weights.push(weight);
        }
    };
    for (row, (one, [old, new])) in emitted.iter().zip(places).enumerate() {
        if old == new {
            push(row, new, one.new_weight - one.old_weight);
            continue;
        }
        push(row, old, -one.old_weight);
        push(row, new, one.new_weight);
    }
    if own.is_empty() {
        return Ok(());
    }
    let columns = paired(spec, &rows, &versions, &UInt32Array::from(own), &UInt32Array::from(theirs))?;
    let rows = batch(&spec.output_schema, columns, weights.len())?;
    out.push(ChangeBatch { batch: rows, weights: Some(Int64Array::from(weights)) });
    Ok(())
}

fn add<'a>(bytes: &mut Vec<&'a [u8]>, version: &'a [u8]) -> u32 {
    bytes.push(version);
    bytes.len() as u32 - 1
}

/// Removes the versions that fail the join's condition.
fn keep_matches(
    places: &mut [Places],
    is_match: impl Fn(&[(u32, u32)]) -> Result<BooleanArray, EngineError>,
) -> Result<(), EngineError> {
    let mut pairs = Vec::new();
    for (row, both) in places.iter().enumerate() {
        pairs.extend(both.iter().flatten().map(|version| (row as u32, *version)));
    }
    if pairs.is_empty() {
        return Ok(());
    }
    let passes = is_match(&pairs)?;
    for (pair, place) in places.iter_mut().flatten().filter(|place| place.is_some()).enumerate() {
        if !(passes.is_valid(pair) && passes.value(pair)) {
            *place = None;
        }
    }
    Ok(())
}

/// Decoded versions, with the columns of the output.
struct Versions {
    columns: Vec<ArrayRef>,
    /// Index of each version in the columns; `None` if it fails a condition.
    places: Vec<Option<u32>>,
    count: usize,
}

impl Versions {
    fn of(spec: &TemporalSpec, codec: &Codec, bytes: &[&[u8]]) -> Result<Self, EngineError> {
        let side = &spec.versions;
        let fields = side.timed.schema.fields()[..side.timed.width].to_vec();
        let schema = Arc::new(Schema::new(fields));
        let mut rows: RecordBatch = batch(&schema, codec.decode(bytes.iter().copied())?, bytes.len())?;
        let mut indexes: Vec<usize> = (0..bytes.len()).collect();
        for condition in &side.conditions {
            let passes = evaluate(condition, &rows)?;
            let passes = passes.as_boolean();
            let keep: BooleanArray = passes.iter().map(|passes| Some(passes == Some(true))).collect();
            indexes =
                indexes.into_iter().zip(keep.iter()).filter(|(_, keep)| *keep == Some(true)).map(|(i, _)| i).collect();
            rows = filter_record_batch(&rows, &keep)?;
        }
        let columns = side.columns.iter().map(|expr| evaluate(expr, &rows)).collect::<Result<_, _>>()?;
        let mut places = vec![None; bytes.len()];
        for (place, index) in indexes.into_iter().enumerate() {
            places[index] = Some(place as u32);
        }
        Ok(Self { columns, places, count: rows.num_rows() })
    }

    fn place(&self, version: Option<u32>) -> Option<u32> {
        self.places.get(version? as usize).copied().flatten()
    }
}

/// Returns the columns of rows, then of their versions.
fn paired(
    spec: &TemporalSpec,
    rows: &[ArrayRef],
    versions: &Versions,
    own: &UInt32Array,
    theirs: &UInt32Array,
) -> Result<Vec<ArrayRef>, EngineError> {
    let mut columns = Vec::with_capacity(spec.output_schema.fields().len());
    for column in &rows[..spec.rows.width] {
        columns.push(take(column, own, None)?);
    }
    for column in &versions.columns {
        columns.push(match versions.count {
            0 => new_null_array(column.data_type(), theirs.len()),
            _ => take(column, theirs, None)?,
        });
    }
    Ok(columns)
}

/// Returns rows without a time, which have no version, in the form of the output.
pub fn timeless(spec: &TemporalSpec, rows: ChangeBatch) -> Result<ChangeBatch, EngineError> {
    let count = rows.num_rows();
    let mut columns = rows.batch.columns()[..spec.rows.width].to_vec();
    let nulls = spec.output_schema.fields().iter().skip(spec.rows.width);
    columns.extend(nulls.map(|field| new_null_array(field.data_type(), count)));
    Ok(ChangeBatch { batch: batch(&spec.output_schema, columns, count)?, weights: rows.weights })
}
