//! `checkpoint state`: the rows that operators keep, decoded by the plan that wrote them.
//!
//! Owns: choosing operator and rows, and the answer's form. Does not own: reading checkpoints (crate `checkpoint`), layouts of
//! state (crate `operators`). Invariants: state is decoded only by a plan of the identity that wrote it; no more is held
//! than what is shown and the shards being read; nothing here changes a checkpoint.

use super::stored::{chosen, open};
use crate::cli::StateArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{number, rows_table, size, table};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::Cell;
use highwater_checkpoint::{CheckpointError, CheckpointStore, StateSize};
use highwater_connector_api::formats::RowEncoder;
use highwater_connector_api::formats::json::ObjectEncoder;
use highwater_dataflow::Op;
use highwater_dataflow::operator::StateSpec;
use highwater_dataflow::runtime::state_reader::{StateEntry, StateReader, StateRows};
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{OperatorId, QueryId};
use highwater_protocol::state_delta::DeltaEntry;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Rows shown unless the command says otherwise.
const LIMIT: u64 = 100;
/// Entries decoded together.
const ENTRIES: usize = 1_000;
/// Name of the member that tells the part.
const PART: &str = "_part";

pub fn state(args: &StateArgs, context: &Context) -> Result<(), Failure> {
    let (store, query) = open(&args.at, context)?;
    let compiled = plan(&store, query)?;
    let batch = chosen(&store, query, &args.at.name, args.batch)?;
    store.record(query, batch)?.ok_or(CheckpointError::NoBatch { query, batch })?;
    match args.operator {
        None => {
            let sizes = store.state_sizes(query, batch, compiled.options.shards)?;
            let keepers: Vec<StateSpec> = keepers(&compiled).map(|(spec, _)| spec).collect();
            context.show(|| document(&keepers, &sizes), || list(&keepers, &sizes))
        }
        Some(operator) => {
            let (_, op) = find(&compiled, OperatorId(operator), &args.at.name)?;
            let reader = op.state_reader().map_err(failed)?;
            let reader = reader.ok_or_else(|| Failure::failed(format!("operator {operator} keeps nothing to show")))?;
            let shown = Shown { wanted: Wanted::of(args), json: context.global.json, tables: Vec::new() };
            let visit = |visit: Visit<'_>| {
                store.visit_state(query, batch, compiled.options.shards, OperatorId(operator), visit)
            };
            show(visit, reader.as_ref(), shown)
        }
    }
}

/// The plan of the stored script, if it is the one that the state is of.
fn plan(store: &CheckpointStore, query: QueryId) -> Result<CompiledQuery, Failure> {
    let spec = store.query(query)?.ok_or(CheckpointError::NoQuery { query })?;
    let compiled = highwater_planner::compile(&spec.sql);
    let compiled = compiled.map_err(|error| {
        let name = &spec.name;
        Failure::failed(format!("the stored script of query `{name}` does not compile any more: {error}"))
    })?;
    let refusal = spec.plan.and_then(|then| then.refusal(&compiled.plan_identity(), &spec.name));
    refusal.map_or(Ok(compiled), |refusal| Err(Failure::failed(refusal)))
}

/// The operators that keep state, by number.
fn keepers(query: &CompiledQuery) -> impl Iterator<Item = (StateSpec, &Op)> {
    let ops = query.dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops);
    let by_number: BTreeMap<OperatorId, (StateSpec, &Op)> =
        ops.filter_map(|op| op.state().map(|spec| (spec.operator, (spec, op)))).collect();
    by_number.into_values()
}

fn find<'a>(query: &'a CompiledQuery, operator: OperatorId, name: &str) -> Result<(StateSpec, &'a Op), Failure> {
    keepers(query).find(|(spec, _)| spec.operator == operator).ok_or_else(|| {
        let all: Vec<String> = keepers(query).map(|(spec, _)| format!("{} ({})", spec.operator, spec.kind)).collect();
        let all = if all.is_empty() { "none".to_string() } else { all.join(", ") };
        Failure::failed(format!("query '{name}' has no operator {operator} that keeps state; it has: {all}"))
    })
}

