//! Running a lookup join.
//!
//! Owns: matching the rows of one batch with a file's rows by key. Does not own: reading the file (connectors).
//! Invariant: the output for a row depends only on the row and the file, and carries the row's weight.

use crate::lookup::LookupSpec;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::Int64Type;
use datafusion::physical_expr::PhysicalExpr;
use highwater_dataflow::JoinOutput;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::runtime::keys::{Codec, normalize};
use highwater_dataflow::runtime::pipeline::{batch, evaluate};
use highwater_protocol::files::FileVersions;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

/// A file's rows by key.
#[derive(Debug)]
pub struct LookupTable {
    rows: Arc<RecordBatch>,
    index: HashMap<Box<[u8]>, Vec<u32>>,
}

/// Joins the rows of one batch with a file's rows.
pub struct LookupJoin {
    spec: Arc<LookupSpec>,
    codec: Codec,
    table: Arc<LookupTable>,
}

impl LookupJoin {
    pub fn new(spec: Arc<LookupSpec>, files: &FileVersions) -> Result<Self, EngineError> {
        let rows = spec.lookup.rows(files)?;
        let schema = rows.schema();
        let types = spec.lookup_key.iter().map(|key| key.data_type(&schema)).collect::<Result<Vec<_>, _>>()?;
        let codec = Codec::new(types.iter())?;
        let known = spec.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        let table = match known.filter(|table| Arc::ptr_eq(&table.rows, &rows)) {
            Some(table) => table,
            None => {
                let table = Arc::new(LookupTable { index: index(&spec, &codec, &rows)?, rows });
                *spec.table.write().unwrap_or_else(PoisonError::into_inner) = Some(table.clone());
                table
            }
        };
        Ok(Self { spec, codec, table })
    }

    /// Joins each row with the rows of its key, by the kind of join.
    pub fn join(&self, input: ChangeBatch) -> Result<ChangeBatch, EngineError> {
        let (mut ours, mut theirs): (Vec<u32>, Vec<u32>) = Default::default();
        for (row, key) in keys(&self.spec, &self.codec, &self.spec.stream_key, &input.batch)?.into_iter().enumerate() {
            for found in key.and_then(|key| self.table.index.get(&key)).into_iter().flatten() {
                ours.push(row as u32);
                theirs.push(*found);
            }
        }
        if let Some(filter) = &self.spec.filter {
            let pairs = self.pairs(&input.batch, &ours, &theirs.iter().map(|row| Some(*row)).collect::<Vec<_>>())?;
            let keep = evaluate(filter, &batch(&self.spec.pair_schema, pairs, ours.len())?)?;
            let keep = keep.as_boolean();
            let passes = |place: &usize| keep.is_valid(*place) && keep.value(*place);
            let places: Vec<usize> = (0..ours.len()).filter(passes).collect();
            ours = places.iter().map(|place| ours[*place]).collect();
            theirs = places.iter().map(|place| theirs[*place]).collect();
        }
        let mut matched = vec![false; input.num_rows()];
        ours.iter().for_each(|row| matched[*row as usize] = true);
        let all: Vec<u32> = (0..input.num_rows() as u32).collect();
        match self.spec.output {
            JoinOutput::Semi => input.filter(&BooleanArray::from(matched)),
            JoinOutput::Anti => input.filter(&matched.iter().map(|found| Some(!found)).collect()),
            JoinOutput::Mark => {
                let width = self.spec.output_schema.fields().len() - 1;
                let mut columns: Vec<ArrayRef> = input.batch.columns().iter().take(width).cloned().collect();
                columns.push(Arc::new(BooleanArray::from(matched)));
                let rows = batch(&self.spec.output_schema, columns, all.len())?;
                Ok(ChangeBatch { batch: rows, weights: input.weights })
            }
            JoinOutput::Pairs { .. } => {
                let mut theirs: Vec<Option<u32>> = theirs.into_iter().map(Some).collect();
                if self.spec.output.shows_unmatched(usize::from(!self.spec.stream_first)) {
                    let alone = all.into_iter().filter(|row| !matched[*row as usize]);
                    ours.extend(alone);
                    theirs.resize(ours.len(), None);
                }
                let columns = self.pairs(&input.batch, &ours, &theirs)?;
                let weights = match &input.weights {
                    Some(weights) => Some(taken(weights, &ours)?.as_primitive::<Int64Type>().clone()),
                    None => None::<Int64Array>,
                };
                Ok(ChangeBatch { batch: batch(&self.spec.output_schema, columns, ours.len())?, weights })
            }
        }
    }

    fn pairs(&self, input: &RecordBatch, ours: &[u32], theirs: &[Option<u32>]) -> Result<Vec<ArrayRef>, EngineError> {
        // If no column of the input is used, the input is wider than its part of the pair.
        let width = self.spec.pair_schema.fields().len() - self.table.rows.num_columns();
        let asked = input.columns().iter().take(width);
        let ours = asked.map(|column| taken(column, ours)).collect::<Result<Vec<_>, _>>()?;
        let places = UInt32Array::from(theirs.to_vec());
        let found = self.table.rows.columns().iter().map(|column| Ok(take(column, &places, None)?));
        let theirs = found.collect::<Result<Vec<_>, EngineError>>()?;
        let (mut first, second) = if self.spec.stream_first { (ours, theirs) } else { (theirs, ours) };
        first.extend(second);
        Ok(first)
    }
}

fn index(spec: &LookupSpec, codec: &Codec, rows: &RecordBatch) -> Result<HashMap<Box<[u8]>, Vec<u32>>, EngineError> {
    let mut index: HashMap<Box<[u8]>, Vec<u32>> = HashMap::new();
    for (row, key) in keys(spec, codec, &spec.lookup_key, rows)?.into_iter().enumerate() {
        if let Some(key) = key {
            index.entry(key).or_default().push(row as u32);
        }
    }
    Ok(index)
}

fn taken(column: &dyn Array, rows: &[u32]) -> Result<ArrayRef, EngineError> {
    Ok(take(column, &UInt32Array::from(rows.to_vec()), None)?)
}

/// Returns the key of each row; `None` if it contains a NULL that matches nothing.
fn keys(
    spec: &LookupSpec,
    codec: &Codec,
    exprs: &[Arc<dyn PhysicalExpr>],
    rows: &RecordBatch,
) -> Result<Vec<Option<Box<[u8]>>>, EngineError> {
    let columns =
        exprs.iter().map(|expr| Ok(normalize(evaluate(expr, rows)?))).collect::<Result<Vec<_>, EngineError>>()?;
    let encoded = codec.encode(&columns, rows.num_rows())?;
    let known = |row: usize| spec.null_equal || columns.iter().all(|column| column.is_valid(row));
    Ok((0..rows.num_rows()).map(|row| known(row).then(|| encoded.row(row).into())).collect())
}
