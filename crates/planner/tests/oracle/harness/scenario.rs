//! A script with its records, written down statement by statement, and the final content of its sinks.
//!
//! Owns: collecting tables, views, INSERTs and records; querying the sinks, or running a SELECT; running everything in
//! all the ways that must make no difference. Does not own: the grammar of files (`slt`, `docs`).
//!
//! A query runs the script from its beginning over all records so far, as one micro-batch and as one for each
//! record, on one executor and on three; at every boundary the query is stopped and resumed by new executors from the
//! checkpoint, attempts are killed, and prepared batches are finished by others. If the script has COMMIT, batches end
//! only there, since late rows and batch times depend on it. The last batch has no records, and closes windows that
//! the watermark has passed.

use super::answer::{answer, difference};
use super::cluster::{Cluster, Fault, Step, Take};
use super::fold::texts;
use super::records::{Records, decoded, deletions, nullable, partition_of};
use super::statements::{Statement, created_table, primary_key, split, without_comments, written_table};
use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use highwater_planner::compile::describe;
use highwater_sql::SqlError;
use highwater_sql::identifier::find;
use highwater_sql::types::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Event {
    /// A record of this table.
    Record { table: String, partition: i32, row: RecordBatch },
    /// Rows that are added to a file here.
    File { table: String, lines: String },
    /// A batch ends, at this time.
    Commit { now_ms: Option<i64> },
}

pub struct Scenario {
    /// `SET`s, tables and views.
    statements: Vec<String>,
    inserts: Vec<String>,
    events: Vec<Event>,
    files: tempfile::TempDir,
    /// Outcomes by script, since a query may be repeated.
    known: BTreeMap<String, Outcome>,
}

/// The final content of sinks, and what was reported.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub sinks: BTreeMap<String, RecordBatch>,
    pub late_rows: u64,
    /// Keys of sinks with more than one live row.
    pub key_conflicts: u64,
    pub warnings: Vec<String>,
    pub explain: String,
}

/// One way to run.
#[derive(Clone, Copy, Debug)]
struct Way {
    executors: u16,
    /// True for a batch for each record; else there is one for all, or one up to each COMMIT.
    cut: bool,
    resumed: bool,
    /// True if tables without WATERMARK have three partitions.
    spread: bool,
    disturbed: bool,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            statements: Vec::new(),
            inserts: Vec::new(),
            events: Vec::new(),
            files: tempfile::tempdir().unwrap(),
            known: BTreeMap::new(),
        }
    }
}

impl Scenario {
    /// Adds statements.
    pub fn execute(&mut self, script: &str) -> Result<(), String> {
        split(script).iter().try_for_each(|text| self.one(text))
    }

    fn one(&mut self, text: &str) -> Result<(), String> {
        match Statement::of(text) {
            Statement::Reset => *self = Self::default(),
            Statement::Commit { at } => {
                let now_ms = at.map(|time| time_ms(&time)).transpose()?;
                self.events.push(Event::Commit { now_ms });
            }
            Statement::Values { table, columns, values } => self.values(&table, &columns, &values)?,
            Statement::Insert(insert) => {
                let script = self.script(Some(&insert));
                highwater_planner::compile(&script).map_err(|error| placed(error, &self.script(None)))?;
                self.inserts.push(insert);
            }
            Statement::Script(text) => {
                let text = self.with_path(&text);
                let before = lines_of(&self.statements);
                let script = format!("{before}{text};\n");
                describe(&script).map_err(|error| placed(error, &before))?;
                self.statements.push(text);
            }
        }
        self.known.clear();
        Ok(())
    }

    /// Returns the whole script, with this INSERT last.
    fn script(&self, insert: Option<&str>) -> String {
        let mut script = lines_of(&self.statements) + &lines_of(&self.inserts);
        if let Some(insert) = insert {
            script += insert;
            script += ";\n";
        }
        script
    }

