//! Columns that an operator computes and appends to those of its input: keys, orders, times.
//!
//! Owns: the place of each expression.

use super::builder::Target;
use super::errors::sql_error;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use highwater_sql::error::Result;
use std::sync::Arc;

/// The input's columns, then computed ones.
pub struct Computed {
    pub exprs: Vec<Arc<dyn PhysicalExpr>>,
    pub fields: Vec<Field>,
    input: Schema,
}

impl Computed {
    pub fn new(input: &Schema) -> Self {
        let fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
        let column =
            |(index, field): (usize, &Field)| Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>;
        Self { exprs: fields.iter().enumerate().map(column).collect(), fields, input: input.clone() }
    }

    /// Returns the place of the expression's column, which is appended unless the expression is a column itself.
    pub fn place(&mut self, expr: Arc<dyn PhysicalExpr>, name: &str, target: Target<'_>) -> Result<usize> {
        if let Some(column) = expr.downcast_ref::<Column>() {
            return Ok(column.index());
        }
        let data_type = expr.data_type(&self.input).map_err(|error| sql_error(error, target.at))?;
        self.fields.push(Field::new(name, data_type, true));
        self.exprs.push(expr);
        Ok(self.exprs.len() - 1)
    }
}
