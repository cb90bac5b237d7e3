//! Rows with weights, which flow between operators.
//!
//! Owns: the pair of batch and weights, and its form on the wire. Invariant: a batch has as many weights as rows, or
//! none if it is append-only.

use crate::error::EngineError;
use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{concat, concat_batches, filter, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use highwater_functions::size::array_bytes;
use std::sync::Arc;

/// Name of the trailing weight column on the wire.
pub const WEIGHT_COLUMN: &str = "__weight";

/// Rows, each with the number of its inserts (+) or retractions (−).
#[derive(Clone, Debug)]
pub struct ChangeBatch {
    pub batch: RecordBatch,
    /// `None` = every row is inserted once.
    pub weights: Option<Int64Array>,
}

impl ChangeBatch {
    /// Returns rows that are all inserted once.
    pub fn inserts(batch: RecordBatch) -> Self {
        Self { batch, weights: None }
    }

    pub fn num_rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Returns the weight of one row.
    pub fn weight(&self, row: usize) -> i64 {
        self.weights.as_ref().map_or(1, |weights| weights.value(row))
    }

    /// Returns the number of rows with a weight below 0.
    pub fn retractions(&self) -> usize {
        self.weights.as_ref().map_or(0, |weights| weights.values().iter().filter(|weight| **weight < 0).count())
    }

    /// Returns the bytes of the rows' own values, without the rest of buffers that they are slices of.
    pub fn size_bytes(&self) -> usize {
        self.batch.columns().iter().map(array_bytes).sum()
    }

    /// Returns `rows` rows from the row `first` on, without copying.
    pub fn slice(&self, first: usize, rows: usize) -> Self {
        Self {
            batch: self.batch.slice(first, rows),
            weights: self.weights.as_ref().map(|weights| weights.slice(first, rows)),
        }
    }

    /// Returns the rows where `keep` is true (NULL counts as false).
    pub fn filter(&self, keep: &BooleanArray) -> Result<Self, EngineError> {
        let batch = filter_record_batch(&self.batch, keep)?;
        let weights = match &self.weights {
            Some(weights) => filter(weights, keep)?.as_any().downcast_ref::<Int64Array>().cloned(),
            None => None,
        };
        Ok(Self { batch, weights })
    }

    /// Returns all parts as one batch; `None` if there are none.
    pub fn concat(schema: &SchemaRef, parts: &[ChangeBatch]) -> Result<Option<Self>, EngineError> {
        if parts.is_empty() {
            return Ok(None);
        }
        let batch = concat_batches(schema, parts.iter().map(|part| &part.batch))?;
        if parts.iter().all(|part| part.weights.is_none()) {
            return Ok(Some(Self::inserts(batch)));
        }
        let weights: Vec<Int64Array> = parts
            .iter()
            .map(|part| part.weights.clone().unwrap_or_else(|| Int64Array::from(vec![1; part.num_rows()])))
            .collect();
        let refs: Vec<&dyn Array> = weights.iter().map(|weights| weights as &dyn Array).collect();
        let weights = concat(&refs)?.as_any().downcast_ref::<Int64Array>().cloned();
        Ok(Some(Self { batch, weights }))
    }

    /// Returns one Arrow batch: weights, if any, are its last column.
    pub fn into_wire(self) -> Result<RecordBatch, EngineError> {
        let Some(weights) = self.weights else { return Ok(self.batch) };
        let mut fields: Vec<Arc<Field>> = self.batch.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int64, false)));
        let mut columns = self.batch.columns().to_vec();
        columns.push(Arc::new(weights));
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    /// The reverse of [`ChangeBatch::into_wire`].
    pub fn from_wire(batch: RecordBatch) -> Result<Self, EngineError> {
        let last = batch.num_columns().wrapping_sub(1);
        if batch.schema().fields().last().is_none_or(|field| field.name() != WEIGHT_COLUMN) {
            return Ok(Self::inserts(batch));
        }
        let weights = batch.column(last).as_any().downcast_ref::<Int64Array>().cloned();
        let kept: Vec<usize> = (0..last).collect();
        Ok(Self { batch: batch.project(&kept)?, weights })
    }
}
