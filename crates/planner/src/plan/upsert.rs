//! Plans a table with PRIMARY KEY as an exchange by key and an operator that keeps the current row of each key.
//!
//! Owns: which columns are kept. Does not own: folding (`operators::keyed_source`), reading a record's key (connectors).
//! Invariant: filters and projections come after the fold, since a row that they drop still replaces the one before.

use super::builder::{Builder, Flow, columns, project};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use highwater_dataflow::{OperatorInfo, PipelineInput, PipelineOutput};
use highwater_operators::keyed_source::UpsertOperator;
use highwater_operators::keyed_source::UpsertSpec;
use highwater_sql::tables::{SourceTable, UpsertKey};
use std::sync::Arc;

/// Returns the flow of current rows: the `wanted` columns of decoded records, with `schema`.
pub fn fold(
    builder: &mut Builder<'_>,
    mut flow: Flow,
    source: &SourceTable,
    key: &UpsertKey,
    wanted: &[usize],
    schema: SchemaRef,
) -> Flow {
    let layout = flow.schema.clone();
    let keys: Vec<usize> = key.columns.iter().filter_map(|column| source.place(*column)).collect();
    // If no column is wanted, the key's columns stand for the rows.
    let (kept, output_schema) = match wanted.is_empty() {
        true => (keys.clone(), Arc::new(Schema::new(fields(&layout, &keys)))),
        false => (wanted.to_vec(), schema),
    };
    let mut sent = kept.clone();
    sent.extend(keys.iter().filter(|column| !kept.contains(column)));
    sent.push(layout.fields().len() - 1);
    let input_schema: SchemaRef = Arc::new(Schema::new(fields(&layout, &sent)));
    project(&mut flow, &columns(&layout, &sent), &input_schema);
    let key: Vec<usize> = keys.iter().filter_map(|column| sent.iter().position(|other| other == column)).collect();
    let (stage, edge) = builder.add_exchange(input_schema.clone(), key.clone(), false);
    let upstream = flow.upstream.clone();
    builder.route(flow, PipelineOutput::Exchange(edge));
    let spec = UpsertSpec { input_schema, key, width: kept.len(), output_schema: output_schema.clone() };
    let description = format!("{} {}", source.name, spec.text());
    let info = |id| OperatorInfo {
        id,
        name: "keyed source".into(),
        description,
        sources: vec![source.id],
        bounded_by: None,
        closes_windows: false,
        clock_window: None,
        ttl_ms: None,
    };
    let op = builder.add_table_operator(info, "it keeps the row of every key until a record without value deletes it");
    Flow {
        stage,
        inputs: vec![PipelineInput::Edge(edge)],
        ops: vec![Arc::new(UpsertOperator { op, spec: Arc::new(spec) })],
        schema: output_schema,
        retracts: true,
        upstream,
    }
}

fn fields(schema: &Schema, places: &[usize]) -> Vec<datafusion::arrow::datatypes::FieldRef> {
    places.iter().map(|place| schema.fields()[*place].clone()).collect()
}
