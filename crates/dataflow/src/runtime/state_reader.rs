//! Shows the state of operators as rows for people.
//!
//! Owns: the interface of state readers, and decoding entries to Arrow rows. Does not own: the layout of an operator's keys
//! and values (each implements [`StateLayout`]), reading entries (checkpoints).
//! Invariant: an entry that does not fit the layout is an error that names operator, shard and key; nothing panics.

use super::keys::Codec;
use super::stored_row::StoredRow;
use crate::error::EngineError;
use crate::state::{Closing, close_of};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt16Array, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use highwater_protocol::ids::{OperatorId, ShardId};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

/// Name of the column with the shard.
pub const SHARD_COLUMN: &str = "_shard";
/// Names of the columns with the times of [`close_numbers`].
pub const TIME_COLUMNS: [&str; 2] = ["_closes_at", "_expires_at"];

/// One key of an operator's state, with its value.
#[derive(Clone, Copy, Debug)]
pub struct StateEntry<'a> {
    pub shard: ShardId,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Rows of one kind in an operator's state.
#[derive(Clone, Debug)]
pub struct StateRows {
    /// Name of the kind: `left rows`.
    pub part: String,
    /// Columns of `rows` that are their key; empty = all.
    pub key: Vec<usize>,
    /// The rows: `_shard`, the operator's columns, then its numbers: `_weight`, `_closes_at`, … Names are unique.
    pub rows: RecordBatch,
}

/// Reads the state of one operator.
pub trait StateReader {
    /// Returns the rows of entries, by part and in the order of entries; parts without rows are left out. A part comes
    /// several times if its rows differ in columns.
    ///
    /// # Errors
    /// If an entry does not fit this operator's layout.
    fn read(&self, entries: &[StateEntry<'_>]) -> Result<Vec<StateRows>, EngineError>;
}

/// The layout of an operator's state.
pub trait StateLayout {
    fn operator(&self) -> OperatorId;

    /// Returns the kinds of rows.
    fn parts(&self) -> Vec<StatePart<'_>>;

    /// Returns the rows of an entry.
    ///
    /// # Errors
    /// If key or value do not fit this layout.
    fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError>;
}

/// A kind of rows.
pub struct StatePart<'a> {
    pub name: String,
    /// The encoded pieces of a row, in the order of [`Held::pieces`].
    pub pieces: Vec<Piece<'a>>,
    /// Columns of the pieces that are the rows' key; empty = all.
    pub key: Vec<usize>,
    /// The numbers of a row, with the types they are shown as, in the order of [`Held::numbers`].
    pub numbers: Vec<Field>,
}

/// Columns that are encoded together.
pub struct Piece<'a> {
    pub codec: &'a Codec,
    /// Names of the codec's columns.
    pub names: Vec<String>,
    /// Indexes of the columns that are shown.
    pub shown: Vec<usize>,
}

impl<'a> Piece<'a> {
    /// Returns a piece with columns of these names, all shown.
    pub fn new(codec: &'a Codec, names: impl IntoIterator<Item = String>) -> Self {
        let names: Vec<String> = names.into_iter().collect();
        Self { codec, shown: (0..names.len()).collect(), names }
    }

    /// Returns a piece with the columns of a schema, all shown.
    pub fn of(codec: &'a Codec, schema: &SchemaRef) -> Self {
        Self::new(codec, schema.fields().iter().map(|field| field.name().clone()))
    }

    /// Returns a piece with some columns of a schema, all shown.
    pub fn some(codec: &'a Codec, schema: &SchemaRef, columns: &[usize]) -> Self {
        Self::new(codec, columns.iter().map(|column| schema.field(*column).name().clone()))
    }
}

/// A row of an entry.
pub struct Held<'a> {
    /// Index of its part in [`StateLayout::parts`].
    pub part: usize,
    /// Encoded pieces; `None` = the piece's columns are NULL.
    pub pieces: Vec<Option<Cow<'a, [u8]>>>,
    pub numbers: Vec<Option<i64>>,
}