    /// Replaces paths of files with paths in the scenario's folder.
    fn with_path(&self, text: &str) -> String {
        match created_table(text) {
            Some(table) if text.contains("filesystem") => {
                let path = self.path(&table);
                let start =
                    text.find("'path'").and_then(|at| text[at + 6..].find('\'').map(|quote| at + 6 + quote + 1));
                let end = start.and_then(|start| text[start..].find('\'').map(|length| start + length));
                match (start, end) {
                    (Some(start), Some(end)) => format!("{}{}{}", &text[..start], path.display(), &text[end..]),
                    _ => text.to_string(),
                }
            }
            _ => text.to_string(),
        }
    }

    fn path(&self, table: &str) -> PathBuf {
        self.files.path().join(table)
    }

    /// A table's name as it is declared, its columns, and its statement.
    fn declared(&self, table: &str) -> Result<(String, SchemaRef, &str), String> {
        let created = |text: &String| created_table(text).filter(|name| name.eq_ignore_ascii_case(table));
        let found = self.statements.iter().find_map(|text| Some((created(text)?, text)));
        let (name, text) = found.ok_or_else(|| format!("there is no table '{table}' to take records"))?;
        let schemas = describe(&lines_of(&self.statements)).map_err(|error| error.to_string())?;
        let schema = schemas[&name].clone();
        Ok((name, schema, text))
    }

