//! Decoding raw records to Arrow, and slicing exact offset ranges from decoded chunks.
//!
//! Owns: projection, bad records, deletions, watermark values, checksums per slice. Does not own: decoding keys and
//! values (`parts`), which record a row came from (`origins`), keeping chunks (`buffer`).
//! Invariant: the counts and checksums of slices that partition a chunk add up to those of the chunk.

use super::meta::Meta;
use super::origins::{Records, RowOrigins};
use super::parts::{Origin, PartDecoder};
use super::raw::{Keep, LeaderEpochs, RawRecords};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatchOptions, TimestampMillisecondArray};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{and, cast, concat, filter, is_not_null, nullif};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use highwater_connector_api::error::ConnectorError;
use highwater_connector_api::source::{BadRecord, Chunk};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::runtime::{FailedRows, OnFailure, apply_to_good, evaluate};
use highwater_protocol::offsets::TopicPartition;
use highwater_protocol::options::OnBadRecord;
use highwater_protocol::report::EventTimes;
use highwater_sql::tables::{SourceTable, UpsertKey};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Decodes the records of one table.
pub struct ChunkDecoder {
    parts: PartDecoder,
    /// Source of each decoded column: value, key or metadata.
    origins: Vec<Origin>,
    /// Decoded columns: first those the query uses, then those that only the watermark needs.
    decoded: SchemaRef,
    /// Indices of `decoded` in the table's schema.
    wanted: Vec<usize>,
    output: SchemaRef,
    /// The event-time column, as an index into `decoded`.
    event_time: Option<usize>,
    /// The watermark expression, over `decoded`.
    watermark: Option<Arc<dyn PhysicalExpr>>,
    keyed: Option<Keyed>,
    pub keep: Keep,
    pub fail_on_bad: bool,
    /// Whether decoded chunks keep raw records, because an expression may fail on one that becomes a dead letter then.
    keep_raw: bool,
    context: String,
}

/// Handling of deletions in a table with PRIMARY KEY.
struct Keyed {
    /// The decoded column that a tombstone fills with Kafka's timestamp.
    time: Option<usize>,
    /// Whether tombstones advance the watermark, because the event time is Kafka's timestamp.
    moves_watermark: bool,
}

/// Decoded records of one partition, with the data needed to slice them at any offset.
#[derive(Debug)]
pub struct DecodedChunk {
    batch: RecordBatch,
    records: Arc<Records>,
    sizes: Vec<u32>,
    hashes: Vec<u64>,
    leader_epochs: LeaderEpochs,
    /// Watermark value of each row of `batch`, in milliseconds.
    watermarks: Option<Int64Array>,
    /// Event time of each row of `batch`, in milliseconds.
    event_times: Option<Int64Array>,
    /// Columns of the table's schema that no record has a field for; `None` if unknown.
    absent: Option<BTreeSet<u32>>,
    /// Whether reading a bad record is an error.
    fail_on_bad: bool,
}

impl ChunkDecoder {
    pub fn new(table: &SourceTable) -> Result<Self, ConnectorError> {
        let internal =
            |error: &dyn std::fmt::Display| ConnectorError::Fatal(format!("table '{}': {error}", table.name));
        let mut wanted = table.columns_used.clone();
        if let Some(watermark) = &table.watermark {
            let mut needed: Vec<usize> = collect_columns(watermark).iter().map(|column| column.index()).collect();
            needed.sort_unstable();
            needed.retain(|index| !wanted.contains(index));
            wanted.extend(needed);
        }
        let decoded: SchemaRef = Arc::new(table.schema.project(&wanted).map_err(|error| internal(&error))?);
        let watermark = table
            .watermark
            .as_ref()
            .map(|expr| reassign_expr_columns(Arc::clone(expr), &decoded))
            .transpose()
            .map_err(|error| internal(&error))?;
        let connector = &table.connector;
        let (parts, origins) = PartDecoder::open(table, &connector.format, connector.key_format(), &wanted)?;
        let keyed = table.upsert.as_ref().map(|upsert| keyed(upsert, &wanted, &origins));
        let has = |meta| origins.iter().any(|origin| matches!(origin, Origin::Meta(found) if *found == meta));
        let on_bad = &table.options.on_bad_record;
        Ok(Self {
            keep: Keep {
                keys: has(Meta::Key) || matches!(on_bad, OnBadRecord::DeadLetter { .. }) || parts.reads_keys(),
                headers: has(Meta::Headers),
            },
            parts,
            event_time: table.event_time.and_then(|column| wanted.iter().position(|wanted| *wanted == column)),
            origins,
            decoded,
            wanted,
            output: table.layout(),
            watermark,
            keyed,
            fail_on_bad: *on_bad == OnBadRecord::Fail,
            // The rows of a table with PRIMARY KEY are folded before any expression.
            keep_raw: matches!(on_bad, OnBadRecord::DeadLetter { .. }) && table.upsert.is_none(),
            context: format!("table '{}'", table.name),
        })
    }

