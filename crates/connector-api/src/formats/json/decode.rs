//! JSON records to Arrow columns.
//!
//! Owns: objects and the rules for members: undeclared members are skipped, absent ones are null, of a repeated name the
//! last one counts. A column takes the member of exactly its name, or else the only one that matches in any case.
//! Does not own: Kafka, chunks.
//! The crate arrow-json is not used: it accepts strings as numbers, truncates 1.5 to 1, reads BYTES as hex, and builds
//! a tape of all members. This decoder makes one pass and skips members that are not wanted.
//! Invariant: `append` adds exactly one row, bad or not.

pub(in crate::formats) mod column;
mod map;

use super::decode_scalar::expected;
use super::scan::{Scanner, Span, unescape};
use crate::error::ConnectorError;
use crate::formats::fault::utf8;
use crate::formats::{Fault, Input};
use arrow::array::ArrayRef;
use arrow::datatypes::{Field, Fields};
use arrow::error::ArrowError;
use column::Column;
use highwater_sql::identifier::key_of;
use std::collections::HashMap;

/// Maximum number of member names remembered from record to record.
const MAX_REMEMBERED: usize = 256;

/// Decodes record after record into columns.
pub struct JsonDecoder {
    root: ObjectDecoder,
    /// Whether an object was read since the last [`JsonDecoder::take_absent`].
    has_objects: bool,
    scratch: String,
}

impl JsonDecoder {
    /// Takes the columns to decode, and the indexes of those in the PRIMARY KEY. All other members are skipped.
    pub fn new(fields: &Fields, key: &[usize]) -> Result<Self, ConnectorError> {
        let mut root = ObjectDecoder::new(fields)?;
        key.iter().for_each(|column| root.fields[*column].is_key = true);
        Ok(Self { root, has_objects: false, scratch: String::new() })
    }

    /// Appends one row. On error, the row holds placeholders and must be filtered out.
    pub fn append(&mut self, record: Input<'_>) -> Result<(), Fault> {
        let result = match record {
            Input::Bytes(bytes) => object_text(bytes).and_then(|text| self.root.append_record(text, &mut self.scratch)),
            Input::Null => Ok(self.root.append_null(&mut self.scratch)),
            Input::Skip => {
                self.root.append_absent();
                return Ok(());
            }
        };
        match result {
            Ok(inner) => {
                self.has_objects |= matches!(record, Input::Bytes(_));
                inner
            }
            Err(fault) => {
                self.root.append_absent();
                Err(fault)
            }
        }
    }

    /// Returns which columns no object since the last call had a member for; `None` if there was no object.
    pub fn take_absent(&mut self) -> Option<Vec<bool>> {
        let has_objects = std::mem::take(&mut self.has_objects);
        let absent = self.root.fields.iter_mut().map(|field| !std::mem::take(&mut field.is_seen)).collect();
        has_objects.then_some(absent)
    }

    /// Returns the columns of the rows so far, and clears them.
    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.root.finish()
    }
}

fn object_text(bytes: &[u8]) -> Result<&str, Fault> {
    let text = utf8(bytes)?;
    if text.trim_ascii().is_empty() {
        return Err(Fault::new("the value is empty"));
    }
    Ok(text)
}

/// One column with its name.
pub struct FieldDecoder {
    name: String,
    nullable: bool,
    /// Whether it is part of the PRIMARY KEY, and so never null.
    is_key: bool,
    /// Whether an object had a member for it.
    is_seen: bool,
    column: Column,
}

impl FieldDecoder {
    /// Returns `None` for a type that cannot be read from JSON.
    pub fn new(field: &Field) -> Option<Self> {
        Some(Self {
            name: field.name().clone(),
            nullable: field.is_nullable(),
            is_key: false,
            is_seen: false,
            column: Column::new(field.data_type())?,
        })
    }

