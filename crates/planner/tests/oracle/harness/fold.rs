//! A sink as its readers see it after every commit: a list of appended rows, or a table folded from its changelog.
//!
//! Checks that an appending sink gets only weights of +1; and that a changelog gets at most one record per key and batch,
//! no tombstone of a missing key, and no unchanged row.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_protocol::options::OutputMode;
use highwater_sql::tables::SinkTable;
use std::collections::{BTreeMap, BTreeSet};

/// A row as text, column by column.
pub type Text = Vec<String>;

#[derive(Debug)]
pub struct Sink {
    pub schema: SchemaRef,
    /// Columns of the key; none = appended rows.
    key: Vec<usize>,
    /// True if each batch writes all rows.
    whole: bool,
    /// True if an unchanged row may be written again, since the state of its operator may have expired.
    pub forgets: bool,
    appended: Vec<Row>,
    table: BTreeMap<Text, Row>,
}

#[derive(Clone, Debug)]
struct Row {
    text: Text,
    /// The row as a batch.
    batch: RecordBatch,
}

impl Sink {
    pub fn new(table: &SinkTable) -> Self {
        Self {
            schema: table.schema.clone(),
            key: table.primary_key.clone(),
            whole: table.mode == OutputMode::Complete,
            forgets: false,
            appended: Vec::new(),
            table: BTreeMap::new(),
        }
    }

    /// Applies the rows of one committed batch, from all of its writers.
    pub fn commit<'a>(&mut self, rows: impl IntoIterator<Item = &'a ChangeBatch>) -> Result<(), String> {
        let mut touched = BTreeSet::new();
        if self.whole {
            self.appended.clear();
        }
        for rows in rows {
            for (index, text) in texts(&rows.batch).into_iter().enumerate() {
                let weight = rows.weight(index);
                let row = Row { text, batch: rows.batch.slice(index, 1) };
                if self.key.is_empty() {
                    if weight != 1 {
                        return Err(format!("a row of weight {weight} in an appending sink: {:?}", row.text));
                    }
                    self.appended.push(row);
                    continue;
                }
                let key: Text = self.key.iter().map(|column| row.text[*column].clone()).collect();
                if !touched.insert(key.clone()) {
                    return Err(format!("two records of one key in one batch: {:?}", row.text));
                }
                self.upsert(key, weight, row)?;
            }
        }
        Ok(())
    }

    fn upsert(&mut self, key: Text, weight: i64, row: Row) -> Result<(), String> {
        match weight {
            1 => match self.table.insert(key, row.clone()) {
                Some(before) if !self.forgets && before.text == row.text => {
                    Err(format!("an unchanged row was written again: {:?}", row.text))
                }
                _ => Ok(()),
            },
            -1 => self.table.remove(&key).map(drop).ok_or(format!("a tombstone of no row: {:?}", row.text)),
            other => Err(format!("a row of weight {other}: {:?}", row.text)),
        }
    }

    /// Returns all rows, sorted.
    pub fn rows(&self) -> Vec<Text> {
        let mut rows: Vec<Text> = self.held().map(|row| row.text.clone()).collect();
        rows.sort();
        rows
    }

    /// Returns all rows; appended ones are in the order of their batches.
    pub fn batch(&self) -> RecordBatch {
        let rows: Vec<RecordBatch> =
            self.held().map(|row| row.batch.clone().with_schema(self.schema.clone()).unwrap()).collect();
        concat_batches(&self.schema, &rows).unwrap()
    }

    fn held(&self) -> impl Iterator<Item = &Row> {
        self.appended.iter().chain(self.table.values())
    }
}

/// Returns every row of a batch as text.
pub fn texts(batch: &RecordBatch) -> Vec<Text> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()).collect()
}
