//! Tests of decoding chunks, slicing them, and the buffer that holds them.

use super::super::buffer::{Found, PartitionBuffer};
use super::*;
use arrow::datatypes::{Field, Schema};
use datafusion::physical_expr::expressions::{CastExpr, Column};
use highwater_connector_spec::OptionValues;
use highwater_connector_spec::kafka::KAFKA;
use highwater_expressions::guarded;
use highwater_protocol::ids::SourceId;
use highwater_protocol::options::SourceOptions;
use highwater_sql::formats::{Format, JSON};
use highwater_sql::tables::{ConnectorOptions, KeyOptions, UpsertKey};
use proptest::prelude::*;

pub fn table(on_bad_record: OnBadRecord, columns_used: Vec<usize>) -> SourceTable {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("name", DataType::Utf8, true),
        Field::new("_offset", DataType::Int64, false),
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_key", DataType::Binary, true),
    ]));
    SourceTable {
        id: SourceId(0),
        name: "t".into(),
        schema,
        connector: ConnectorOptions {
            values: OptionValues::of(&KAFKA),
            format: Format::of(&JSON),
            key: KeyOptions::default(),
        },
        options: SourceOptions { on_bad_record, ..SourceOptions::default() },
        watermark: Some(Arc::new(Column::new("ts", 1))),
        event_time: Some(1),
        columns_used,
        upsert: None,
        dead_letters: None,
    }
}

fn tp() -> TopicPartition {
    TopicPartition::new("topic", 3)
}

/// Returns records at `offsets`; those at the offsets in `bad` cannot be decoded. The watermark is 1000 − offset.
fn raw(offsets: &[i64], bad: &[i64]) -> RawRecords {
    let mut raw = RawRecords::default();
    for offset in offsets {
        let payload = match bad.contains(offset) {
            true => format!("{{\"id\":\"{offset}\"}}"),
            false => format!("{{\"id\":{offset},\"ts\":{},\"name\":\"n{offset}\"}}", 1000 - offset),
        };
        raw.push_parts(*offset, Some(5000 + offset), Some(b"k"), Some(payload.as_bytes()), None);
    }
    raw
}

fn decode(on_bad: OnBadRecord, offsets: &[i64], bad: &[i64]) -> DecodedChunk {
    ChunkDecoder::new(&table(on_bad, vec![0, 3])).unwrap().decode(&tp(), &raw(offsets, bad)).unwrap()
}

/// A decoded chunk of good records.
pub fn chunk_of(offsets: &[i64]) -> DecodedChunk {
    decode(OnBadRecord::Fail, offsets, &[])
}

#[test]
fn the_layout_is_the_columns_used_and_metadata() {
    let table = table(OnBadRecord::Fail, vec![2, 3, 4, 5]);
    let chunk = ChunkDecoder::new(&table).unwrap().decode(&tp(), &raw(&[7, 9], &[])).unwrap().slice(0, 100).unwrap();
    let names: Vec<_> = chunk.batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    // The watermark needs `ts`, which is decoded but not handed out.
    assert_eq!(names, ["name", "_offset", "_topic", "_key"]);
    assert_eq!(chunk.batch.column(0).as_string::<i32>().value(1), "n9");
    assert_eq!(chunk.batch.column(1).as_primitive::<Int64Type>().values(), &[7, 9]);
    assert_eq!(chunk.batch.column(2).as_string::<i32>().value(0), "topic");
    assert_eq!(chunk.batch.column(3).as_binary::<i32>().value(0), b"k");
    assert_eq!((chunk.max_watermark_ms, chunk.max_timestamp_ms), (Some(993), Some(5009)));
}