    fn values(&mut self, table: &str, columns: &[String], values: &str) -> Result<(), String> {
        let (table, schema, text) = self.declared(table)?;
        let is_file = text.contains("filesystem");
        let is_csv = text.contains("'csv'");
        let names: Vec<String> = match columns.is_empty() {
            true => schema.fields().iter().map(|field| field.name().clone()).collect(),
            false => {
                let declared = || schema.fields().iter().map(|field| field.name().as_str());
                let found = |name: &String| find(name, declared()).ok().flatten().unwrap_or(name).to_string();
                columns.iter().map(found).collect()
            }
        };
        for rows in answer(Vec::new(), values)? {
            let fields = names.iter().zip(rows.columns()).map(|(name, column)| {
                let declared = schema.field_with_name(name).map(|field| field.data_type().clone());
                let data_type = declared.unwrap_or_else(|_| column.data_type().clone());
                Ok((Field::new(name, data_type.clone(), true), cast(column, &data_type).map_err(|e| e.to_string())?))
            });
            let (fields, columns): (Vec<Field>, Vec<_>) =
                fields.collect::<Result<Vec<_>, String>>()?.into_iter().unzip();
            let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| e.to_string())?;
            match is_file {
                true => self.events.push(Event::File { table: table.clone(), lines: file_lines(&rows, is_csv) }),
                false => self.records(&table, &rows),
            }
        }
        Ok(())
    }

    /// Adds a record to a topic, given as a JSON object.
    pub fn json(&mut self, table: &str, line: &str) -> Result<(), String> {
        let (table, schema, text) = self.declared(table)?;
        let is_file = text.contains("filesystem");
        if is_file {
            self.events.push(Event::File { table, lines: format!("{line}\n") });
            return Ok(());
        }
        // Without value: its key's columns, then `null`.
        let deleted = line.trim().strip_suffix("null").map(str::trim_end).filter(|key| key.ends_with('}'));
        let schema = if deleted.is_some() { nullable(&schema) } else { schema };
        let rows = decoded(&schema, deleted.unwrap_or(line)).map_err(|error| format!("{error}: {line}"))?;
        self.records(&table, &if deleted.is_some() { deletions(&rows) } else { rows });
        self.known.clear();
        Ok(())
    }

    fn records(&mut self, table: &str, rows: &RecordBatch) {
        let partitions = rows.column_by_name("_partition").map(|column| cast(column, &DataType::Int32).unwrap());
        for index in 0..rows.num_rows() {
            let partition = partitions.as_ref().map_or(0, |column| {
                use arrow::array::AsArray;
                column.as_primitive::<arrow::datatypes::Int32Type>().value(index)
            });
            self.events.push(Event::Record { table: table.into(), partition, row: rows.slice(index, 1) });
        }
    }

    /// Returns the rows of a query, in the order of their columns unless it has ORDER BY.
    pub fn query(&mut self, sql: &str) -> Result<(SchemaRef, Vec<Vec<String>>), String> {
        let bare = without_comments(sql).trim().to_lowercase();
        match bare.as_str() {
            "explain" => return Ok(lines("plan", self.outcome(self.script(None))?.explain.lines())),
            "show warnings" => {
                return Ok(lines("warning", self.outcome(self.script(None))?.warnings.iter().map(String::as_str)));
            }
            "show late rows" => {
                let late_rows = self.outcome(self.script(None))?.late_rows;
                let schema = Schema::new(vec![Field::new("late", DataType::Int64, false)]);
                return Ok((Arc::new(schema), vec![vec![late_rows.to_string()]]));
            }
            "show key conflicts" => {
                let keys = self.outcome(self.script(None))?.key_conflicts;
                let schema = Schema::new(vec![Field::new("keys", DataType::Int64, false)]);
                return Ok((Arc::new(schema), vec![vec![keys.to_string()]]));
            }
            _ => {}
        }
        let written: BTreeSet<String> = self.inserts.iter().filter_map(|insert| written_table(insert)).collect();
        let names = |name: &String| {
            bare.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word.eq_ignore_ascii_case(name))
        };
        let is_ordered = bare.contains("order by");
        if !written.iter().any(names) {
            let batch = self.select(sql)?;
            return Ok(shown(&sorted(batch)?));
        }
        let outcome = self.outcome(self.script(None))?;
        // DataFusion reads names in lower case.
        let sinks = outcome.sinks.into_iter().map(|(name, rows)| (name.to_lowercase(), rows));
        let batches = answer(sinks.collect(), sql)?;
        let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), |batch| batch.schema());
        let batch = arrow::compute::concat_batches(&schema, &batches).map_err(|error| error.to_string())?;
        Ok(shown(&if is_ordered { batch } else { sorted(batch)? }))
    }

    /// Compiles a SELECT without INSERT INTO, and returns its script, which has a sink for it.
    pub fn script_of(&self, select: &str) -> Result<String, String> {
        let before = lines_of(&self.statements);
        let view = format!("CREATE VIEW answer_ AS\n{select};\n");
        let schemas =
            describe(&format!("{before}{view}")).map_err(|error| placed(error, &format!("{before}CREATE VIEW\n")))?;
        let column = |(index, field): (usize, &Arc<Field>)| format!("c{index} {}", sink_type(field.data_type()));
        let columns: Vec<String> = schemas["answer_"].fields().iter().enumerate().map(column).collect();
        let mode = match before.to_lowercase().contains("output_mode") {
            true => "",
            false => "SET output_mode = 'complete'; ",
        };
        let sink = with_table(&format!("CREATE TABLE answer ({})", columns.join(", ")));
        let start = format!("{before}{mode}{sink}; INSERT INTO answer\n");
        let script = format!("{start}{select};\n");
        highwater_planner::compile(&script).map_err(|error| placed(error, &start))?;
        Ok(script)
    }

    /// Returns the final rows of a SELECT without INSERT INTO.
    fn select(&mut self, select: &str) -> Result<RecordBatch, String> {
        let script = self.script_of(select)?;
        let outcome = self.outcome(script)?;
        Ok(outcome.sinks["answer"].clone())
    }

    /// Runs a script in one way: batches end at COMMIT, on two executors.
    pub fn quickly(&self, script: &str) -> Result<Outcome, String> {
        self.run(script, Way { executors: 2, cut: false, resumed: false, spread: true, disturbed: false })
    }

    /// Runs a script in every way.
    pub fn outcome(&mut self, script: String) -> Result<Outcome, String> {
        if let Some(outcome) = self.known.get(&script) {
            return Ok(outcome.clone());
        }
        let cut = !self.events.iter().any(|event| matches!(event, Event::Commit { .. }));
        let plain = Way { executors: 1, cut: false, resumed: false, spread: false, disturbed: false };
        let first = self.run(&script, plain)?;
        for way in [
            Way { executors: 3, spread: true, ..plain },
            Way { cut, resumed: true, ..plain },
            Way { executors: 3, cut, resumed: true, spread: true, disturbed: true },
        ] {
            let again = self.run(&script, way).map_err(|error| format!("{error}\n{way:?}"))?;
            for (name, sink) in &first.sinks {
                if let Some(difference) = difference(&texts(sink), &texts(&again.sinks[name])) {
                    return Err(format!("sink '{name}' holds something else when run {way:?}: {difference}"));
                }
            }
            if first.key_conflicts != again.key_conflicts {
                let (one, other) = (first.key_conflicts, again.key_conflicts);
                return Err(format!("{one} keys with several rows, and {other} when run {way:?}"));
            }
            if !cut && first.late_rows != again.late_rows {
                return Err(format!("{} late rows, and {} when run {way:?}", first.late_rows, again.late_rows));
            }
        }
        self.known.insert(script, first.clone());
        Ok(first)
    }

    fn run(&self, script: &str, way: Way) -> Result<Outcome, String> {
        let (records, places) = self.log(script, way.spread);
        let mut cluster = Cluster::new(script, &records, Fault::None)?;
        let mut ends: BTreeMap<(String, i32), i64> = BTreeMap::new();
        let mut batches = 0;
        let mut commit = |ends: &BTreeMap<(String, i32), i64>, now_ms: Option<i64>| {
            batches += 1;
            cluster.commit(&Step {
                executors: way.executors,
                chunk: 2,
                resumed: way.resumed && batches > 1,
                killed: way.disturbed && batches % 2 == 0,
                replayed: way.disturbed && batches % 3 == 0,
                now_ms,
                ..Step::taking(Take::To(ends.clone()))
            })
        };
        let mut files: BTreeMap<String, String> = self.empty_files();
        self.write(&files);
        for (event, place) in self.events.iter().zip(places) {
            match event {
                Event::Record { table, .. } => {
                    *ends.entry((table.clone(), place)).or_default() += 1;
                    if way.cut {
                        self.write(&files);
                        commit(&ends, None)?;
                    }
                }
                Event::File { table, lines } => files.entry(table.clone()).or_default().push_str(lines),
                Event::Commit { now_ms } => {
                    self.write(&files);
                    commit(&ends, *now_ms)?;
                }
            }
        }
        self.write(&files);
        // What is left, then a batch without records.
        commit(&ends, None)?;
        commit(&ends, None)?;
        let name = |sink: &highwater_sql::tables::SinkTable| (sink.name.clone(), cluster.sinks[&sink.id].batch());
        Ok(Outcome {
            sinks: cluster.compiled.sinks.iter().map(name).collect(),
            late_rows: cluster.late_rows,
            key_conflicts: cluster.key_conflicts.keys,
            warnings: cluster.compiled.warnings.clone(),
            explain: cluster.compiled.explain_text(),
        })
    }

    /// Returns the records, and the partition of each event. With `spread`, tables whose results do not depend on partitions
    /// have three; those with a key are partitioned by it.
    fn log(&self, script: &str, spread: bool) -> (Records, Vec<i32>) {
        let text_of = |table: &str| {
            let text = self.statements.iter().find(|text| created_table(text).as_deref() == Some(table));
            text.map(|text| text.to_lowercase()).unwrap_or_default()
        };
        let placed = script.contains("_partition") || script.contains("_offset");
        let is_free = |table: &str| spread && !placed && !text_of(table).contains("watermark");
        let mut records = Records::default();
        let mut counts: BTreeMap<&str, i32> = BTreeMap::new();
        let mut places = Vec::new();
        for event in &self.events {
            let Event::Record { table, partition, row } = event else {
                places.push(0);
                continue;
            };
            let count = counts.entry(table).or_default();
            let key = primary_key(&text_of(table));
            let place = match is_free(table) {
                true if key.is_empty() => *count % 3,
                true => partition_of(row, &key),
                false => *partition,
            };
            *count += 1;
            records.append(table, place, row.clone());
            places.push(place);
        }
        (records, places)
    }

    fn empty_files(&self) -> BTreeMap<String, String> {
        let of_file =
            |text: &String| Some((created_table(text).filter(|_| text.contains("filesystem"))?, String::new()));
        self.statements.iter().filter_map(of_file).collect()
    }

    fn write(&self, files: &BTreeMap<String, String>) {
        files.iter().for_each(|(table, lines)| std::fs::write(self.path(table), lines).unwrap());
    }
}

