//! CSV records to Arrow columns.
//!
//! Owns: mapping fields to columns, and NULL. Does not own: parsing values (`values`). Columns are built by JSON's
//! builders. Invariant: `append` adds exactly one row, bad or not.

use super::Style;
use super::split::{Cell, split};
use super::values;
use crate::error::ConnectorError;
use crate::formats::fault::utf8;
use crate::formats::json::Column;
use crate::formats::{Fault, Input, Layout};
use arrow::array::ArrayRef;
use arrow::error::ArrowError;

pub struct CsvDecoder {
    style: Style,
    /// Number of fields of a record.
    width: usize,
    columns: Vec<Wanted>,
    cells: Vec<Cell>,
    scratch: String,
}

/// A column that is decoded.
struct Wanted {
    /// Index of its field.
    at: usize,
    name: String,
    nullable: bool,
    /// Whether it is part of the PRIMARY KEY, and so never null.
    is_key: bool,
    column: Column,
}

impl CsvDecoder {
    pub fn new(layout: &Layout<'_>) -> Result<Self, ConnectorError> {
        let column = |wanted: &crate::formats::Wanted| {
            let field = &layout.fields[wanted.at];
            let column = Column::new(field.data_type()).filter(|_| (layout.format.spec().holds)(field.data_type()));
            let cannot = || {
                let (name, data_type) = (field.name(), field.data_type());
                ConnectorError::Config(format!("column '{name}': type {data_type} cannot be read from CSV"))
            };
            Ok(Wanted {
                at: wanted.at,
                name: field.name().clone(),
                nullable: field.is_nullable(),
                is_key: wanted.is_key,
                column: column.ok_or_else(cannot)?,
            })
        };
        Ok(Self {
            style: Style::of(layout.format),
            width: layout.fields.len(),
            columns: layout.wanted.iter().map(column).collect::<Result<_, ConnectorError>>()?,
            cells: Vec::new(),
            scratch: String::new(),
        })
    }

    /// Appends one row. On error, the row holds placeholders and must be filtered out.
    pub fn append(&mut self, record: Input<'_>) -> Result<(), Fault> {
        let cut = match record {
            Input::Bytes(bytes) => self.cut(bytes).map(Some),
            Input::Null => Ok(None),
            Input::Skip => {
                self.columns.iter_mut().for_each(Wanted::append_absent);
                return Ok(());
            }
        };
        let line = match cut {
            Ok(line) => line,
            Err(fault) => {
                self.columns.iter_mut().for_each(Wanted::append_absent);
                return Err(fault);
            }
        };
        let mut first = Ok(());
        for wanted in &mut self.columns {
            let cell = line.map(|line| (line, self.cells[wanted.at]));
            let result = wanted.append(cell, &self.style, &mut self.scratch);
            if first.is_ok() {
                first = result.map_err(|fault| fault.within(&wanted.name));
            }
        }
        first
    }

    /// Splits a record into `cells`, and returns its text without the end of line. The number of fields is checked.
    fn cut<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a str, Fault> {
        let text = utf8(bytes)?;
        let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        // A NULL in a table of one column is written as an empty record.
        let is_null = self.width == 1 && self.style.null.is_empty();
        if line.is_empty() && !is_null {
            return Err(Fault::new("the record is empty"));
        }
        split(line, &self.style, &mut self.cells)?;
        match self.cells.len() {
            found if found == self.width => Ok(line),
            1 => Err(Fault::new(format!("1 field, but {} columns are declared", self.width))),
            found => Err(Fault::new(format!("{found} fields, but {} columns are declared", self.width))),
        }
    }

    /// Returns the columns of the rows so far, and clears them.
    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns.iter_mut().map(|wanted| wanted.column.finish()).collect()
    }
}

impl Wanted {
    /// Appends the value of a field of a line; `None` if the record is missing.
    fn append(&mut self, cell: Option<(&str, Cell)>, style: &Style, scratch: &mut String) -> Result<(), Fault> {
        if let Some((line, cell)) = cell {
            let mut unquoted = std::mem::take(scratch);
            let text = cell.text(line, style.quote, &mut unquoted);
            let result = match cell.is_quoted || text != style.null {
                true => Some(values::append(&mut self.column, text, scratch)),
                false => None,
            };
            *scratch = unquoted;
            if let Some(result) = result {
                return result;
            }
        }
        self.append_absent();
        match (self.is_key, self.nullable) {
            (true, _) => Err(Fault::new("NULL, but part of the PRIMARY KEY")),
            (false, false) => Err(Fault::new("NULL, but declared NOT NULL")),
            (false, true) => Ok(()),
        }
    }

    fn append_absent(&mut self) {
        self.column.append_absent(self.nullable);
    }
}
