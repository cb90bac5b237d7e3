//! The rows of a table with PRIMARY KEY, folded from its records.
//!
//! Owns: the operator's plan. Does not own: running it (`run`).

mod run;
mod view;

use arrow::datatypes::{Schema, SchemaRef};
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{
    OperatorSpec, Running, StartContext, StateSpec, expect_types, identify_schema, only,
};
use highwater_dataflow::runtime::keys::Codec;
use highwater_dataflow::runtime::state_reader::StateReader;
use highwater_dataflow::state::Layout;
use highwater_dataflow::{Upstream, words};
use highwater_protocol::ids::OperatorId;
use run::Upsert;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Folding of records by key: the last record of a key counts.
#[derive(Clone, Debug)]
pub struct UpsertSpec {
    /// The columns kept, then key columns that are not among them, then whether the record deletes its key.
    pub input_schema: SchemaRef,
    pub key: Vec<usize>,
    /// Number of columns, from the first, that are kept.
    pub width: usize,
    pub output_schema: SchemaRef,
}

impl UpsertSpec {
    /// Returns the codec of keys in state.
    fn key_codec(&self) -> Result<Codec, EngineError> {
        Codec::new(self.key.iter().map(|column| self.input_schema.field(*column).data_type()))
    }

    /// Returns the key and the columns kept as text.
    pub fn text(&self) -> String {
        let kept: Vec<usize> = (0..self.width).collect();
        format!(
            "by {}: the last {}",
            words::names(&self.input_schema, &self.key),
            words::names(&self.input_schema, &kept)
        )
    }
}

/// Folds records by key.
#[derive(Clone, Debug)]
pub struct UpsertOperator {
    pub op: OperatorId,
    pub spec: Arc<UpsertSpec>,
}

impl OperatorSpec for UpsertOperator {
    fn describe(&self) -> String {
        format!("keyed source {}: {}", self.op, self.spec.text())
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{:?} {}", self.spec.key, self.spec.width)?;
        identify_schema(&self.spec.input_schema, out)?;
        identify_schema(&self.spec.output_schema, out)
    }

    fn state(&self) -> Option<StateSpec> {
        Some(StateSpec {
            operator: self.op,
            kind: "keyed source",
            version: 1,
            layout: Layout::Hashed,
            keeps: "the live row of each key",
        })
    }

    fn state_reader(&self) -> Result<Option<Box<dyn StateReader>>, EngineError> {
        view::reader(self).map(Some)
    }

    fn watermark(&self) -> Option<(OperatorId, &[Upstream])> {
        None
    }

    fn drops_late(&self) -> bool {
        false
    }

    fn output(&self, inputs: &[SchemaRef]) -> Result<SchemaRef, EngineError> {
        let (spec, input) = (&self.spec, only(inputs)?);
        expect_types("a keyed source", input, &spec.input_schema)?;
        let kept = Schema::new(input.fields().iter().take(spec.width).cloned().collect::<Vec<_>>());
        expect_types("the rows of a keyed source", &kept, &spec.output_schema)?;
        Ok(spec.output_schema.clone())
    }

    fn start(&self, context: &StartContext<'_>) -> Result<Running, EngineError> {
        Ok(Running::stateful(self.op, None, context, Upsert::new(self.spec.clone())?))
    }
}