/// Returns a column type of a sink for these values.
fn sink_type(data_type: &DataType) -> String {
    let known = type_name(data_type);
    match data_type {
        DataType::Null => "STRING".into(),
        _ if known.contains("UNSIGNED") => "BIGINT".into(),
        _ => known,
    }
}

fn with_table(text: &str) -> String {
    match Statement::of(text) {
        Statement::Script(text) => text,
        other => unreachable!("{other:?}"),
    }
}

fn lines_of(statements: &[String]) -> String {
    statements.iter().map(|text| format!("{text};\n")).collect()
}

/// Returns an error's text with its place in the statement, not counting the lines of `before`.
fn placed(error: SqlError, before: &str) -> String {
    let skipped = before.matches('\n').count() as u64;
    match error.line > skipped {
        true => SqlError { line: error.line - skipped, ..error }.to_string(),
        false => error.to_string(),
    }
}

fn time_ms(text: &str) -> Result<i64, String> {
    highwater_sql::values::parse_time_ms(text).ok_or_else(|| format!("'{text}' is no time"))
}

fn file_lines(rows: &RecordBatch, is_csv: bool) -> String {
    if is_csv {
        let texts = texts(rows).into_iter();
        return texts.map(|row| row.join(",").replace("NULL", "") + "\n").collect();
    }
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    writer.write(rows).unwrap();
    writer.finish().unwrap();
    String::from_utf8(writer.into_inner()).unwrap()
}