impl<'a> Held<'a> {
    /// Returns a row whose pieces are all borrowed.
    pub fn of(part: usize, pieces: &[&'a [u8]], numbers: impl IntoIterator<Item = Option<i64>>) -> Self {
        let pieces = pieces.iter().map(|piece| Some(Cow::Borrowed(*piece))).collect();
        Self { part, pieces, numbers: numbers.into_iter().collect() }
    }
}

/// Returns the field of a whole number.
pub fn count_field(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// Returns the fields of [`close_numbers`].
pub fn close_fields() -> [Field; 2] {
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some(highwater_functions::UTC.into()));
    TIME_COLUMNS.map(|name| Field::new(name, time.clone(), true))
}

/// Returns the event time at which a row closes, and the batch time at which it expires, in milliseconds; `None` = never.
pub fn close_numbers(close_ms: i64) -> [Option<i64>; 2] {
    match Closing::of(close_ms) {
        Closing::Never => [None, None],
        Closing::At { event_ms } => [Some(event_ms), None],
        Closing::Expires { batch_ms } => [None, Some(batch_ms)],
    }
}

/// Returns the close time at the beginning of a value, and the bytes after it.
pub fn split_close<'a>(what: &'static str, value: &'a [u8]) -> Result<(i64, &'a [u8]), EngineError> {
    let rest = value.get(size_of::<i64>()..).ok_or(EngineError::CutOff(what))?;
    Ok((close_of(value), rest))
}

/// Returns the fields of [`stored_numbers`].
pub fn stored_fields() -> Vec<Field> {
    [count_field("_weight")].into_iter().chain(close_fields()).collect()
}

/// Returns the weight of a stored row and its [`close_numbers`].
pub fn stored_numbers(kept: StoredRow) -> Vec<Option<i64>> {
    [Some(kept.weight)].into_iter().chain(close_numbers(kept.close_ms)).collect()
}

/// Reads state with a layout.
pub struct LayoutReader<L>(pub L);

impl<L: StateLayout> StateReader for LayoutReader<L> {
    fn read(&self, entries: &[StateEntry<'_>]) -> Result<Vec<StateRows>, EngineError> {
        read_layout(&self.0, entries)
    }
}

/// As [`StateReader::read`].
pub fn read_layout(layout: &dyn StateLayout, entries: &[StateEntry<'_>]) -> Result<Vec<StateRows>, EngineError> {
    let parts = layout.parts();
    let mut gathered: Vec<Vec<(ShardId, Held<'_>)>> = parts.iter().map(|_| Vec::new()).collect();
    for entry in entries {
        let damaged = |cause| damaged(layout.operator(), entry, cause);
        for held in layout.split(entry.key, entry.value).map_err(|error| damaged(cause_of(&error)))? {
            let pieces = parts[held.part].pieces.iter().zip(&held.pieces);
            for (piece, bytes) in pieces {
                if bytes.as_deref().is_some_and(|bytes| !piece.codec.holds(bytes)) {
                    return Err(damaged(format!("({}) cannot be decoded", piece.names.join(", "))));
                }
            }
            gathered[held.part].push((entry.shard, held));
        }
    }
    let there = parts.into_iter().zip(gathered).filter(|(_, held)| !held.is_empty());
    there.map(|(part, held)| rows_of(part, &held)).collect()
}

fn damaged(operator: OperatorId, entry: &StateEntry<'_>, cause: String) -> EngineError {
    let mut key = String::with_capacity(2 * entry.key.len());
    for byte in entry.key {
        // Writing into a string never fails.
        let _ = write!(key, "{byte:02x}");
    }
    EngineError::DamagedEntry { operator, shard: entry.shard, key, cause }
}

fn cause_of(error: &EngineError) -> String {
    match error {
        EngineError::CutOff(what) => format!("{what} is cut off"),
        other => other.to_string(),
    }
}

fn rows_of(part: StatePart<'_>, held: &[(ShardId, Held<'_>)]) -> Result<StateRows, EngineError> {
    let shards: UInt16Array = held.iter().map(|(shard, _)| Some(shard.0)).collect();
    let mut columns: Vec<(String, ArrayRef)> = vec![(SHARD_COLUMN.into(), Arc::new(shards))];
    for (at, piece) in part.pieces.iter().enumerate() {
        let decoded = decoded(piece.codec, held.iter().map(|(_, held)| held.pieces[at].as_deref()))?;
        columns.extend(piece.shown.iter().map(|column| (piece.names[*column].clone(), decoded[*column].clone())));
    }
    for (at, field) in part.numbers.iter().enumerate() {
        let numbers: Int64Array = held.iter().map(|(_, held)| held.numbers[at]).collect();
        columns.push((field.name().clone(), cast(&numbers, field.data_type())?));
    }
    let key = part.key.iter().map(|column| column + 1).collect();
    Ok(StateRows { part: part.name, key, rows: named(columns)? })
}

/// Decodes rows to columns, which are NULL for rows that are `None`.
fn decoded<'a>(
    codec: &Codec,
    rows: impl ExactSizeIterator<Item = Option<&'a [u8]>>,
) -> Result<Vec<ArrayRef>, EngineError> {
    let count = rows.len();
    let (mut there, mut places): (Vec<&[u8]>, Vec<Option<u32>>) = (Vec::new(), Vec::with_capacity(count));
    for row in rows {
        places.push(row.map(|_| there.len() as u32));
        there.extend(row);
    }
    let columns = codec.decode(there.iter().copied())?;
    match there.len() {
        all if all == count => Ok(columns),
        0 => Ok(columns.iter().map(|column| new_null_array(column.data_type(), count)).collect()),
        _ => {
            let places = UInt32Array::from(places);
            Ok(columns.iter().map(|column| take(column, &places, None)).collect::<Result<_, _>>()?)
        }
    }
}

