//! JSON records to Arrow columns.
//!
//! Owns: objects and the rules for members: undeclared ones are skipped, absent = null, of a repeated name the last counts. A
//! name matches the column of exactly that name, or else the only one in any case, for which no member matches exactly.
//! Does not own: Kafka, chunks.
//! Why not arrow-json: it takes strings for numbers and cuts 1.5 to 1, reads hex for BYTES, and
//! builds a tape of every member, wanted or not. This one pass only steps over the others.
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

/// Member positions remembered from record to record.
const MAX_REMEMBERED: usize = 256;

/// Decodes record after record into columns.
pub struct JsonDecoder {
    root: ObjectDecoder,
    /// An object was read since the last [`JsonDecoder::take_absent`].
    has_objects: bool,
    scratch: String,
}

impl JsonDecoder {
    /// `fields` are the columns wanted, and of those `key` the PRIMARY KEY; everything else in a record is skipped.
    pub fn new(fields: &Fields, key: &[usize]) -> Result<Self, ConnectorError> {
        let mut root = ObjectDecoder::new(fields)?;
        key.iter().for_each(|column| root.fields[*column].is_key = true);
        Ok(Self { root, has_objects: false, scratch: String::new() })
    }

    /// Appends one row. On error it holds stand-ins and must be filtered out.
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

    /// Which columns no object since the last call had a member for; `None` without an object.
    pub fn take_absent(&mut self) -> Option<Vec<bool>> {
        let has_objects = std::mem::take(&mut self.has_objects);
        let absent = self.root.fields.iter_mut().map(|field| !std::mem::take(&mut field.is_seen)).collect();
        has_objects.then_some(absent)
    }

    /// The columns of the rows so far; starts anew.
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
    /// Part of the PRIMARY KEY: never null.
    is_key: bool,
    /// Some object had a member for it.
    is_seen: bool,
    column: Column,
}

impl FieldDecoder {
    /// `None` for a type JSON cannot be read into.
    pub fn new(field: &Field) -> Option<Self> {
        Some(Self {
            name: field.name().clone(),
            nullable: field.is_nullable(),
            is_key: false,
            is_seen: false,
            column: Column::new(field.data_type())?,
        })
    }

    /// Appends the text of one JSON value; `None` = absent.
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
    /// Fields by their keys (`identifier::key_of`): those that no other one has.
    by_key: HashMap<String, usize>,
    /// Where the current object's members lie, by field.
    slots: Vec<Option<Span>>,
    /// The current object's members that match a field in another case: the field, the name, the value.
    alike: Vec<(usize, Span, Span)>,
    /// Names in the order of the objects before: records of a topic tend to look alike, so the
    /// next name is compared before it is looked up.
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

    /// The whole text of a record. The outer error: nothing was appended. The inner: a row was.
    fn append_record(&mut self, text: &str, scratch: &mut String) -> Result<Result<(), Fault>, Fault> {
        let mut scanner = Scanner::new(text, 0);
        self.members(&mut scanner, scratch)?;
        scanner.end()?;
        Ok(self.append_slots(text, scratch))
    }

    /// A record of which nothing is there.
    fn append_null(&mut self, scratch: &mut String) -> Result<(), Fault> {
        self.slots.fill(None);
        self.append_slots("", scratch)
    }

    /// The text of one value. Appends one entry to every field, also on error.
    pub fn append(&mut self, value: &str, scratch: &mut String) -> Result<(), Fault> {
        let mut scanner = Scanner::new(value, 0);
        if let Err(fault) = self.members(&mut scanner, scratch) {
            self.append_absent();
            return Err(fault);
        }
        self.append_slots(value, scratch)
    }

    /// Finds the members wanted.
    fn members(&mut self, scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<(), Fault> {
        self.slots.fill(None);
        self.alike.clear();
        if !scanner.take(b'{') {
            let rest = scanner.text.get(scanner.at..).unwrap_or_default();
            // Says whether the text is JSON at all before saying that it is no object.
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

    /// The field of a member, by its raw name.
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

    /// Appends the members found. All fields get their entry; the first fault is reported.
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

    /// Appends a null or stand-in to every field.
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
