//! Plans `UNNEST` of lists and structs.
//!
//! Owns: which columns become elements or fields. Does not own: unnesting (`operators::unnest`).

use super::builder::{Builder, Flow, Target};
use datafusion::arrow::datatypes::Schema;
use datafusion::common::NullHandling;
use datafusion::logical_expr::Unnest;
use highwater_operators::unnest::UnnestOperator;
use highwater_operators::unnest::{UnnestSpec, Unnested};
use highwater_sql::error::{Result, SqlError};
use std::sync::Arc;

/// Plans UNNEST; returns the flows of elements.
pub fn build(builder: &mut Builder<'_>, node: &Unnest, target: Target<'_>) -> Result<Vec<Flow>> {
    let mut flows = builder.build(&node.input, target)?;
    if node.list_type_columns.iter().any(|(_, list)| list.depth > 1) {
        return Err(SqlError::at(target.at, "UNNEST of lists in lists at once is not supported in streaming yet")
            .hint("unnest one level after the other, in views or subqueries"));
    }
    let mut columns = Vec::with_capacity(node.dependency_indices.len());
    let mut last_struct = None;
    for column in &node.dependency_indices {
        let is_list = node.list_type_columns.iter().any(|(list, _)| list == column);
        let is_struct = node.struct_type_columns.contains(column);
        let field = match last_struct {
            Some((known, field)) if known == *column => field + 1,
            _ => 0,
        };
        last_struct = is_struct.then_some((*column, field));
        columns.push((
            *column,
            match (is_list, is_struct) {
                (true, _) => Unnested::Element,
                (_, true) => Unnested::Field(field),
                _ => Unnested::Same,
            },
        ));
    }
    let schema = Arc::new(Schema::new(node.schema.as_arrow().fields().clone()));
    let handling = node.options.null_handling;
    let spec = Arc::new(UnnestSpec {
        columns,
        keeps_null: handling != NullHandling::Drop,
        keeps_empty: handling == NullHandling::PreserveAndExpandEmpty,
        schema: schema.clone(),
    });
    for flow in &mut flows {
        flow.ops.push(Arc::new(UnnestOperator(spec.clone())));
        flow.schema = schema.clone();
    }
    Ok(flows)
}