/// Returns rows of these columns. If several have the same name, all but the first get a number.
pub fn named(columns: Vec<(String, ArrayRef)>) -> Result<RecordBatch, EngineError> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let (mut fields, mut arrays) = (Vec::with_capacity(columns.len()), Vec::with_capacity(columns.len()));
    for (name, array) in columns {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(name);
        fields.push(Field::new(&free, array.data_type().clone(), true));
        arrays.push(array);
        taken.insert(free);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::{Int64Type, TimestampMillisecondType};

    /// A layout whose keys are texts, and whose values are stored rows.
    struct Texts(Codec);

    impl StateLayout for Texts {
        fn operator(&self) -> OperatorId {
            OperatorId(7)
        }

        fn parts(&self) -> Vec<StatePart<'_>> {
            let pieces = vec![Piece::new(&self.0, ["_weight".to_string()])];
            vec![StatePart { name: "texts".into(), pieces, key: vec![0], numbers: stored_fields() }]
        }

        fn split<'a>(&self, key: &'a [u8], value: &'a [u8]) -> Result<Vec<Held<'a>>, EngineError> {
            Ok(vec![Held::of(0, &[key], stored_numbers(StoredRow::decode(value)?))])
        }
    }

    fn texts() -> (LayoutReader<Texts>, Vec<u8>) {
        let codec = Codec::new([DataType::Utf8].iter()).unwrap();
        let column: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let key = codec.encode(&[column], 1).unwrap().row(0).to_vec();
        (LayoutReader(Texts(codec)), key)
    }

    #[test]
    fn both_time_lines_are_told_apart_and_names_are_unique() {
        let (reader, key) = texts();
        let values = [crate::state::NEVER, 5, crate::state::expires_at(6)]
            .map(|close_ms| StoredRow { close_ms, weight: 2, count: 0 }.encode());
        let entries: Vec<_> = values.iter().map(|value| StateEntry { shard: ShardId(3), key: &key, value }).collect();
        let [StateRows { part, key, rows }] = reader.read(&entries).unwrap().try_into().unwrap();
        assert_eq!((part.as_str(), key.as_slice()), ("texts", &[1usize][..]));
        let names: Vec<_> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["_shard", "_weight", "_weight_2", "_closes_at", "_expires_at"]);
        assert_eq!(rows.column(2).as_primitive::<Int64Type>().value(0), 2);
        let time = |column: usize, row: usize| {
            let times = rows.column(column).as_primitive::<TimestampMillisecondType>();
            times.iter().nth(row).unwrap()
        };
        assert_eq!([time(3, 0), time(3, 1), time(3, 2)], [None, Some(5), None]);
        assert_eq!([time(4, 0), time(4, 1), time(4, 2)], [None, None, Some(6)]);
    }

    #[test]
    fn an_entry_that_cannot_be_decoded_is_named_and_nothing_panics() {
        let (reader, key) = texts();
        let value = StoredRow { close_ms: 0, weight: 1, count: 0 }.encode();
        let error = |key: &[u8], value: &[u8]| {
            let entry = StateEntry { shard: ShardId(3), key, value };
            reader.read(&[entry]).unwrap_err().to_string()
        };
        let cut = error(&key, &value[..23]);
        assert!(cut.contains("operator 7, shard 3, key 02610000000000000001: a kept row is cut off"), "{cut}");
        for (wrong, hex) in [
            (&key[..4], "02610000"),
            (&[9][..], "09"),
            (&[][..], ""),
            (&[2, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1][..], "02ff00000000000000"),
        ] {
            let text = error(wrong, &value);
            assert!(text.contains(&format!("key {hex}")) && text.contains("cannot be decoded"), "{text}");
        }
    }
}