    /// Decodes all of `raw`. The result does not refer to `raw`.
    pub fn decode(&mut self, tp: &TopicPartition, raw: &RawRecords) -> Result<DecodedChunk, ConnectorError> {
        let parts = self.parts.decode(raw).map_err(|error| self.internal(&error))?;
        let mut columns = Vec::with_capacity(self.origins.len());
        for (origin, field) in self.origins.iter().zip(self.decoded.fields()) {
            columns.push(match origin {
                Origin::Meta(meta) => meta.column(field, tp, raw)?,
                origin => parts.column(*origin).cloned().ok_or_else(|| self.internal(&"a column was not decoded"))?,
            });
        }
        if self.keyed.is_some() {
            columns.push(Arc::new(BooleanArray::from_iter((0..raw.len()).map(|i| Some(raw.payload(i).is_none())))));
            columns.push(Arc::new(TimestampMillisecondArray::from_iter(raw.timestamps.iter().copied())));
        }
        let absent = parts.absent(&self.origins);
        let mut bad = parts.bad;
        if !bad.is_empty() {
            columns = self.without_bad(&columns, raw.len(), bad.iter().map(|(index, _)| *index))?;
        }
        let absent = absent.map(|places| places.into_iter().map(|place| self.wanted[place] as u32).collect());
        let mut failed = FailedRows::new();
        let mut watermarks = self.watermarks(&self.batch_of(&columns, raw.len() - bad.len())?, &mut failed)?;
        if !failed.is_empty() {
            columns = self.without_bad(&columns, raw.len() - bad.len(), failed.keys().copied())?;
            add_failed(&mut bad, failed, raw.len());
        }
        let rows = raw.len() - bad.len();
        let decoded = self.batch_of(&columns, rows)?;
        let hidden = columns.split_off(self.decoded.fields().len());
        let bad = bad.into_iter().map(|(index, reason)| bad_record(tp, raw, index, reason)).collect();
        let event_times = match self.event_time {
            Some(column) => Some(millis(decoded.column(column)).map_err(|error| self.internal(&error))?),
            None => None,
        };
        let mut columns = decoded.columns().to_vec();
        if let (Some(keyed), [deleted, times]) = (&self.keyed, hidden.as_slice()) {
            self.mark_deleted(keyed, deleted, times, &mut columns, &mut watermarks)?;
        } else {
            columns.truncate(self.output.fields().len());
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.output.clone(), columns, &options)
            .map_err(|error| self.internal(&error))?;
        Ok(DecodedChunk {
            batch,
            records: Arc::new(Records {
                tp: tp.clone(),
                offsets: raw.offsets.clone(),
                timestamps: raw.timestamps.clone(),
                bad,
                raw: self.keep_raw.then(|| raw.parts.clone()),
            }),
            sizes: raw.sizes.clone(),
            hashes: raw.hashes.clone(),
            leader_epochs: raw.leader_epochs.clone(),
            watermarks,
            event_times,
            absent,
            fail_on_bad: self.fail_on_bad,
        })
    }