fn lines<'a>(name: &str, lines: impl IntoIterator<Item = &'a str>) -> (SchemaRef, Vec<Vec<String>>) {
    let schema = Schema::new(vec![Field::new(name, DataType::Utf8, true)]);
    (Arc::new(schema), lines.into_iter().map(|line| vec![line.to_string()]).collect())
}

fn shown(batch: &RecordBatch) -> (SchemaRef, Vec<Vec<String>>) {
    (batch.schema(), texts(batch))
}

/// Sorts rows by all columns.
fn sorted(batch: RecordBatch) -> Result<RecordBatch, String> {
    if batch.num_columns() == 0 {
        return Ok(batch);
    }
    let nulls_last = arrow::compute::SortOptions { descending: false, nulls_first: false };
    let field = |field: &Arc<Field>| arrow_row::SortField::new_with_options(field.data_type().clone(), nulls_last);
    let fields = batch.schema().fields().iter().map(field).collect();
    let converter = arrow_row::RowConverter::new(fields).map_err(|error| error.to_string())?;
    let rows = converter.convert_columns(batch.columns()).map_err(|error| error.to_string())?;
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_by_key(|index| rows.row(*index as usize));
    let order = arrow::array::UInt32Array::from(order);
    arrow::compute::take_record_batch(&batch, &order).map_err(|error| error.to_string())
}
