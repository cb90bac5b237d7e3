//! Operators over single rows: filter, projection, expansion.
//!
//! Invariant: the size of the values computed at once is bounded, however large the results of expressions are.

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::{EngineError, Fault};
use highwater_dataflow::operator::{Give, RowOperator, RowSpec, StartContext, expect_types, identify_schema};
use highwater_dataflow::runtime::late::Late;
use highwater_dataflow::runtime::{batch, evaluate};
use highwater_dataflow::words;
use highwater_functions::bounds::{MAX_COLUMN_BYTES, TooLarge};
use highwater_functions::size::array_bytes;
use std::fmt::{self, Write};
use std::sync::Arc;

/// Maximum size in bytes of the columns computed at once; a single row may be larger.
const AT_ONCE_BYTES: usize = 64 << 20;
/// Maximum size in bytes of a single row.
const MAX_ROW_BYTES: usize = MAX_COLUMN_BYTES as usize;

type Exprs = Vec<Arc<dyn PhysicalExpr>>;

/// Keeps rows for which a condition is true.
#[derive(Clone, Debug)]
pub struct Filter(pub Arc<dyn PhysicalExpr>);

/// Replaces each row by these expressions of it.
#[derive(Clone, Debug)]
pub struct Project {
    pub exprs: Exprs,
    pub schema: SchemaRef,
}

/// Replaces each row by one row for every list of expressions.
#[derive(Clone, Debug)]
pub struct Expand {
    pub lists: Vec<Exprs>,
    pub schema: SchemaRef,
}

impl RowSpec for Filter {
    fn describe(&self) -> String {
        format!("filter {}", self.0)
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        writeln!(out, "{}", self.0)
    }

    fn output(&self, input: &SchemaRef) -> Result<SchemaRef, EngineError> {
        match self.0.data_type(input)? {
            DataType::Boolean => Ok(input.clone()),
            found => Err(Fault::Type { what: "a condition", found }.into()),
        }
    }

    fn start(&self, _: &StartContext<'_>) -> Result<Box<dyn RowOperator>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl RowOperator for Filter {
    fn apply(&mut self, rows: ChangeBatch, give: &mut Give<'_>) -> Result<(), EngineError> {
        let Some(keep) = evaluate_within(&self.0, &rows.batch)? else {
            let [first, second] = halves(&rows);
            self.apply(first, give)?;
            return self.apply(second, give);
        };
        let other = || Fault::Type { what: "a condition", found: keep.data_type().clone() };
        let keep = keep.as_boolean_opt().ok_or_else(other)?;
        give(if keep.true_count() == rows.num_rows() { rows } else { rows.filter(keep)? })
    }

    fn grows(&self) -> Option<&'static str> {
        None
    }

    fn late(&mut self) -> Option<&mut Late> {
        None
    }
}

impl RowSpec for Project {
    fn describe(&self) -> String {
        format!("project {}", words::named(&self.exprs, &self.schema))
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        identify_schema(&self.schema, out)
    }

    fn output(&self, input: &SchemaRef) -> Result<SchemaRef, EngineError> {
        check(&self.exprs, input, &self.schema)?;
        Ok(self.schema.clone())
    }

    fn start(&self, _: &StartContext<'_>) -> Result<Box<dyn RowOperator>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl RowOperator for Project {
    fn apply(&mut self, rows: ChangeBatch, give: &mut Give<'_>) -> Result<(), EngineError> {
        project(&self.exprs, &self.schema, rows, give)
    }

    fn grows(&self) -> Option<&'static str> {
        None
    }

    fn late(&mut self) -> Option<&mut Late> {
        None
    }
}

impl RowSpec for Expand {
    fn describe(&self) -> String {
        let lists = self.lists.iter().map(|list| format!("({})", words::named(list, &self.schema)));
        format!("expand to {}", lists.collect::<Vec<_>>().join(", "))
    }

    fn identify(&self, out: &mut dyn Write) -> fmt::Result {
        identify_schema(&self.schema, out)
    }

    fn output(&self, input: &SchemaRef) -> Result<SchemaRef, EngineError> {
        self.lists.iter().try_for_each(|exprs| check(exprs, input, &self.schema))?;
        Ok(self.schema.clone())
    }

    fn start(&self, _: &StartContext<'_>) -> Result<Box<dyn RowOperator>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl RowOperator for Expand {
    fn apply(&mut self, rows: ChangeBatch, give: &mut Give<'_>) -> Result<(), EngineError> {
        self.lists.iter().try_for_each(|exprs| project(exprs, &self.schema, rows.clone(), give))
    }

    fn grows(&self) -> Option<&'static str> {
        Some("GROUPING SETS")
    }

    fn late(&mut self) -> Option<&mut Late> {
        None
    }
}

/// Emits these expressions of the rows. If they are too large to be computed at once, the rows are halved.
fn project(
    exprs: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
    rows: ChangeBatch,
    give: &mut Give<'_>,
) -> Result<(), EngineError> {
    if let Some(columns) = columns_within(exprs, &rows.batch)? {
        let batch = batch(schema, columns, rows.num_rows())?;
        return give(ChangeBatch { batch, weights: rows.weights });
    }
    let [first, second] = halves(&rows);
    project(exprs, schema, first, give)?;
    project(exprs, schema, second, give)
}

/// Returns the values of expressions; `None` if they are too large to be computed at once.
fn columns_within(exprs: &[Arc<dyn PhysicalExpr>], rows: &RecordBatch) -> Result<Option<Vec<ArrayRef>>, EngineError> {
    let mut columns = Vec::with_capacity(exprs.len());
    let mut bytes = 0;
    for expr in exprs {
        let Some(column) = evaluate_within(expr, rows)? else { return Ok(None) };
        bytes += array_bytes(&column);
        if bytes > AT_ONCE_BYTES && rows.num_rows() > 1 {
            return Ok(None);
        }
        if bytes > MAX_ROW_BYTES {
            return Err(TooLarge::Row { bytes: bytes as u64 }.into());
        }
        columns.push(column);
    }
    Ok(Some(columns))
}

/// Returns the values of an expression; `None` if they are too large for one column and there are several rows.
fn evaluate_within(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<Option<ArrayRef>, EngineError> {
    match evaluate(expr, rows) {
        Ok(values) => Ok(Some(values)),
        Err(EngineError::TooLarge(TooLarge::Column { .. })) if rows.num_rows() > 1 => Ok(None),
        Err(error) => Err(error),
    }
}

fn halves(rows: &ChangeBatch) -> [ChangeBatch; 2] {
    let half = rows.num_rows() / 2;
    [rows.slice(0, half), rows.slice(half, rows.num_rows() - half)]
}

/// Checks that expressions over the input have the types of the schema.
fn check(exprs: &[Arc<dyn PhysicalExpr>], input: &Schema, schema: &Schema) -> Result<(), EngineError> {
    let fields = exprs.iter().map(|expr| Ok(Field::new("", expr.data_type(input)?, true)));
    let given = Schema::new(fields.collect::<Result<Vec<_>, EngineError>>()?);
    expect_types("a projection", &given, schema)
}
