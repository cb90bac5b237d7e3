//! A cluster on the rows of `t` and `u`, which knows the rows that were not late.
//!
//! Owns: which committed rows were in time, and the watermark at which each was read. Does not own: running batches
//! (`harness`).

use crate::data::{PARTITIONS, Row, record_batch};
use crate::harness::{Cluster, Commit, Fault, Records, Step};
use crate::queries::Query;
use crate::windows::in_sessions;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Watch<'a> {
    pub cluster: Cluster,
    pub rows: &'a [Row],
    /// Ids of committed rows that were not late.
    pub accepted: Vec<usize>,
    /// The watermark at which each of those was read, by id, in milliseconds.
    pub met: BTreeMap<usize, i64>,
    query: Query,
    /// Ids in each partition, in order, by table.
    ids: BTreeMap<(&'static str, i32), Vec<usize>>,
}

/// Names of the two tables.
pub const TABLES: [&str; 2] = ["t", "u"];

/// Returns rows as the topic stores them: the event time of `u` is computed from another column.
fn stored(table: &str, rows: RecordBatch) -> RecordBatch {
    if table == "t" {
        return rows;
    }
    let rename = |field: &Arc<Field>| match field.name().as_str() {
        "ts" => field.as_ref().clone().with_name("stored_ts"),
        _ => field.as_ref().clone(),
    };
    let fields: Vec<Field> = rows.schema().fields().iter().map(rename).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), rows.columns().to_vec()).unwrap()
}

impl<'a> Watch<'a> {
    pub fn new(query: &Query, rows: &'a [Row], fault: Fault) -> Result<Self, String> {
        let mut ids: BTreeMap<(&'static str, i32), Vec<usize>> = BTreeMap::new();
        for (id, row) in rows.iter().enumerate() {
            ids.entry((TABLES[row.table as usize], row.partition)).or_default().push(id);
        }
        let mut records = Records::default();
        TABLES.iter().for_each(|table| records.partitions(table, PARTITIONS));
        for ((table, partition), ids) in &ids {
            records.append(table, *partition, stored(table, record_batch(rows, ids)));
        }
        Ok(Self {
            cluster: Cluster::new(&query.script(), &records, fault)?,
            rows,
            accepted: Vec::new(),
            met: BTreeMap::new(),
            query: query.clone(),
            ids,
        })
    }

    /// Returns the time at or before which windows that end are closed.
    pub fn closed_before_ms(&self) -> Option<i64> {
        self.cluster.closed_ms().map(|closed| closed - self.query.lateness_ms)
    }

    /// Runs a batch, and records which of its rows were not late.
    pub fn commit(&mut self, step: &Step) -> Result<(), String> {
        let commit = self.cluster.commit(step)?;
        let late_before = self.cluster.least(&commit.late_before).map(|late| late - self.query.lateness_ms);
        let mut come: Vec<usize> =
            self.ids_of(&commit).into_iter().filter(|id| self.is_in_time(*id, late_before)).collect();
        if self.query.has_sessions() {
            come = in_sessions(self.rows, &self.accepted, &come, late_before);
        }
        self.met.extend(late_before.iter().flat_map(|late| come.iter().map(|id| (*id, *late))));
        self.accepted.extend(come);
        Ok(())
    }

    fn ids_of(&self, commit: &Commit) -> Vec<usize> {
        let of = |(partition, range): (
            &highwater_protocol::offsets::SourcePartition,
            &highwater_protocol::offsets::OffsetRange,
        )| {
            let name = self.cluster.compiled.sources[partition.source.0 as usize].name.as_str();
            let table = TABLES.into_iter().find(|table| *table == name).unwrap();
            self.ids[&(table, partition.tp.partition)][range.start as usize..range.end as usize].to_vec()
        };
        commit.ranges.iter().flat_map(of).collect()
    }

    fn is_in_time(&self, id: usize, late_before: Option<i64>) -> bool {
        match (self.query.over_at_ms(&self.rows[id], id), late_before) {
            (Some(i64::MIN), _) => false,
            (Some(over_at), Some(late)) => over_at > late,
            _ => true,
        }
    }
}
