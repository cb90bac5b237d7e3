//! What a reader of the sink has after every commit: a list of appended rows, or a table folded from its changelog.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use highwater_engine::delta::DeltaBatch;
use std::collections::{BTreeMap, BTreeSet};

/// A row as text, column by column.
pub type Text = Vec<String>;

#[derive(Debug, Default)]
pub struct Sink {
    /// Columns of the key, the first ones; 0 = appended rows.
    key_width: usize,
    /// Each batch writes all rows.
    whole: bool,
    appended: Vec<Text>,
    table: BTreeMap<Text, Text>,
}

impl Sink {
    pub fn new(key_width: usize, whole: bool) -> Self {
        Self { key_width, whole, ..Self::default() }
    }

    /// Takes the rows of one committed batch, of all its writers.
    pub fn commit(&mut self, rows: &[DeltaBatch]) -> Result<(), String> {
        let mut touched = BTreeSet::new();
        if self.whole {
            self.appended.clear();
        }
        for rows in rows {
            for (index, text) in texts(&rows.batch).into_iter().enumerate() {
                let weight = rows.weight(index);
                if self.key_width == 0 {
                    if weight != 1 {
                        return Err(format!("a row of weight {weight} in an appending sink: {text:?}"));
                    }
                    self.appended.push(text);
                    continue;
                }
                let key = text[..self.key_width].to_vec();
                if !touched.insert(key.clone()) {
                    return Err(format!("two records of one key in one batch: {text:?}"));
                }
                let before = match weight {
                    1 => self.table.insert(key, text.clone()),
                    -1 => Some(self.table.remove(&key).ok_or(format!("a tombstone of no row: {text:?}"))?),
                    other => return Err(format!("a row of weight {other}: {text:?}")),
                };
                if weight == 1 && before.as_ref() == Some(&text) {
                    return Err(format!("an unchanged row was written again: {text:?}"));
                }
            }
        }
        Ok(())
    }

    /// Everything it holds, sorted.
    pub fn rows(&self) -> Vec<Text> {
        let mut rows: Vec<Text> = self.appended.iter().chain(self.table.values()).cloned().collect();
        rows.sort();
        rows
    }
}

/// Every row of a batch as text.
pub fn texts(batch: &RecordBatch) -> Vec<Text> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()).collect()
}
