//! Checks that bytes are an encoded row, since arrow-row's decoder panics if they are not.
//!
//! Owns: walking arrow-row's format without decoding it. Does not own: encoding and decoding (`keys`).
//! Invariant: bytes that pass are decoded without a panic, and every encoded row passes. Both are tested with random rows,
//! so that a version of arrow-row with another format is noticed.

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, FieldRef};

/// Bytes of a block of text, and of the smaller blocks that the first block is split into.
const BLOCK: usize = 32;
const MINI_BLOCK: usize = 8;
const MINI_BLOCKS: usize = BLOCK / MINI_BLOCK;
/// In the place of a block's length: another block follows.
const CONTINUES: u8 = 0xFF;

const EMPTY: u8 = 1;
const NON_EMPTY: u8 = 2;
/// Second byte of a value of type NULL.
const NULL_VALUE: u8 = 3;
/// Precedes a value of fixed length that is not NULL.
const VALID: u8 = 1;

/// True if `bytes` are exactly one row of these columns. False for types whose format is not known here.
pub fn is_row(columns: &[(DataType, SortOptions)], bytes: &[u8]) -> bool {
    let rest = columns.iter().try_fold(bytes, |rest, (data_type, options)| after(data_type, *options, rest));
    rest.is_some_and(<[u8]>::is_empty)
}

/// Returns the bytes after a value of this type; `None` if `bytes` do not begin with one.
fn after<'a>(data_type: &DataType, options: SortOptions, bytes: &'a [u8]) -> Option<&'a [u8]> {
    match data_type {
        DataType::Null => bytes.strip_prefix(&[turned(NON_EMPTY, options), turned(NULL_VALUE, options)]),
        DataType::Boolean => fixed(1, options, bytes),
        DataType::FixedSizeBinary(size) => fixed(usize::try_from(*size).ok()?, options, bytes),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Some(blocks(options, bytes)?.1),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let (text, rest) = blocks(options, bytes)?;
            std::str::from_utf8(&text.unwrap_or_default()).ok().map(|_| rest)
        }
        DataType::Dictionary(_, values) => after(values, options, bytes),
        DataType::Struct(fields) => {
            let (_, rest) = flag(options, bytes)?;
            fields.iter().try_fold(rest, |rest, field| after(field.data_type(), options, rest))
        }
        DataType::List(field) | DataType::LargeList(field) => elements(std::slice::from_ref(field), options, bytes),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => elements(fields, options, bytes),
            _ => None,
        },
        DataType::FixedSizeList(field, size) => {
            let (is_there, rest) = flag(options, bytes)?;
            let elements = if is_there { usize::try_from(*size).ok()? } else { 0 };
            (0..elements).try_fold(rest, |rest, _| after(field.data_type(), options, rest))
        }
        other => fixed(other.primitive_width()?, options, bytes),
    }
}

/// Returns a byte as it is encoded: inverted in a descending column.
fn turned(byte: u8, options: SortOptions) -> u8 {
    if options.descending { !byte } else { byte }
}

/// Returns the byte that stands for NULL.
fn null(options: SortOptions) -> u8 {
    if options.nulls_first { 0 } else { 0xFF }
}

/// Returns true if the value is not NULL, and the bytes after the flag that says so.
fn flag(options: SortOptions, bytes: &[u8]) -> Option<(bool, &[u8])> {
    let (flag, rest) = bytes.split_first()?;
    (*flag == VALID || *flag == null(options)).then_some((*flag == VALID, rest))
}

fn fixed(width: usize, options: SortOptions, bytes: &[u8]) -> Option<&[u8]> {
    flag(options, bytes)?.1.get(width..)
}

/// Returns a value that is encoded in blocks (`None` = NULL), and the bytes after it.
fn blocks(options: SortOptions, bytes: &[u8]) -> Option<(Option<Vec<u8>>, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    if *first == null(options) {
        return Some((None, rest));
    }
    match turned(*first, options) {
        EMPTY => return Some((Some(Vec::new()), rest)),
        NON_EMPTY => {}
        _ => return None,
    }
    let mut value = Vec::new();
    for block in 0.. {
        let size = if block < MINI_BLOCKS { MINI_BLOCK } else { BLOCK };
        let (content, after) = rest.split_at_checked(size)?;
        let (length, after) = after.split_first()?;
        rest = after;
        let length = turned(*length, options);
        let taken = if length == CONTINUES { size } else { usize::from(length) };
        if taken == 0 || taken > size {
            return None;
        }
        value.extend(content[..taken].iter().map(|byte| turned(*byte, options)));
        if length != CONTINUES {
            break;
        }
    }
    Some((Some(value), rest))
}