    /// Appends the text of one JSON value; `None` if the member is absent.
    pub fn append(&mut self, value: Option<&str>, scratch: &mut String) -> Result<(), Fault> {
        match value {
            Some(value) if value != "null" => {
                let before = self.column.len();
                let result = self.column.append(value, scratch);
                debug_assert_eq!(self.column.len(), before + 1);
                result
            }
            _ => {
                self.append_absent();
                if self.is_key {
                    return Err(Fault::new("null or absent, but part of the PRIMARY KEY"));
                }
                if self.nullable { Ok(()) } else { Err(Fault::new("null or absent, but declared NOT NULL")) }
            }
        }
    }

    fn append_absent(&mut self) {
        self.column.append_absent(self.nullable);
    }

    pub fn rows(&self) -> usize {
        self.column.len()
    }

    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.column.finish()
    }
}

/// The columns of an object's members.
pub struct ObjectDecoder {
    fields: Vec<FieldDecoder>,
    by_name: HashMap<String, usize>,
    /// Fields by the keys of their names (`identifier::key_of`), without fields that share a key.
    by_key: HashMap<String, usize>,
    /// The values of the current object, by field; `None` if the member is absent.
    slots: Vec<Option<Span>>,
    /// Members of the current object that match a field in another case: field, name, value.
    alike: Vec<(usize, Span, Span)>,
    /// Names of earlier objects' members, by position, with their fields. Records of a topic tend to have the same
    /// members in the same order, so a name is compared with its predecessor before it is looked up.
    remembered: Vec<(String, Match)>,
}

/// The field of a member.
#[derive(Clone, Copy)]
enum Match {
    None,
    Exact(usize),
    /// In another case.
    Alike(usize),
}