fn document(keepers: &[StateSpec], sizes: &BTreeMap<OperatorId, StateSize>) -> Value {
    let one = |spec: &StateSpec| {
        let StateSize { entries, bytes } = sizes.get(&spec.operator).copied().unwrap_or_default();
        let StateSpec { operator, kind, keeps, .. } = spec;
        json!({"operator": operator, "kind": kind, "keeps": keeps, "entries": entries, "bytes": bytes})
    };
    keepers.iter().map(one).collect()
}

fn list(keepers: &[StateSpec], sizes: &BTreeMap<OperatorId, StateSize>) -> String {
    if keepers.is_empty() {
        return "no operator of this query keeps state".to_string();
    }
    let mut table = table(&["operator", "kind", "keeps", "entries", "bytes"]);
    for spec in keepers {
        let StateSize { entries, bytes } = sizes.get(&spec.operator).copied().unwrap_or_default();
        let texts = [spec.kind, spec.keeps].map(Cell::new);
        table.add_row([number(spec.operator)].into_iter().chain(texts).chain([number(entries), number(size(bytes))]));
    }
    table.to_string()
}

/// Which rows are wanted.
struct Wanted<'a> {
    /// How many more.
    rest: u64,
    /// What a column of the key has to be.
    key: Option<&'a str>,
    /// Some were left out.
    cut: bool,
}

impl<'a> Wanted<'a> {
    fn of(args: &'a StateArgs) -> Self {
        let rest = match args.limit.unwrap_or(LIMIT) {
            0 => u64::MAX,
            limit => limit,
        };
        Self { rest, key: args.key.as_deref(), cut: false }
    }

    /// Entries that are worth decoding.
    fn entries(&self) -> usize {
        match self.key {
            None => ENTRIES.min(usize::try_from(self.rest).unwrap_or(ENTRIES)),
            Some(_) => ENTRIES,
        }
    }

    /// Those of the rows that are wanted.
    fn take(&mut self, rows: &StateRows) -> Result<RecordBatch, ArrowError> {
        let mut batch = match self.key {
            Some(text) => filter_record_batch(&rows.rows, &having(rows, text)?)?,
            None => rows.rows.clone(),
        };
        let most = usize::try_from(self.rest).unwrap_or(usize::MAX);
        self.cut |= batch.num_rows() > most;
        batch = batch.slice(0, batch.num_rows().min(most));
        self.rest -= batch.num_rows() as u64;
        Ok(batch)
    }
}

/// Which rows have this text in a column of their key.
fn having(rows: &StateRows, text: &str) -> Result<BooleanArray, ArrowError> {
    // Rows of no key are found by any of their columns.
    let columns = if rows.key.is_empty() { (1..rows.rows.num_columns()).collect() } else { rows.key.clone() };
    let options = FormatOptions::default();
    let texts = columns.iter().map(|column| ArrayFormatter::try_new(rows.rows.column(*column).as_ref(), &options));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    let is_it = |row: usize| texts.iter().any(|column| column.value(row).to_string() == text);
    Ok((0..rows.rows.num_rows()).map(|row| Some(is_it(row))).collect())
}

/// What is shown, and how.
struct Shown<'a> {
    wanted: Wanted<'a>,
    json: bool,
    /// For people: the rows of each part.
    tables: Vec<(String, Vec<RecordBatch>)>,
}

impl Shown<'_> {
    fn add(&mut self, rows: &StateRows) -> Result<(), Failure> {
        let batch = self.wanted.take(rows).map_err(failed)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.json {
            return lines(&rows.part, &batch);
        }
        let is_same = |(part, batches): &&mut (String, Vec<RecordBatch>)| {
            *part == rows.part && batches[0].schema() == batch.schema()
        };
        match self.tables.iter_mut().find(is_same) {
            Some((_, batches)) => batches.push(batch),
            None => self.tables.push((rows.part.clone(), vec![batch])),
        }
        Ok(())
    }
}

