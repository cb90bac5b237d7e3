//! Words that the descriptions of several operators share.

use super::EmitMode;
use arrow::compute::SortOptions;
use arrow::datatypes::Schema;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// Returns expressions with the names of their columns: `a@0 + 1 AS b, …`.
pub fn named(exprs: &[Arc<dyn PhysicalExpr>], schema: &Schema) -> String {
    let named = exprs.iter().zip(schema.fields()).map(|(expr, field)| format!("{expr} AS {}", field.name()));
    named.collect::<Vec<_>>().join(", ")
}

/// Returns the names of columns: `a, b`.
pub fn names(schema: &Schema, columns: &[usize]) -> String {
    columns.iter().map(|column| schema.field(*column).name().as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns the columns of an order: `a DESC, b`.
pub fn order(schema: &Schema, order: &[(usize, SortOptions)]) -> String {
    let one = |(column, options): &(usize, SortOptions)| {
        let direction = if options.descending { " DESC" } else { "" };
        format!("{}{direction}", schema.field(*column).name())
    };
    order.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Returns when an aggregate emits a group, in words.
pub fn when(emit: EmitMode) -> &'static str {
    match emit {
        EmitMode::Updates => "every change",
        EmitMode::OnClose => "when its window closes",
        EmitMode::OnFirst => "when first seen",
    }
}
