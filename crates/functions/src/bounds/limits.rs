//! Limits of the results of one function call.
//!
//! Owns: the limits and their error. Does not own: where they are checked (`mod`).

use crate::size::array_bytes;
use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use thiserror::Error;

/// Most bytes of a single value: more than Kafka accepts as a message under most settings.
pub const MAX_VALUE_BYTES: u64 = 16 << 20;
/// Most bytes of a constant, which may be copied for every row of a batch.
pub const MAX_CONSTANT_BYTES: u64 = 64 << 10;
/// Most bytes of all values of a batch of rows.
pub const MAX_COLUMN_BYTES: u64 = 256 << 20;

/// Most bytes of string_agg's delimiter, which is written for every row of a group.
pub const MAX_DELIMITER_BYTES: usize = 256;
/// Most centroids that an approximate percentile keeps for a group.
pub const MAX_CENTROIDS: i64 = 10_000;

/// A call whose result is, or would be, too large.
#[derive(Clone, Debug, Error)]
pub enum TooLarge {
    #[error(
        "{function} makes a value of {bytes} bytes here, but the maximum is {MAX_VALUE_BYTES}: give it smaller \
         arguments (LEAST for a number, LEFT for a text)"
    )]
    Value { function: String, bytes: u64 },
    #[error(
        "{function} makes a constant of {bytes} bytes, but the maximum is {MAX_CONSTANT_BYTES}: give it smaller \
         arguments"
    )]
    Constant { function: String, bytes: u64 },
    #[error("a constant has {bytes} bytes, but the maximum is {MAX_CONSTANT_BYTES}: read it from a topic or a file")]
    Literal { bytes: u64 },
    /// Computing fewer rows at once may succeed.
    #[error(
        "{function} makes {bytes} bytes of {rows} rows that are computed together, but the maximum is \
        {MAX_COLUMN_BYTES}: give it smaller arguments (LEAST for a number, LEFT for a text)"
    )]
    Column { function: String, bytes: u64, rows: usize },
    #[error("the delimiter has {bytes} bytes, but the maximum is {MAX_DELIMITER_BYTES}")]
    Delimiter { bytes: u64 },
    #[error("{count} centroids are asked for, but the maximum is {MAX_CENTROIDS}: 100 are nearly always enough")]
    Centroids { count: i64 },
    #[error("a row has {bytes} bytes, but the maximum is {MAX_COLUMN_BYTES}: select fewer or smaller columns")]
    Row { bytes: u64 },
    #[error("a value of type {data_type} takes {bytes} bytes, but the maximum of a fixed size is {MAX_CONSTANT_BYTES}")]
    Type { data_type: String, bytes: u64 },
}

impl TooLarge {
    /// Returns the root of DataFusion's `error` if it is a [`TooLarge`].
    pub fn find(error: &DataFusionError) -> Option<&Self> {
        match error.find_root() {
            DataFusionError::External(inner) => inner.downcast_ref(),
            _ => None,
        }
    }
}

impl From<TooLarge> for DataFusionError {
    fn from(error: TooLarge) -> Self {
        Self::External(Box::new(error))
    }
}

/// Refuses results of these sizes in bytes, one for each row.
pub fn check(function: &str, constant: bool, rows: usize, sizes: impl Iterator<Item = u64>) -> Result<()> {
    let mut bytes = 0u64;
    for size in sizes {
        check_value(function, constant, size)?;
        bytes = bytes.saturating_add(size);
    }
    check_column(function, bytes, rows)
}

fn check_value(function: &str, constant: bool, bytes: u64) -> Result<()> {
    let function = || function.to_string();
    match constant {
        true if bytes > MAX_CONSTANT_BYTES => Err(TooLarge::Constant { function: function(), bytes }.into()),
        false if bytes > MAX_VALUE_BYTES => Err(TooLarge::Value { function: function(), bytes }.into()),
        _ => Ok(()),
    }
}

fn check_column(function: &str, bytes: u64, rows: usize) -> Result<()> {
    match bytes > MAX_COLUMN_BYTES {
        true => Err(TooLarge::Column { function: function.to_string(), bytes, rows }.into()),
        false => Ok(()),
    }
}

/// Refuses the result of a call if it is too large.
pub fn check_made(function: &str, made: &ColumnarValue, constant: bool) -> Result<()> {
    let array = match made {
        ColumnarValue::Scalar(value) => {
            let bytes = value.size().saturating_sub(size_of_val(value)) as u64;
            return check_value(function, constant, bytes);
        }
        ColumnarValue::Array(array) => array,
    };
    let bytes = array_bytes(array) as u64;
    if bytes > MAX_VALUE_BYTES || constant && bytes > MAX_CONSTANT_BYTES {
        (0..array.len()).try_for_each(|row| check_value(function, constant, value_bytes(array, row)))?;
    }
    check_column(function, bytes, array.len())
}

/// Returns the bytes of one value of an array.
pub fn value_bytes(array: &ArrayRef, row: usize) -> u64 {
    array_bytes(&array.slice(row, 1)) as u64
}

/// Refuses a type of too large a fixed size, since even NULL takes all of it.
pub fn check_type(data_type: &DataType) -> Result<()> {
    match fixed_bytes(data_type) {
        bytes if bytes > MAX_CONSTANT_BYTES => Err(TooLarge::Type { data_type: data_type.to_string(), bytes }.into()),
        _ => Ok(()),
    }
}

fn fixed_bytes(data_type: &DataType) -> u64 {
    match data_type {
        DataType::FixedSizeBinary(size) => u64::try_from(*size).unwrap_or(0),
        DataType::FixedSizeList(item, size) => {
            u64::try_from(*size).unwrap_or(0).saturating_mul(fixed_bytes(item.data_type()).max(1))
        }
        DataType::Struct(fields) => {
            fields.iter().map(|field| fixed_bytes(field.data_type())).fold(0, u64::saturating_add)
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::Map(item, _) => {
            fixed_bytes(item.data_type())
        }
        other => other.primitive_width().unwrap_or(1) as u64,
    }
}
