//! `UNNEST`: repeats each row for every element of its lists.
//!
//! Owns: its plan. Does not own: running it (`run`).

mod run;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{Give, RowOperator, RowSpec, StartContext, expect_types, identify_schema};
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::words;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Expansion of lists to rows, several side by side, and of structs to columns.
#[derive(Clone, Debug)]
pub struct UnnestSpec {
    /// Columns of the output, in order: the index of an input column, and what is taken from it.
    pub columns: Vec<(usize, Unnested)>,
    /// Whether a row whose lists are NULL stays, with NULL.
    pub keeps_null: bool,
    /// Whether a row whose lists are empty stays, with NULL.
    pub keeps_empty: bool,
    pub schema: SchemaRef,
}

/// What an output column takes from its input column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unnested {
    /// The value, repeated for every element.
    Same,
    /// The elements of the list.
    Element,
    /// This field of the struct, repeated for every element.
    Field(usize),
}

/// Repeats each row for every element of its lists.
#[derive(Clone, Debug)]
pub struct UnnestOperator(pub Arc<UnnestSpec>);

impl RowSpec for UnnestOperator {
    fn describe(&self) -> String {
        format!("unnest to {}", words::names(&self.0.schema, &(0..self.0.columns.len()).collect::<Vec<_>>()))
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{:?} {} {}", self.0.columns, self.0.keeps_null, self.0.keeps_empty)?;
        identify_schema(&self.0.schema, out)
    }

    fn output(&self, input: &SchemaRef) -> Result<SchemaRef, EngineError> {
        let same =
            || self.0.columns.iter().zip(self.0.schema.fields()).filter(|((_, what), _)| *what == Unnested::Same);
        let given: Vec<FieldRef> = same().map(|((column, _), _)| input.fields()[*column].clone()).collect();
        let planned: Vec<FieldRef> = same().map(|(_, field)| field.clone()).collect();
        expect_types("UNNEST", &Schema::new(given), &Schema::new(planned))?;
        Ok(self.0.schema.clone())
    }

    fn start(&self, _: &StartContext<'_>) -> Result<Box<dyn RowOperator>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl RowOperator for UnnestOperator {
    fn apply(&mut self, rows: ChangeBatch, give: &mut Give<'_>) -> Result<(), EngineError> {
        run::unnest(&self.0, &rows, give)
    }

    fn grows(&self) -> Option<&'static str> {
        Some("UNNEST")
    }

    fn late(&mut self) -> Option<&mut Late> {
        None
    }
}