#[test]
fn a_row_leads_to_its_record_past_the_bad_ones_of_any_slice() {
    let bad = [10, 13, 14, 19];
    let chunk = decode(OnBadRecord::DeadLetter { topic: None }, &[10, 11, 13, 14, 15, 17, 19, 20], &bad);
    for (start, end) in [(0, 100), (11, 100), (12, 18), (14, 21), (16, 100)] {
        let slice = chunk.slice(start, end).unwrap();
        let offsets = slice.batch.column(1).as_primitive::<Int64Type>().values();
        for (row, offset) in offsets.iter().enumerate() {
            let record = slice.origins.bad(row, "why".into());
            assert_eq!((record.offset, record.timestamp_ms), (*offset, Some(5000 + offset)), "{start}..{end}");
            let payload = format!("{{\"id\":{offset},\"ts\":{},\"name\":\"n{offset}\"}}", 1000 - offset);
            assert_eq!((record.key.as_deref(), record.payload.as_deref()), (Some(&b"k"[..]), Some(payload.as_bytes())));
            assert_eq!((record.tp, record.reason.as_str()), (tp(), "why"));
        }
    }
    // Only dead letters need the bytes.
    let record = decode(OnBadRecord::Skip, &[1], &[]).slice(0, 9).unwrap().origins.bad(0, "why".into());
    assert_eq!((record.offset, record.payload), (1, None));
}

#[test]
fn a_record_on_which_the_watermark_expression_fails_is_bad() {
    let mut table = table(OnBadRecord::Skip, vec![0, 3]);
    let name: Arc<dyn PhysicalExpr> = Arc::new(Column::new("name", 2));
    let time = Arc::new(CastExpr::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), None));
    table.watermark = Some(guarded(time, &table.schema).unwrap());
    let mut raw = RawRecords::default();
    for (offset, name) in [(4, "1970-01-01T00:00:07"), (5, "soon"), (7, "1970-01-01T00:00:02"), (8, ""), (9, "x")] {
        let payload = match offset {
            8 => "no JSON".to_string(),
            _ => format!("{{\"id\":{offset},\"name\":\"{name}\"}}"),
        };
        raw.push_parts(offset, Some(5000), None, Some(payload.as_bytes()), None);
    }
    let chunk = ChunkDecoder::new(&table).unwrap().decode(&tp(), &raw).unwrap();
    let all = chunk.slice(0, 100).unwrap();
    assert_eq!((all.records, all.max_watermark_ms), (5, Some(7000)));
    assert_eq!(all.batch.column(0).as_primitive::<Int64Type>().values(), &[4, 7]);
    assert_eq!(all.bad.iter().map(|bad| bad.offset).collect::<Vec<_>>(), [5, 8, 9]);
    assert!(all.bad[0].reason.starts_with("watermark: CAST(name AS TIMESTAMP(3))"), "{}", all.bad[0].reason);
    assert_eq!(chunk.slice(5, 8).unwrap().max_watermark_ms, Some(2000));
}

#[test]
fn no_columns_count_rows() {
    let mut table = table(OnBadRecord::Skip, vec![]);
    table.watermark = None;
    let chunk = ChunkDecoder::new(&table).unwrap().decode(&tp(), &raw(&[1, 2, 3], &[])).unwrap();
    assert_eq!(chunk.slice(2, 9).unwrap().batch.num_rows(), 2);
}

#[test]
fn bad_records_are_skipped_exactly_or_fail_the_range_that_holds_them() {
    let chunk = decode(OnBadRecord::Skip, &[10, 11, 14, 15], &[11, 15]);
    let all = chunk.slice(0, 100).unwrap();
    assert_eq!((all.records, all.batch.num_rows()), (4, 2));
    assert_eq!(all.bad.iter().map(|bad| bad.offset).collect::<Vec<_>>(), [11, 15]);
    assert_eq!(all.bad[0].payload.as_deref(), Some(b"{\"id\":\"11\"}".as_slice()));
    assert!(all.bad[0].reason.starts_with("column 'id': expected BIGINT"), "{}", all.bad[0].reason);
    let part = chunk.slice(12, 15).unwrap();
    assert_eq!(part.batch.column(0).as_primitive::<Int64Type>().values(), &[14]);
    assert!(part.bad.is_empty());

    let chunk = decode(OnBadRecord::Fail, &[10, 11, 14, 15], &[11, 15]);
    assert_eq!(chunk.slice(10, 11).unwrap().records, 1);
    assert_eq!(chunk.slice(12, 15).unwrap().records, 1);
    let error = chunk.slice(10, 15).unwrap_err();
    assert_eq!(error.kind(), highwater_protocol::error::ErrorKind::Fix);
    let text = error.to_string();
    assert!(text.starts_with("bad record in topic-3 at offset 11: column 'id'"), "{text}");
    assert!(text.ends_with("set on_bad_record = 'skip' or 'dead_letter' to go on"), "{text}");
}

