//! Fields of rows, found in any case.
//!
//! Owns: which field `a.b` and `a['b']` name: the one that matches exactly, or else the only one in any case. Does not own:
//! names of columns (`sql::spelling`), reading a field (DataFusion). Invariant: a field keeps its declared name in its type.

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, TableReference};
use datafusion::functions::core::get_field;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, GetFieldAccess, lit};
use highwater_sql::identifier::find;

/// Stands before DataFusion's own planners, which compare names as they are.
#[derive(Debug)]
pub struct FieldNames;

impl ExprPlanner for FieldNames {
    /// `a.b.c`, where `a` is a column.
    fn plan_compound_identifier(
        &self,
        field: &Field,
        qualifier: Option<&TableReference>,
        nested_names: &[String],
    ) -> Result<PlannerResult<Vec<Expr>>> {
        let mut data_type = field.data_type();
        let mut expr = Expr::Column(Column::from((qualifier, field)));
        for name in nested_names {
            let found = declared(data_type, name);
            expr = get_field().call(vec![expr, lit(found.map_or(name, |field| field.name()))]);
            data_type = found.map_or(&DataType::Null, Field::data_type);
        }
        Ok(PlannerResult::Planned(expr))
    }

    /// `a[1].b` and `a['b']`: only the name is changed here.
    fn plan_field_access(
        &self,
        mut access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        if let GetFieldAccess::NamedStructField { name: ScalarValue::Utf8(Some(name)) } = &mut access.field_access
            && let Ok(data_type) = access.expr.get_type(schema)
            && let Some(field) = declared(&data_type, name)
        {
            name.clone_from(field.name());
        }
        Ok(PlannerResult::Original(access))
    }
}

fn declared<'a>(data_type: &'a DataType, name: &str) -> Option<&'a Field> {
    let DataType::Struct(fields) = data_type else { return None };
    // What matches several has been refused, by the names that the script declares.
    let found = find(name, fields.iter().map(|field| field.name().as_str())).ok()??;
    fields.iter().find(|field| field.name() == found).map(AsRef::as_ref)
}
