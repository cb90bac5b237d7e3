//! Decoding the keys and values of records: which decoder reads which part, and the meaning of a missing part.
//!
//! Owns: the decoders of one table, and combining their results. Does not own: formats (`formats` in `connector-api`),
//! metadata columns, the handling of bad records. Invariant: every column has a row for every record, bad or not.

use super::meta::Meta;
use super::raw::RawRecords;
use arrow::array::ArrayRef;
use arrow::compute::interleave;
use arrow::datatypes::Fields;
use arrow::error::ArrowError;
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::formats::{self, Decoded, Input, Layout, RowDecoder, Wanted};
use highwater_sql::formats::Format;
use highwater_sql::record_columns::RecordColumns;
use highwater_sql::tables::{SourceTable, UpsertKey};

/// Source of a decoded column: an index into the columns of the value or of the key, or metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Value(usize),
    Key(usize),
    Meta(Meta),
}

/// The decoders of one table.
pub struct PartDecoder {
    value: Box<dyn RowDecoder>,
    key: Option<KeyDecoder>,
    /// Whether a record without value deletes the row of its key.
    is_keyed: bool,
    /// Whether a record without value is a row whose value is NULL.
    takes_null: bool,
}

struct KeyDecoder {
    decoder: Box<dyn RowDecoder>,
    /// Whether every record's key is read; otherwise only keys of records without value.
    always: bool,
    /// Columns that a record without value takes from its key, as indexes into the columns of value and key.
    stand_in: Vec<(usize, usize)>,
}

/// Decoded columns of all records, good or bad.
pub struct Parts {
    values: Vec<ArrayRef>,
    keys: Vec<ArrayRef>,
    /// Index and reason of each bad record, ascending.
    pub bad: Vec<(usize, String)>,
    /// Whether no record has a field for a column of the value; `None` if unknown.
    absent: Option<Vec<bool>>,
}

impl Parts {
    /// Returns the indices of those `origins` that no record has a field for; `None` if unknown.
    pub fn absent(&self, origins: &[Origin]) -> Option<Vec<usize>> {
        let absent = self.absent.as_ref()?;
        let is_absent = |origin: &Origin| matches!(origin, Origin::Value(at) if absent.get(*at) == Some(&true));
        Some((0..origins.len()).filter(|place| is_absent(&origins[*place])).collect())
    }

    /// Returns the column of an origin; `None` for metadata.
    pub fn column(&self, origin: Origin) -> Option<&ArrayRef> {
        match origin {
            Origin::Value(place) => self.values.get(place),
            Origin::Key(place) => self.keys.get(place),
            Origin::Meta(_) => None,
        }
    }
}

impl PartDecoder {
    /// Opens decoders for the `wanted` columns of a table, and returns the source of each.
    ///
    /// # Errors
    /// A format cannot hold a column.
    pub fn open(
        table: &SourceTable,
        format: &Format,
        key_format: &Format,
        wanted: &[usize],
    ) -> Result<(Self, Vec<Origin>), ConnectorError> {
        let columns = table.record_columns();
        let (mut values, mut keys) = (Vec::new(), Vec::new());
        let mut origins = Vec::with_capacity(wanted.len());
        for column in wanted {
            let meta = Meta::of(table.schema.field(*column).name());
            let of_key = columns.by_key.then(|| columns.key.iter().position(|key| key == column)).flatten();
            origins.push(match (meta, of_key) {
                (Some(meta), _) => Origin::Meta(meta),
                (None, Some(at)) => Origin::Key(ask(&mut keys, at, table, *column)),
                (None, None) => {
                    let at = columns.value.iter().position(|value| value == column);
                    let at =
                        at.ok_or_else(|| ConnectorError::Fatal(format!("column {column} is not in the record")))?;
                    Origin::Value(ask(&mut values, at, table, *column))
                }
            });
        }
        let mut stand_in = Vec::new();
        if let Some(upsert) = table.upsert.as_ref().filter(|_| !columns.by_key) {
            stand_in = stand_ins(upsert, wanted, &origins, &columns, &mut keys);
        }
        let key = match keys.is_empty() {
            true => None,
            false => {
                let decoder = open(table, key_format, &columns.key, keys)?;
                Some(KeyDecoder { decoder, always: columns.by_key, stand_in })
            }
        };
        let value = open(table, format, &columns.value, values)?;
        let is_keyed = table.upsert.is_some();
        Ok((Self { value, key, is_keyed, takes_null: format.spec().single }, origins))
    }

    /// Returns whether it needs the keys of records.
    pub fn reads_keys(&self) -> bool {
        self.key.is_some()
    }

