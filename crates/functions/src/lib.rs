//! Functions of Spark SQL and Flink SQL that DataFusion does not have.
//!
//! Owns: their registration and their common shape; the clock of a batch ([`clock`]), windows as functions ([`windows`]).
//! Does not own: which of them a script may call (crate `sql`, `functions`).
//! Invariants: no function here depends on a random source, a locale, a time zone but UTC or a clock but the batch's; a NULL
//! argument gives NULL; a text that cannot be parsed gives NULL, a pattern that cannot be parsed is an error.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod aggregates;
pub mod bounds;
pub mod clock;
mod dates;
mod json;
mod lists;
mod random;
pub mod ranks;
pub mod size;
mod text;
mod to_char;
pub mod windows;

pub use dates::chrono_pattern;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The time zone of all timestamps with a zone.
pub const UTC: &str = "UTC";

/// Returns all scalar functions of this crate that need no context.
pub fn all() -> Vec<Arc<ScalarUDF>> {
    let functions = dates::all()
        .into_iter()
        .chain(text::all())
        .chain(to_char::all())
        .chain(json::all())
        .chain(lists::all())
        .chain(random::all());
    functions.map(|function| Arc::new(ScalarUDF::from(function))).collect()
}

/// A function over whole columns.
#[derive(Debug)]
pub struct Columns {
    name: &'static str,
    aliases: Vec<String>,
    /// An example of a call, for errors.
    usage: &'static str,
    /// Least and greatest number of arguments.
    arguments: (usize, usize),
    returns: DataType,
    run: fn(&[ArrayRef], rows: usize) -> Result<ArrayRef>,
    signature: Signature,
}

impl Columns {
    fn new(
        usage: &'static str,
        arguments: (usize, usize),
        returns: DataType,
        run: fn(&[ArrayRef], usize) -> Result<ArrayRef>,
    ) -> Self {
        let name = usage.split_once('(').map_or(usage, |(name, _)| name);
        let signature = Signature::variadic_any(Volatility::Immutable);
        Self { name, aliases: Vec::new(), usage, arguments, returns, run, signature }
    }

    fn alias(mut self, alias: &str) -> Self {
        self.aliases.push(alias.into());
        self
    }
}

impl PartialEq for Columns {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Columns {}

impl Hash for Columns {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Columns {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        let (least, most) = self.arguments;
        if args.len() < least || args.len() > most {
            return plan_err!("write {}", self.usage);
        }
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array((self.run)(&columns, args.number_rows)?))
    }
}

/// Returns a column as text.
fn texts(column: &ArrayRef) -> Result<StringArray> {
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// Caches the value computed from the last text, since patterns are the same in nearly every row.
struct Last<T>(Option<(String, T)>);

impl<T> Last<T> {
    fn get(&mut self, text: &str, make: impl FnOnce(&str) -> Result<T>) -> Result<&T> {
        if self.0.as_ref().is_none_or(|(known, _)| known != text) {
            self.0 = Some((text.to_string(), make(text)?));
        }
        match &self.0 {
            Some((_, value)) => Ok(value),
            None => plan_err!("no pattern"),
        }
    }
}

/// Returns the value of a row; `None` for NULL.
fn at(array: &StringArray, row: usize) -> Option<&str> {
    array.is_valid(row).then(|| array.value(row))
}