    /// Returns the decoded columns as a batch, without hidden ones.
    fn batch_of(&self, columns: &[ArrayRef], rows: usize) -> Result<RecordBatch, ConnectorError> {
        let columns = columns[..self.decoded.fields().len()].to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.decoded.clone(), columns, &options)
            .map_err(|error| self.internal(&error))
    }

    /// Returns columns of `rows` rows without the rows in `bad`.
    fn without_bad(
        &self,
        columns: &[ArrayRef],
        rows: usize,
        bad: impl Iterator<Item = usize>,
    ) -> Result<Vec<ArrayRef>, ConnectorError> {
        let mut good = vec![true; rows];
        bad.for_each(|row| good[row] = false);
        let mask = BooleanArray::from(good);
        columns
            .iter()
            .map(|column| filter(column, &mask))
            .collect::<Result<_, _>>()
            .map_err(|error| self.internal(&error))
    }

    /// Marks tombstones as deletions, and gives them Kafka's timestamp as event time and no watermark value.
    fn mark_deleted(
        &self,
        keyed: &Keyed,
        deleted: &ArrayRef,
        times: &ArrayRef,
        columns: &mut Vec<ArrayRef>,
        watermarks: &mut Option<Int64Array>,
    ) -> Result<(), ConnectorError> {
        let mask = deleted.as_boolean();
        if mask.true_count() > 0 {
            if let Some(time) = keyed.time {
                let times = cast(times, self.decoded.field(time).data_type()).map_err(|error| self.internal(&error))?;
                let known = and(mask, &is_not_null(&times).map_err(|error| self.internal(&error))?);
                let known = known.map_err(|error| self.internal(&error))?;
                columns[time] = zip(&known, &times, &columns[time]).map_err(|error| self.internal(&error))?;
            }
            if let (Some(all), false) = (watermarks.as_mut(), keyed.moves_watermark) {
                let masked = nullif(all, mask).map_err(|error| self.internal(&error))?;
                *all = masked.as_primitive::<Int64Type>().clone();
            }
        }
        columns.truncate(self.output.fields().len() - 1);
        columns.push(deleted.clone());
        Ok(())
    }

    /// Returns the watermark values of rows, without those in `failed`, to which it adds the rows without one because the
    /// expression fails.
    fn watermarks(&self, decoded: &RecordBatch, failed: &mut FailedRows) -> Result<Option<Int64Array>, ConnectorError> {
        let Some(expr) = &self.watermark else { return Ok(None) };
        let refused = |error: &dyn std::fmt::Display| {
            ConnectorError::Config(format!("{}: the watermark cannot be computed: {error}", self.context))
        };
        let mut pieces = Vec::new();
        let rows = ChangeBatch::inserts(decoded.clone());
        apply_to_good(&rows, OnFailure::LeaveOut, failed, &mut |rows| match evaluate(expr, &rows.batch) {
            Ok(values) => {
                pieces.push(millis(&values)?);
                Ok(None)
            }
            Err(error) if error.is_of_a_row() => Ok(Some(error)),
            Err(error) => Err(error),
        })
        .map_err(|error| refused(&error))?;
        if let [all] = pieces.as_slice() {
            return Ok(Some(all.clone()));
        }
        let pieces: Vec<&dyn Array> = pieces.iter().map(|piece| piece as &dyn Array).collect();
        match pieces.is_empty() {
            true => Ok(Some(Int64Array::from(Vec::<i64>::new()))),
            false => Ok(Some(concat(&pieces).map_err(|error| refused(&error))?.as_primitive::<Int64Type>().clone())),
        }
    }

    fn internal(&self, error: &dyn std::fmt::Display) -> ConnectorError {
        ConnectorError::Fatal(format!("{}: decoding failed: {error}", self.context))
    }
}

/// Adds rows without a watermark to the bad ones of `records` records, each by its index among the records.
fn add_failed(bad: &mut Vec<(usize, String)>, failed: FailedRows, records: usize) {
    let mut is_bad = vec![false; records];
    bad.iter().for_each(|(index, _)| is_bad[*index] = true);
    let good: Vec<usize> = (0..records).filter(|index| !is_bad[*index]).collect();
    bad.extend(failed.into_iter().map(|(row, error)| (good[row], format!("watermark: {}", error.reason()))));
    bad.sort_unstable_by_key(|(index, _)| *index);
}