/// Takes some entries; breaks off when it has seen enough.
type Visit<'a> = &'a mut dyn FnMut(&[DeltaEntry<'_>]) -> Result<ControlFlow<()>, Failure>;

/// `visit_all` visits all entries of an operator.
fn show(
    visit_all: impl Fn(Visit<'_>) -> Result<(), Failure>,
    reader: &dyn StateReader,
    mut shown: Shown<'_>,
) -> Result<(), Failure> {
    let mut visit = |entries: &[DeltaEntry<'_>]| -> Result<ControlFlow<()>, Failure> {
        let mut entries = entries.iter().map(|DeltaEntry { shard, key, value }| StateEntry {
            shard: *shard,
            key,
            value: value.unwrap_or_default(),
        });
        while entries.len() > 0 {
            shown.wanted.cut |= shown.wanted.rest == 0;
            if shown.wanted.cut {
                return Ok(ControlFlow::Break(()));
            }
            let some: Vec<StateEntry<'_>> = entries.by_ref().take(shown.wanted.entries()).collect();
            reader.read(&some).map_err(failed)?.iter().try_for_each(|rows| shown.add(rows))?;
        }
        Ok(ControlFlow::Continue(()))
    };
    visit_all(&mut visit)?;
    if !shown.json {
        output::line(&pages(&shown.tables)?)?;
    }
    if shown.wanted.cut {
        output::note("there is more; --limit K shows more rows, --limit 0 all");
    }
    Ok(())
}

/// A table of each part, or several where its rows have not the same columns.
fn pages(tables: &[(String, Vec<RecordBatch>)]) -> Result<String, Failure> {
    if tables.is_empty() {
        return Ok("no rows".to_string());
    }
    let page = |(part, batches): &(String, Vec<RecordBatch>)| {
        let batch = concat_batches(&batches[0].schema(), batches)?;
        Ok(format!("{part} ({})\n{}", batch.num_rows(), rows_table(&batch)?))
    };
    let pages = tables.iter().map(page).collect::<Result<Vec<_>, ArrowError>>();
    Ok(pages.map_err(failed)?.join("\n\n"))
}

/// Writes each row as an object, as it would be in Kafka.
fn lines(part: &str, rows: &RecordBatch) -> Result<(), Failure> {
    let parts: ArrayRef = Arc::new(StringArray::from(vec![part; rows.num_rows()]));
    let mut fields = vec![Arc::new(Field::new(PART, DataType::Utf8, false))];
    let mut columns = vec![parts];
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let column = writable(field.name(), column).map_err(failed)?;
        fields.push(Arc::new(Field::new(field.name(), column.data_type().clone(), true)));
        columns.push(column);
    }
    let all: Vec<usize> = (0..columns.len()).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(failed)?;
    let objects = ObjectEncoder::new(all).encode(&batch).map_err(failed)?;
    let texts: Vec<_> = objects.iter().flatten().map(String::from_utf8_lossy).collect();
    output::line(&texts.join("\n"))
}

/// The column, or its values as text where JSON has no place for them.
fn writable(name: &str, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let schema = Schema::new(vec![Field::new(name, column.data_type().clone(), true)]);
    let alone = RecordBatch::try_new(Arc::new(schema), vec![column.clone()])?;
    if ObjectEncoder::new(vec![0]).encode(&alone.slice(0, 0)).is_ok() {
        return Ok(column.clone());
    }
    let options = FormatOptions::default();
    let text = ArrayFormatter::try_new(column.as_ref(), &options)?;
    let value = |row: usize| column.is_valid(row).then(|| text.value(row).to_string());
    Ok(Arc::new((0..column.len()).map(value).collect::<StringArray>()))
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}