/// Returns the bytes after a list whose elements are rows of these fields.
fn elements<'a>(fields: &[FieldRef], options: SortOptions, bytes: &'a [u8]) -> Option<&'a [u8]> {
    // The encoded bytes of an element are inverted as a whole.
    let inner = SortOptions { descending: false, nulls_first: options.nulls_first != options.descending };
    let (mut element, mut rest) = blocks(options, bytes)?;
    if element.is_none() {
        return Some(rest);
    }
    while let Some(bytes) = element.as_deref().filter(|bytes| !bytes.is_empty()) {
        let read = fields.iter().try_fold(bytes, |rest, field| {
            let is_missing = !field.is_nullable() && rest.first() == Some(&null(inner));
            if is_missing { None } else { after(field.data_type(), inner, rest) }
        })?;
        if !read.is_empty() {
            return None;
        }
        (element, rest) = blocks(options, rest)?;
    }
    // An empty block ends the list; a NULL is invalid here.
    element.map(|_| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use arrow::datatypes::{Field, Fields, Int32Type, Int64Type};
    use arrow_row::{RowConverter, SortField};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// A random row: a number, a text, a list, bytes and a boolean.
    type Row = (Option<i64>, Option<String>, Option<Vec<Option<i64>>>, Option<Vec<u8>>, bool);

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let text = prop::option::of(prop_oneof![".{0,40}", "[a-c]{30,100}"]);
        let list = prop::option::of(prop::collection::vec(prop::option::of(any::<i64>()), 0..12));
        let bytes = prop::option::of(prop::collection::vec(any::<u8>(), 0..70));
        prop::collection::vec((prop::option::of(any::<i64>()), text, list, bytes, any::<bool>()), 1..6)
    }

    fn columns(rows: &[Row]) -> Vec<ArrayRef> {
        let numbers: ArrayRef = Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>());
        let texts: ArrayRef = Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringArray>());
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(rows.iter().map(|row| row.2.clone()));
        let bytes: ArrayRef = Arc::new(rows.iter().map(|row| row.3.as_deref()).collect::<BinaryArray>());
        let there: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.4)).collect::<BooleanArray>());
        let decimals = Decimal128Array::from_iter(rows.iter().map(|row| row.0.map(i128::from)));
        let fields = Fields::from(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("l", lists.data_type().clone(), true),
        ]);
        let parts = vec![numbers.clone(), texts.clone(), Arc::new(lists.clone()) as ArrayRef];
        let nulls = arrow::buffer::NullBuffer::from_iter(rows.iter().map(|row| row.4));
        let pairs = FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(
            rows.iter().map(|row| row.0.map(|n| [Some(n as i32), None])),
            2,
        );
        vec![
            numbers,
            texts,
            Arc::new(lists),
            bytes,
            there,
            Arc::new(decimals),
            Arc::new(StructArray::new(fields, parts, Some(nulls))),
            Arc::new(pairs),
            Arc::new(maps(rows)),
            Arc::new(NullArray::new(rows.len())),
        ]
    }

    /// Returns maps from the numbers of a row's list to its text.
    fn maps(rows: &[Row]) -> MapArray {
        let mut builder = MapBuilder::new(None, Int64Builder::new(), StringBuilder::new());
        for row in rows {
            for number in row.2.iter().flatten().flatten() {
                builder.keys().append_value(*number);
                builder.values().append_option(row.1.as_deref());
            }
            builder.append(row.2.is_some()).unwrap();
        }
        builder.finish()
    }

    fn orders() -> impl Strategy<Value = SortOptions> {
        any::<(bool, bool)>().prop_map(|(descending, nulls_first)| SortOptions { descending, nulls_first })
    }

    proptest! {
        #[test]
        fn rows_pass_and_what_passes_decodes(
            rows in rows(),
            options in orders(),
            one in prop::option::of(0usize..10),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let all = columns(&rows);
            let columns = match one {
                Some(one) => vec![all[one].clone()],
                None => all,
            };
            let types: Vec<_> = columns.iter().map(|column| (column.data_type().clone(), options)).collect();
            let field = |(data_type, options): &(DataType, SortOptions)| SortField::new_with_options(data_type.clone(), *options);
            let converter = RowConverter::new(types.iter().map(field).collect()).unwrap();
            let encoded = converter.convert_columns(&columns).unwrap();
            for row in 0..encoded.num_rows() {
                let bytes = encoded.row(row).data().to_vec();
                prop_assert!(is_row(&types, &bytes));
                prop_assert!(!is_row(&types, &bytes[..cut.index(bytes.len())]), "cut off");
                prop_assert!(!is_row(&types, &[bytes.as_slice(), &[7]].concat()), "with a byte too many");
                let mut changed = bytes;
                changes.iter().for_each(|(at, byte)| { let at = at.index(changed.len()); changed[at] = *byte; });
                if is_row(&types, &changed) {
                    let parser = converter.parser();
                    prop_assert!(converter.convert_rows([parser.parse(&changed)]).is_ok());
                }
            }
        }
    }
}
