//! Splitting a CSV record into its fields, by RFC 4180.
//!
//! Owns: delimiters and quotes. Does not own: parsing fields. The crate `csv` is not used, since it does not
//! distinguish `""` (here an empty text) from an empty field (here NULL). Invariant: every byte of a record is in a
//! field or is syntax.

use super::Style;
use crate::formats::Fault;
use memchr::{memchr, memchr2};

/// A field: the byte range of its text in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    start: usize,
    end: usize,
    pub is_quoted: bool,
    /// Whether it contains quotes, which are written twice.
    has_quotes: bool,
}

impl Cell {
    /// Returns the text of the field; `scratch` holds it if doubled quotes had to be removed.
    pub fn text<'a>(&self, record: &'a str, quote: u8, scratch: &'a mut String) -> &'a str {
        let text = record.get(self.start..self.end).unwrap_or_default();
        if !self.has_quotes {
            return text;
        }
        scratch.clear();
        let mut is_second = false;
        for c in text.chars() {
            is_second = c == char::from(quote) && !is_second;
            if c != char::from(quote) || is_second {
                scratch.push(c);
            }
        }
        scratch
    }
}

/// Splits `record` into `cells`.
///
/// # Errors
/// The record is not one line of CSV.
pub fn split(record: &str, style: &Style, cells: &mut Vec<Cell>) -> Result<(), Fault> {
    cells.clear();
    let bytes = record.as_bytes();
    let mut at = 0;
    loop {
        let (cell, next) = match bytes.get(at) {
            Some(byte) if *byte == style.quote => quoted(bytes, at + 1, style, cells.len() + 1)?,
            _ => plain(bytes, at, style)?,
        };
        cells.push(cell);
        if next >= bytes.len() {
            return Ok(());
        }
        at = next + 1;
    }
}

/// Returns the unquoted field that begins at `start`, and where it ends.
fn plain(bytes: &[u8], start: usize, style: &Style) -> Result<(Cell, usize), Fault> {
    let rest = &bytes[start..];
    let end = start + memchr(style.delimiter, rest).unwrap_or(rest.len());
    match memchr2(b'\n', b'\r', &bytes[start..end]) {
        None => Ok((Cell { start, end, is_quoted: false, has_quotes: false }, end)),
        Some(_) => Err(Fault::new("more than one line: a field that contains an end of line must be quoted")),
    }
}

/// Returns the quoted field whose opening quote is before `start`, and where it ends. `number` counts fields from 1.
fn quoted(bytes: &[u8], start: usize, style: &Style, number: usize) -> Result<(Cell, usize), Fault> {
    let (mut at, mut has_quotes) = (start, false);
    loop {
        let Some(found) = memchr(style.quote, &bytes[at..]) else {
            return Err(Fault::new(format!("the quotes of field {number} are not closed")));
        };
        let end = at + found;
        match bytes.get(end + 1) {
            Some(byte) if *byte == style.quote => (at, has_quotes) = (end + 2, true),
            None => return Ok((Cell { start, end, is_quoted: true, has_quotes }, end + 1)),
            Some(byte) if *byte == style.delimiter => {
                return Ok((Cell { start, end, is_quoted: true, has_quotes }, end + 1));
            }
            Some(_) => return Err(Fault::new(format!("text follows the closing quotes of field {number}"))),
        }
    }
}