/// Converts timestamps to milliseconds; millisecond columns are not copied.
fn millis(times: &ArrayRef) -> Result<Int64Array, ArrowError> {
    let times = cast(times, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    Ok(times.as_primitive::<TimestampMillisecondType>().reinterpret_cast::<Int64Type>())
}

fn event_times(times: &Int64Array) -> Option<EventTimes> {
    let records = times.len() - times.null_count();
    let sum: i128 = times.iter().flatten().map(i128::from).sum();
    Some(EventTimes {
        min_ms: arrow::compute::min(times)?,
        max_ms: arrow::compute::max(times)?,
        avg_ms: i64::try_from(sum / records.max(1) as i128).unwrap_or(i64::MAX),
        records: records as u64,
    })
}

fn keyed(upsert: &UpsertKey, wanted: &[usize], origins: &[Origin]) -> Keyed {
    let place = upsert.time.and_then(|time| wanted.iter().position(|column| *column == time));
    let is_meta = place.is_some_and(|place| matches!(origins[place], Origin::Meta(_)));
    // A time that is part of the key is decoded from the key.
    let is_key = upsert.time.is_some_and(|time| upsert.columns.contains(&time));
    Keyed { time: place.filter(|_| !is_meta && !is_key), moves_watermark: is_meta }
}

fn bad_record(tp: &TopicPartition, raw: &RawRecords, index: usize, reason: String) -> BadRecord {
    BadRecord {
        tp: tp.clone(),
        offset: raw.offsets[index],
        reason,
        key: raw.key(index).map(Bytes::copy_from_slice),
        payload: raw.payload(index).map(Bytes::copy_from_slice),
        timestamp_ms: raw.timestamps[index],
    }
}

impl DecodedChunk {
    pub fn first_offset(&self) -> i64 {
        self.records.offsets.first().copied().unwrap_or(i64::MAX)
    }

    pub fn last_offset(&self) -> i64 {
        self.records.offsets.last().copied().unwrap_or(-1)
    }

    /// Returns the highest watermark value in milliseconds; `None` if no record has one.
    pub fn max_watermark_ms(&self) -> Option<i64> {
        self.watermarks.as_ref().and_then(arrow::compute::max)
    }

    /// Returns the memory in use in bytes.
    pub fn memory_bytes(&self) -> usize {
        let times = [&self.watermarks, &self.event_times].into_iter().flatten();
        let watermarks: usize = times.map(Array::get_buffer_memory_size).sum();
        self.batch.get_array_memory_size() + self.sizes.len() * 12 + watermarks + self.records.memory_bytes()
    }

    /// Returns the records with `start <= offset < end`.
    ///
    /// # Errors
    /// `on_bad_record` is `fail`, and one of the records is bad.
    pub fn slice(&self, start: i64, end: i64) -> Result<Chunk, ConnectorError> {
        let Records { tp, offsets, timestamps, bad, .. } = self.records.as_ref();
        let from = offsets.partition_point(|offset| *offset < start);
        let to = offsets.partition_point(|offset| *offset < end).max(from);
        let bad_before = |offset: i64| bad.partition_point(|bad| bad.offset < offset);
        let bad_from = bad_before(start);
        let bad_to = bad_before(end).max(bad_from);
        let bad = &bad[bad_from..bad_to];
        if let (true, Some(first)) = (self.fail_on_bad, bad.first()) {
            return Err(ConnectorError::BadRecord {
                tp: tp.clone(),
                offset: first.offset,
                reason: first.reason.clone(),
            });
        }
        let first_row = from - bad_from;
        let rows = (to - from) - bad.len();
        let watermarks = self.watermarks.as_ref().map(|all| all.slice(first_row, rows));
        Ok(Chunk {
            batch: self.batch.slice(first_row, rows),
            records: (to - from) as u64,
            size_bytes: self.sizes[from..to].iter().map(|size| u64::from(*size)).sum(),
            checksum: self.hashes[from..to].iter().fold(0, |sum, hash| sum.wrapping_add(*hash)),
            max_watermark_ms: watermarks.as_ref().and_then(arrow::compute::max),
            event_time: self.event_times.as_ref().and_then(|all| event_times(&all.slice(first_row, rows))),
            max_timestamp_ms: timestamps[from..to].iter().copied().flatten().max(),
            last_record: offsets[from..to].last().and_then(|last| self.leader_epochs.record(*last)),
            origins: Arc::new(RowOrigins { records: self.records.clone(), first_row }),
            bad: bad.to_vec(),
            absent: self.absent.clone(),
        })
    }
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
pub(super) mod tests;