#[test]
fn dead_letters_keep_the_key() {
    let chunk = decode(OnBadRecord::DeadLetter { topic: None }, &[1], &[1]).slice(0, 9).unwrap();
    assert_eq!(chunk.bad[0].key.as_deref(), Some(b"k".as_slice()));
    assert_eq!(chunk.bad[0].timestamp_ms, Some(5001));
}

/// Decodes records of key and value for a table with PRIMARY KEY (name, id), all at Kafka's time 5000.
fn keyed(columns_used: Vec<usize>, time: usize, records: &[(Option<&str>, Option<&str>)]) -> Chunk {
    let mut table = table(OnBadRecord::Skip, columns_used);
    table.upsert = Some(UpsertKey { columns: vec![2, 0], time: Some(time) });
    let mut raw = RawRecords::default();
    for (offset, (key, value)) in records.iter().enumerate() {
        raw.push_parts(offset as i64, Some(5000), key.map(str::as_bytes), value.map(str::as_bytes), None);
    }
    let mut decoder = ChunkDecoder::new(&table).unwrap();
    assert!(decoder.keep.keys, "keys say what is deleted");
    decoder.decode(&tp(), &raw).unwrap().slice(0, 100).unwrap()
}

#[test]
fn a_record_without_value_deletes_the_key_it_bears() {
    let chunk = keyed(
        vec![0, 1, 2, 3],
        1,
        &[
            (None, Some(r#"{"id":1,"name":"a","ts":100}"#)),
            (Some(r#"{"name":"a","id":1,"ts":7}"#), None),
            (Some(r#"{"name":"b","id":2}"#), Some(r#"{"id":3,"name":"c","ts":90}"#)),
        ],
    );
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    let batch = &chunk.batch;
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "ts", "name", "_offset", "__deleted"]);
    // A value says its key itself.
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 1, 3]);
    assert_eq!(batch.column(2).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a"), Some("a"), Some("c")]);
    assert_eq!(batch.column(4).as_boolean().iter().collect::<Vec<_>>(), [Some(false), Some(true), Some(false)]);
    // It takes effect at Kafka's time, which says nothing of how far event time is.
    assert_eq!(batch.column(1).as_primitive::<TimestampMillisecondType>().values(), &[100, 5000, 90]);
    assert_eq!(chunk.max_watermark_ms, Some(100));
}

#[test]
fn keys_that_are_none_are_bad_records() {
    let chunk = keyed(
        vec![0, 2],
        1,
        &[
            (Some(r#"{"name":"a","id":1}"#), None),
            (None, Some(r#"{"id":1,"name":null}"#)),
            (None, None),
            (Some("a"), None),
            (Some(r#"{"name":"a"}"#), None),
            (Some(r#"{"name":"a","id":"1"}"#), None),
            (Some(r#"{"name":"a","id":1}"#), Some("{")),
        ],
    );
    let reasons: Vec<&str> = chunk.bad.iter().map(|bad| bad.reason.as_str()).collect();
    let expected = [
        "column 'name': null or absent, but part of the PRIMARY KEY",
        "the key of a record without value is missing, so there is nothing to delete",
        "the key of a record without value: ",
        "the key of a record without value: column 'id': null or absent, but part of the PRIMARY KEY",
        "the key of a record without value: column 'id': expected BIGINT",
        "",
    ];
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
    for (reason, expected) in reasons.iter().zip(expected) {
        assert!(reason.starts_with(expected), "{reason:?}: {expected:?}");
    }
    assert_eq!(chunk.batch.column(0).as_primitive::<Int64Type>().values(), &[1]);
    assert!(chunk.batch.column(2).as_boolean().value(0));
}

/// Decodes records of key and value where the key consists of the columns `name` and `id`.
fn by_key(options: KeyOptions, is_keyed: bool, records: &[(Option<&str>, Option<&str>)]) -> (Chunk, Vec<String>) {
    let mut table = table(OnBadRecord::Skip, vec![0, 1, 2]);
    table.upsert = is_keyed.then(|| UpsertKey { columns: vec![2, 0], time: None });
    table.connector.key = options;
    let mut raw = RawRecords::default();
    for (offset, (key, value)) in records.iter().enumerate() {
        raw.push_parts(offset as i64, Some(5000), key.map(str::as_bytes), value.map(str::as_bytes), None);
    }
    let mut decoder = ChunkDecoder::new(&table).unwrap();
    assert!(decoder.keep.keys);
    let chunk = decoder.decode(&tp(), &raw).unwrap().slice(0, 100).unwrap();
    let reasons = chunk.bad.iter().map(|bad| format!("{}: {}", bad.offset, bad.reason)).collect();
    (chunk, reasons)
}

#[test]
fn columns_of_the_key_are_what_the_key_says() {
    let value = Some(r#"{"id":3,"ts":7,"name":"of the value"}"#);
    let records = [
        (Some(r#"{"name":"a","id":1}"#), value),
        (None, value),
        (Some(r#"{"id":"x"}"#), value),
        (Some("nothing"), Some("nothing")),
        (Some(r#"{"id":2}"#), None),
    ];
    let key = KeyOptions { fields: vec!["name".into(), "id".into()], ..KeyOptions::default() };
    for apart in [false, true] {
        let (chunk, bad) = by_key(KeyOptions { apart, ..key.clone() }, false, &records);
        assert_eq!(chunk.batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(1), None]);
        assert_eq!(chunk.batch.column(2).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("a"), None]);
        assert_eq!(chunk.batch.column(1).as_primitive::<TimestampMillisecondType>().values(), &[7, 7]);
        assert_eq!(bad[0], "2: the key: column 'id': expected BIGINT, found string \"x\"");
        assert!(bad[1].starts_with("3: malformed JSON"), "the value's reason comes first: {}", bad[1]);
        assert!(bad[2].starts_with("4: the value is null (a tombstone)") && bad.len() == 3, "{bad:?}");
    }
}

#[test]
fn a_keyed_table_may_have_its_key_in_the_key_alone() {
    let records = [
        (Some(r#"{"name":"a","id":1}"#), Some(r#"{"ts":7}"#)),
        (Some(r#"{"name":"a","id":1}"#), None),
        (None, Some(r#"{"ts":7}"#)),
        (None, None),
        (Some(r#"{"name":"a"}"#), Some(r#"{"id":1}"#)),
    ];
    let (chunk, bad) = by_key(KeyOptions { apart: true, ..KeyOptions::default() }, true, &records);
    assert_eq!(chunk.batch.column(0).as_primitive::<Int64Type>().values(), &[1, 1]);
    assert_eq!(chunk.batch.column(3).as_boolean().iter().collect::<Vec<_>>(), [Some(false), Some(true)]);
    let expected = [
        "2: the key is missing",
        "3: the key of a record without value is missing, so there is nothing to delete",
        "4: the key: column 'id': null or absent, but part of the PRIMARY KEY",
    ];
    assert_eq!(bad, expected);
}

#[test]
fn tombstones_and_empty_values_differ_in_the_checksum() {
    let sum = |payload: Option<&[u8]>| {
        let mut raw = RawRecords::default();
        raw.push_parts(1, None, None, payload, None);
        raw.hashes[0]
    };
    assert_ne!(sum(None), sum(Some(b"")));
}

#[test]
fn a_buffer_knows_gaps_markers_and_what_is_released() {
    let mut buffer = PartitionBuffer::new(1, 5, None);
    assert!(matches!(buffer.find(5), Found::NotYet));
    assert!(matches!(buffer.find(4), Found::Gone));
    // Read up to 12, undecoded from 8: nothing lies between 5 and 8.
    buffer.advance(12, false, Some(8), 100);
    assert!(matches!(buffer.find(5), Found::Nothing { to: 8 }));
    assert!(matches!(buffer.find(8), Found::NotYet));
    assert_eq!((buffer.position(), buffer.at_end()), (12, false));
    buffer.push(Arc::new(decode(OnBadRecord::Fail, &[8, 11], &[])));
    buffer.advance(15, true, None, 0);
    assert!(matches!(buffer.find(9), Found::Chunk(_)));
    assert!(matches!(buffer.find(12), Found::Nothing { to: 15 }));
    assert!(matches!(buffer.find(15), Found::NotYet));
    assert_eq!((buffer.position(), buffer.at_end()), (15, true));
    buffer.release(9);
    assert!(matches!(buffer.find(8), Found::Chunk(_)), "a chunk goes only as a whole");
    buffer.release(12);
    assert!(matches!(buffer.find(11), Found::Gone));
    assert_eq!(buffer.memory_bytes(), 0);
    buffer.release(15);
    assert!(buffer.serves(15) && !buffer.serves(14) && !buffer.serves(16));
}

#[test]
fn a_limit_is_the_end() {
    let mut buffer = PartitionBuffer::new(1, 5, Some(10));
    buffer.advance(20, false, None, 0);
    assert_eq!((buffer.position(), buffer.at_end()), (10, true));
}

proptest! {
    /// The slices of a chunk add up to the whole and contain each record once, wherever it is cut.
    #[test]
    fn slices_add_up(
        steps in proptest::collection::vec((1i64..4, any::<bool>()), 1..40),
        cuts in proptest::collection::vec(0i64..130, 0..6),
    ) {
        let mut at = 0;
        let (mut offsets, mut bad) = (Vec::new(), Vec::new());
        for (step, is_bad) in steps {
            at += step;
            offsets.push(at);
            if is_bad {
                bad.push(at);
            }
        }
        let chunk = decode(OnBadRecord::Skip, &offsets, &bad);
        let whole = chunk.slice(0, i64::MAX).unwrap();
        let mut cuts: Vec<i64> = cuts.into_iter().chain([0, 1000]).collect();
        cuts.sort_unstable();
        let parts: Vec<Chunk> = cuts.windows(2).map(|cut| chunk.slice(cut[0], cut[1]).unwrap()).collect();
        prop_assert_eq!(parts.iter().map(|part| part.records).sum::<u64>(), whole.records);
        prop_assert_eq!(parts.iter().map(|part| part.size_bytes).sum::<u64>(), whole.size_bytes);
        prop_assert_eq!(parts.iter().fold(0u64, |sum, part| sum.wrapping_add(part.checksum)), whole.checksum);
        prop_assert_eq!(parts.iter().filter_map(|part| part.max_watermark_ms).max(), whole.max_watermark_ms);
        prop_assert_eq!(parts.iter().flat_map(|part| part.bad.clone()).collect::<Vec<_>>(), whole.bad);
        let ids: Vec<i64> = parts.iter().flat_map(|part| part.batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        let good: Vec<i64> = offsets.iter().copied().filter(|offset| !bad.contains(offset)).collect();
        prop_assert_eq!(ids, good);
    }
}

#[test]
fn the_last_record_is_that_of_the_slice_and_has_its_leader_epoch() {
    let mut raw = raw(&[3, 4, 7, 9], &[4]);
    for (offset, leader_epoch) in [(3, 0), (4, 0), (7, 2), (9, -1)] {
        raw.leader_epochs.push(offset, leader_epoch);
    }
    let chunk = ChunkDecoder::new(&table(OnBadRecord::Skip, vec![0])).unwrap().decode(&tp(), &raw).unwrap();
    let of = |from, to| chunk.slice(from, to).unwrap().last_record.map(|last| (last.offset, last.leader_epoch));
    assert_eq!(of(0, 4), Some((3, 0)));
    assert_eq!(of(0, 7), Some((4, 0)), "a bad record is one");
    assert_eq!(of(4, 9), Some((7, 2)));
    assert_eq!(of(0, 10), None, "its leader epoch is not known");
    assert_eq!(of(5, 7), None);
}

#[test]
fn event_times_are_those_of_the_slice() {
    let chunk = decode(OnBadRecord::Skip, &[1, 2, 3, 6], &[2]);
    let of = |from, to| {
        chunk.slice(from, to).unwrap().event_time.map(|times| (times.min_ms, times.max_ms, times.avg_ms, times.records))
    };
    assert_eq!(of(0, 10), Some((994, 999, 996, 3)));
    assert_eq!(of(3, 10), Some((994, 997, 995, 2)));
    assert_eq!(of(2, 3), None, "a bad record has none");
}
