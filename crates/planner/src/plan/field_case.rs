//! Rows assigned to a column whose fields have the same names in another case.
//!
//! Owns: giving the fields the names that the column declares. Does not own: what may be assigned (`insert`), casts of values.
//! Invariant: values and their order stay as they are.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::arrow::error::ArrowError;
use datafusion::common::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use highwater_sql::identifier::key_of;
use std::sync::Arc;

/// Gives the fields of rows in `expr`, which is of type `from`, the names they have in `to`. Returns the expression and its
/// type, both as they were if no name differs.
pub fn named_as(expr: Expr, from: &DataType, to: &DataType) -> (Expr, DataType) {
    let wanted = renamed_type(from, to);
    if wanted == *from {
        return (expr, wanted);
    }
    let signature = Signature::any(1, Volatility::Immutable);
    let rename = RenameFields { wanted: wanted.clone(), signature };
    (ScalarUDF::from(rename).call(vec![expr]), wanted)
}

/// `from` with names of `to`, where they differ only in case.
fn renamed_type(from: &DataType, to: &DataType) -> DataType {
    match (from, to) {
        (DataType::List(from), DataType::List(to)) => {
            DataType::List(Arc::new(renamed_field(from, from.name(), to.data_type())))
        }
        (DataType::Struct(fields), DataType::Struct(wanted)) if fields.len() == wanted.len() => {
            let pairs = fields.iter().zip(wanted);
            DataType::Struct(Fields::from_iter(pairs.map(|(from, to)| {
                let is_same = key_of(from.name()) == key_of(to.name());
                renamed_field(from, if is_same { to.name() } else { from.name() }, to.data_type())
            })))
        }
        _ => from.clone(),
    }
}

fn renamed_field(from: &FieldRef, name: &str, to: &DataType) -> Field {
    Field::new(name, renamed_type(from.data_type(), to), from.is_nullable())
}

fn renamed(array: &ArrayRef, wanted: &DataType) -> std::result::Result<ArrayRef, ArrowError> {
    Ok(match (array.data_type(), wanted) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let rows = array.as_struct();
            let columns = rows.columns().iter().zip(fields).map(|(column, field)| renamed(column, field.data_type()));
            let columns = columns.collect::<std::result::Result<_, _>>()?;
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, rows.nulls().cloned(), array.len())?)
        }
        (DataType::List(_), DataType::List(item)) => {
            let lists = array.as_list::<i32>();
            let values = renamed(lists.values(), item.data_type())?;
            Arc::new(ListArray::try_new(item.clone(), lists.offsets().clone(), values, lists.nulls().cloned())?)
        }
        _ => array.clone(),
    })
}

/// `hw_rename_fields(x)`: `x` as a value of `wanted`, whose fields have other names.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RenameFields {
    wanted: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for RenameFields {
    fn name(&self) -> &str {
        "hw_rename_fields"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.wanted.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), self.wanted.clone(), args.arg_fields[0].is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(renamed(&arrays[0], &self.wanted)?))
    }
}