    /// Decodes all of `raw`.
    ///
    /// # Errors
    /// The rows do not fit into one batch.
    pub fn decode(&mut self, raw: &RawRecords) -> Result<Parts, ArrowError> {
        let mut bad = Vec::new();
        let (mut values, absent) = self.decode_values(raw, &mut bad)?;
        let mut keys = Vec::new();
        if let Some(key) = &mut self.key
            && (key.always || raw.has_tombstones())
        {
            keys = key.decode(raw, self.is_keyed, &mut bad)?;
            if !key.stand_in.is_empty() {
                let rows = rows_of_both(raw);
                for (value, key) in &key.stand_in {
                    values[*value] = interleave(&[values[*value].as_ref(), keys[*key].as_ref()], &rows)?;
                }
            }
            // If both parts of a record are bad, the value's reason is kept.
            bad.sort_by_key(|(index, _)| *index);
            bad.dedup_by_key(|(index, _)| *index);
        }
        Ok(Parts { values, keys, bad, absent })
    }

    /// The columns of the values, and which of them no record had a field for.
    fn decode_values(
        &mut self,
        raw: &RawRecords,
        bad: &mut Vec<(usize, String)>,
    ) -> Result<(Vec<ArrayRef>, Option<Vec<bool>>), ArrowError> {
        let without = if self.takes_null && !self.is_keyed { Input::Null } else { Input::Skip };
        let input = |index| raw.payload(index).map_or(without, Input::Bytes);
        let inputs: Vec<Input<'_>> = (0..raw.len()).map(input).collect();
        let Decoded { columns, bad: faults, absent } = self.value.decode(&inputs)?;
        bad.extend(faults.into_iter().map(|(index, fault)| (index, fault.to_string())));
        if !self.takes_null && !self.is_keyed && raw.has_tombstones() {
            let reason = "the value is null (a tombstone), and an append-only source has nothing to delete";
            let tombstones = (0..raw.len()).filter(|index| raw.payload(*index).is_none());
            bad.extend(tombstones.map(|index| (index, reason.to_string())));
            bad.sort_by_key(|(index, _)| *index);
        }
        Ok((columns, absent))
    }
}

impl KeyDecoder {
    /// Decodes the keys of all records, or, unless `always`, only of those without value.
    fn decode(
        &mut self,
        raw: &RawRecords,
        is_keyed: bool,
        bad: &mut Vec<(usize, String)>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let part = |index| match raw.payload(index).is_none() && is_keyed {
            true => "the key of a record without value",
            false => "the key",
        };
        let asked: Vec<usize> = (0..raw.len()).filter(|index| self.always || raw.payload(*index).is_none()).collect();
        let mut inputs = Vec::with_capacity(asked.len());
        for index in &asked {
            inputs.push(match raw.key(*index) {
                Some(key) => Input::Bytes(key),
                None if !is_keyed => Input::Null,
                None => {
                    let nothing = if raw.payload(*index).is_none() { ", so there is nothing to delete" } else { "" };
                    bad.push((*index, format!("{} is missing{nothing}", part(*index))));
                    Input::Skip
                }
            });
        }
        let Decoded { columns, bad: faults, .. } = self.decoder.decode(&inputs)?;
        let faults = faults.into_iter().map(|(place, fault)| (asked[place], fault));
        bad.extend(faults.map(|(index, fault)| (index, format!("{}: {fault}", part(index)))));
        Ok(columns)
    }
}

/// Returns the row of each record for `interleave`: from the values, or, for a record without value, the next row of
/// the keys.
fn rows_of_both(raw: &RawRecords) -> Vec<(usize, usize)> {
    let mut deleted = 0;
    let row = |index| match raw.payload(index) {
        Some(_) => (0, index),
        None => {
            deleted += 1;
            (1, deleted - 1)
        }
    };
    (0..raw.len()).map(row).collect()
}

/// Appends a column to `wanted`, and returns its index there.
fn ask(wanted: &mut Vec<Wanted>, at: usize, table: &SourceTable, column: usize) -> usize {
    let is_key = table.upsert.as_ref().is_some_and(|upsert| upsert.columns.contains(&column));
    wanted.push(Wanted { at, is_key });
    wanted.len() - 1
}

/// Appends to `keys` the PRIMARY KEY columns that are read from the value, so that a record without value takes them
/// from its key. Returns their indexes among the columns of value and key.
fn stand_ins(
    upsert: &UpsertKey,
    wanted: &[usize],
    origins: &[Origin],
    columns: &RecordColumns,
    keys: &mut Vec<Wanted>,
) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for (column, origin) in wanted.iter().zip(origins) {
        let at = columns.key.iter().position(|key| key == column).filter(|_| upsert.columns.contains(column));
        if let (Some(at), Origin::Value(value)) = (at, origin) {
            pairs.push((*value, keys.len()));
            keys.push(Wanted { at, is_key: true });
        }
    }
    pairs
}

fn open(
    table: &SourceTable,
    format: &Format,
    columns: &[usize],
    wanted: Vec<Wanted>,
) -> Result<Box<dyn RowDecoder>, ConnectorError> {
    let fields: Fields = columns.iter().map(|column| table.schema.fields()[*column].clone()).collect();
    formats::decoder(&Layout { format, fields: &fields, wanted })
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;