impl ObjectDecoder {
    pub fn new(fields: &Fields) -> Result<Self, ConnectorError> {
        let decoders = fields
            .iter()
            .map(|field| {
                FieldDecoder::new(field).ok_or_else(|| {
                    ConnectorError::Config(format!(
                        "column '{}': type {} cannot be read from JSON",
                        field.name(),
                        field.data_type()
                    ))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let by_name = fields.iter().enumerate().map(|(index, field)| (field.name().clone(), index)).collect();
        let keys: Vec<String> = fields.iter().map(|field| key_of(field.name())).collect();
        let is_alone = |key: &String| keys.iter().filter(|other| *other == key).count() == 1;
        let alone = keys.iter().enumerate().filter(|(_, key)| is_alone(key));
        let by_key = alone.map(|(index, key)| (key.clone(), index)).collect();
        let slots = vec![None; decoders.len()];
        Ok(Self { fields: decoders, by_name, by_key, slots, alike: Vec::new(), remembered: Vec::new() })
    }

    /// Appends the text of a record. On an outer error nothing was appended, on an inner error one row was.
    fn append_record(&mut self, text: &str, scratch: &mut String) -> Result<Result<(), Fault>, Fault> {
        let mut scanner = Scanner::new(text, 0);
        self.members(&mut scanner, scratch)?;
        scanner.end()?;
        Ok(self.append_slots(text, scratch))
    }

    /// Appends a record without any member.
    fn append_null(&mut self, scratch: &mut String) -> Result<(), Fault> {
        self.slots.fill(None);
        self.append_slots("", scratch)
    }

    /// Appends the text of one value: one entry to every field, even on error.
    pub fn append(&mut self, value: &str, scratch: &mut String) -> Result<(), Fault> {
        let mut scanner = Scanner::new(value, 0);
        if let Err(fault) = self.members(&mut scanner, scratch) {
            self.append_absent();
            return Err(fault);
        }
        self.append_slots(value, scratch)
    }

    /// Finds the values of the wanted members.
    fn members(&mut self, scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<(), Fault> {
        self.slots.fill(None);
        self.alike.clear();
        if !scanner.take(b'{') {
            let rest = scanner.text.get(scanner.at..).unwrap_or_default();
            // If the text is not JSON at all, that is the fault to report.
            Scanner::new(rest, 0).value(0)?;
            return Err(expected("an object", rest));
        }
        if scanner.take(b'}') {
            return Ok(());
        }
        for position in 0.. {
            scanner.skip_space();
            let name = scanner.string()?;
            let found = self.find(position, name.of(scanner.text), scratch)?;
            if !scanner.take(b':') {
                return Err(scanner.unexpected("':'"));
            }
            let value = scanner.value(0)?;
            match found {
                Match::None => {}
                Match::Exact(index) => self.slots[index] = Some(value),
                Match::Alike(index) => self.alike.push((index, name, value)),
            }
            if scanner.take(b'}') {
                break;
            }
            if !scanner.take(b',') {
                return Err(scanner.unexpected("',' or '}'"));
            }
        }
        if self.alike.is_empty() { Ok(()) } else { self.take_alike(scanner.text) }
    }

    /// Gives fields without an exact match the member that matches in another case.
    fn take_alike(&mut self, text: &str) -> Result<(), Fault> {
        // Together by field, in the order of the object.
        self.alike.sort_by_key(|(index, name, _)| (*index, name.start));
        for members in self.alike.chunk_by(|one, next| one.0 == next.0) {
            let [(index, first, _), ..] = members else { continue };
            if self.slots[*index].is_some() {
                continue;
            }
            let first = first.of(text);
            if let Some((_, other, _)) = members.iter().find(|(_, name, _)| name.of(text) != first) {
                let message = format!(
                    "the record has '{first}' and '{}', and neither is exactly the name of the column",
                    other.of(text)
                );
                return Err(Fault::new(message).within(&self.fields[*index].name));
            }
            self.slots[*index] = members.last().map(|(_, _, value)| *value);
        }
        Ok(())
    }

    /// Returns the field of a member by its name with escapes.
    fn find(&mut self, position: usize, name: &str, scratch: &mut String) -> Result<Match, Fault> {
        if let Some((known, found)) = self.remembered.get(position)
            && known == name
        {
            return Ok(*found);
        }
        let found = self.look_up(name, scratch)?;
        match self.remembered.get_mut(position) {
            Some(known) => {
                known.0.clear();
                known.0.push_str(name);
                known.1 = found;
            }
            None if position < MAX_REMEMBERED => self.remembered.push((name.to_string(), found)),
            None => {}
        }
        Ok(found)
    }

    fn look_up(&self, name: &str, scratch: &mut String) -> Result<Match, Fault> {
        match name.contains('\\') {
            true => unescape(name, scratch)?,
            false => {
                scratch.clear();
                scratch.push_str(name);
            }
        }
        if let Some(index) = self.by_name.get(scratch.as_str()) {
            return Ok(Match::Exact(*index));
        }
        match scratch.is_ascii() {
            true => scratch.make_ascii_lowercase(),
            false => *scratch = key_of(scratch),
        }
        Ok(self.by_key.get(scratch.as_str()).map_or(Match::None, |index| Match::Alike(*index)))
    }

    /// Appends the values found. All fields get an entry; the first fault is returned.
    fn append_slots(&mut self, text: &str, scratch: &mut String) -> Result<(), Fault> {
        let mut first = Ok(());
        for (field, slot) in self.fields.iter_mut().zip(&self.slots) {
            field.is_seen |= slot.is_some();
            let result = field.append(slot.map(|span| span.of(text)), scratch);
            if first.is_ok() {
                first = result.map_err(|fault| fault.within(&field.name));
            }
        }
        first
    }

    /// Appends a null or a placeholder to every field.
    pub fn append_absent(&mut self) {
        self.fields.iter_mut().for_each(FieldDecoder::append_absent);
    }

    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.fields.iter_mut().map(FieldDecoder::finish).collect()
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "fuzz_tests.rs"]
mod fuzz;
