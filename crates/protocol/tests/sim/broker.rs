//! The simulated brokers: the source topic, transactions, the sink's log and the writers' progress in it.
//!
//! Owns: the guarantees of a transactional log: a newer producer of a writer fences the older ones and ends their
//! transactions; rows of a transaction are visible once it is committed, in the order in which they were appended.

use crate::types::{Answer, Fault, Rec, Row};
use highwater_protocol::ids::BatchId;
use highwater_protocol::offsets::LastRecord;
use highwater_protocol::plan::WriterPlan;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnState {
    Open,
    Committed,
    Aborted,
}

#[derive(Clone, Debug)]
pub struct Txn {
    pub writer: WriterPlan,
    pub producer: u64,
    pub batch: BatchId,
    pub digest: u128,
    pub rows: u64,
    pub state: TxnState,
    /// Offset of the transaction's progress record.
    pub progress_at: i64,
}

#[derive(Debug, Default)]
pub struct Broker {
    pub source: Vec<Vec<Rec>>,
    producers: BTreeMap<WriterPlan, u64>,
    pub txns: Vec<Txn>,
    /// Every row ever appended, with its transaction.
    log: Vec<(usize, Row)>,
    fault: Option<Fault>,
    /// No call is answered before this time, milliseconds.
    pub away_until_ms: i64,
}

/// Returns the last record of the source topic before a position. Its leader changes every seven offsets.
pub fn last_record(position: i64) -> Option<LastRecord> {
    let offset = position - 1;
    (offset >= 0).then_some(LastRecord { offset, leader_epoch: (offset / 7) as i32 })
}

/// Order-independent digest of rows.
pub fn digest(rows: &[Row]) -> u128 {
    let of = |row: &Row| {
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        u128::from(hasher.finish()).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
    };
    rows.iter().fold(0u128, |sum, row| sum.wrapping_add(of(row)))
}

impl Broker {
    pub fn new(fault: Option<Fault>) -> Self {
        Self { fault, ..Self::default() }
    }

    /// Initialises a writer's transactional id.
    pub fn init(&mut self, writer: WriterPlan) -> u64 {
        let producer = self.producers.entry(writer).or_default();
        *producer += 1;
        if self.fault != Some(Fault::NoWriterFencing) {
            for txn in self.txns.iter_mut().filter(|txn| txn.writer == writer && txn.state == TxnState::Open) {
                txn.state = TxnState::Aborted;
            }
        }
        *producer
    }

    fn fenced(&self, writer: WriterPlan, producer: u64) -> bool {
        self.fault != Some(Fault::NoWriterFencing) && self.producers.get(&writer) != Some(&producer)
    }

    /// Begins a transaction and writes all rows and the progress record into it. Returns `None` if the producer is
    /// fenced.
    pub fn flush(&mut self, writer: WriterPlan, producer: u64, batch: BatchId, rows: &[Row]) -> Option<usize> {
        if self.fenced(writer, producer) {
            return None;
        }
        let id = self.txns.len();
        self.log.extend(rows.iter().map(|row| (id, *row)));
        self.txns.push(Txn {
            writer,
            producer,
            batch,
            digest: digest(rows),
            rows: rows.len() as u64,
            state: TxnState::Open,
            progress_at: id as i64,
        });
        Some(id)
    }

    /// Commits. Returns false if the producer is fenced or the transaction is over.
    pub fn commit(&mut self, id: usize) -> bool {
        let txn = &self.txns[id];
        if txn.state != TxnState::Open || self.fenced(txn.writer, txn.producer) {
            return false;
        }
        self.txns[id].state = TxnState::Committed;
        true
    }

    pub fn abort(&mut self, id: usize) {
        if self.txns[id].state == TxnState::Open {
            self.txns[id].state = TxnState::Aborted;
        }
    }

    /// Returns batch and digest of a writer's newest committed progress for a reader that begins at offset `from`.
    pub fn progress(&self, writer: WriterPlan, from: i64) -> Option<(BatchId, u128)> {
        let committed = |txn: &&Txn| txn.writer == writer && txn.state == TxnState::Committed;
        let found = self.txns.iter().filter(committed).filter(|txn| txn.progress_at >= from);
        found.map(|txn| (txn.batch, txn.digest)).next_back()
    }

    /// Writers with committed progress.
    pub fn writers(&self) -> BTreeSet<WriterPlan> {
        let committed = self.txns.iter().filter(|txn| txn.state == TxnState::Committed);
        committed.map(|txn| txn.writer).collect()
    }

    pub fn has_open(&self) -> bool {
        self.txns.iter().any(|txn| txn.state == TxnState::Open)
    }

    /// What `read_committed` readers see: the final rows of the keyed sink, and the appended records.
    pub fn visible(&self) -> Result<(Answer, BTreeSet<(i32, i64)>), String> {
        let (mut keyed, mut appended) = (Answer::new(), BTreeSet::new());
        for (id, row) in &self.log {
            if self.txns[*id].state != TxnState::Committed {
                continue;
            }
            match row {
                Row::Keyed(key, Some(agg)) => {
                    keyed.insert(*key, *agg);
                }
                Row::Keyed(key, None) => {
                    keyed.remove(key);
                }
                Row::Append(partition, offset) => {
                    if !appended.insert((*partition, *offset)) {
                        return Err(format!("record {offset} of partition {partition} is in the sink twice"));
                    }
                }
            }
        }
        Ok((keyed, appended))
    }
}
