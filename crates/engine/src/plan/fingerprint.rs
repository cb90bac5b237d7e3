//! One hash of a compiled query, to notice two builds or two plans at work on one query.
//!
//! Owns: what goes into the hash. Invariants: nothing in it depends on the process (no addresses, no hash
//! order, no clock); the versions of this engine and of DataFusion are part of it, since their functions are.

use crate::explain::{op_text, output_text};
use crate::query::{CompiledQuery, SinkTable, SourceTable};
use datafusion::arrow::datatypes::Schema;
use std::fmt::Write;
use xxhash_rust::xxh3::Xxh3;

/// See [`CompiledQuery::fingerprint`].
pub fn of(query: &CompiledQuery) -> String {
    let mut text = Text(Xxh3::new());
    // Writing into a hash never fails.
    let _ = describe(query, &mut text);
    format!("{:032x}", text.0.digest128())
}

/// Hashes what is written to it.
struct Text(Xxh3);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

fn describe(query: &CompiledQuery, out: &mut Text) -> std::fmt::Result {
    writeln!(out, "highwater {} datafusion {}", env!("CARGO_PKG_VERSION"), datafusion::DATAFUSION_VERSION)?;
    writeln!(out, "{:?}", query.options)?;
    for source in &query.sources {
        describe_source(source, out)?;
    }
    for sink in &query.sinks {
        describe_sink(sink, out)?;
    }
    for stage in &query.dataflow.stages {
        writeln!(out, "stage {} {:?} {:?}", stage.id, stage.input, stage.sinks)?;
        for pipeline in &stage.pipelines {
            writeln!(out, "pipeline {:?} {:?}", pipeline.inputs, pipeline.late)?;
            for op in &pipeline.ops {
                writeln!(out, "{}", op_text(op))?;
                describe_schemas(op, out)?;
            }
            writeln!(out, "{}", output_text(query, pipeline.output))?;
        }
    }
    for edge in &query.dataflow.edges {
        write!(out, "edge {} {:?} {} ", edge.id, edge.key, edge.weighted)?;
        describe_schema(&edge.schema, out)?;
    }
    for operator in &query.dataflow.operators {
        writeln!(out, "{operator:?}")?;
    }
    Ok(())
}

fn describe_source(source: &SourceTable, out: &mut Text) -> std::fmt::Result {
    writeln!(out, "source {} {} {:?} {:?}", source.id, source.name, source.connector, source.options)?;
    if let Some(watermark) = &source.watermark {
        writeln!(out, "watermark {watermark}")?;
    }
    writeln!(out, "{:?} {:?}", source.columns_used, source.upsert)?;
    describe_schema(&source.schema, out)
}

fn describe_sink(sink: &SinkTable, out: &mut Text) -> std::fmt::Result {
    writeln!(out, "sink {} {} {:?} {:?} {:?}", sink.id, sink.name, sink.connector, sink.mode, sink.primary_key)?;
    describe_schema(&sink.schema, out)
}

fn describe_schemas(op: &crate::dataflow::OpSpec, out: &mut Text) -> std::fmt::Result {
    use crate::dataflow::OpSpec;
    match op {
        OpSpec::Filter(_) => Ok(()),
        OpSpec::Project { schema, .. } | OpSpec::Complete { schema, .. } => describe_schema(schema, out),
        OpSpec::KeyedSink { close, watermark, schema, .. } => {
            writeln!(out, "{close:?} {watermark:?}")?;
            describe_schema(schema, out)
        }
        OpSpec::PartialAggregate { spec, .. } | OpSpec::FinalAggregate { spec, .. } => {
            writeln!(out, "{:?} {:?}", spec.close, spec.watermark)?;
            describe_schema(&spec.partial_schema, out)?;
            describe_schema(&spec.output_schema, out)
        }
        OpSpec::Expand { schema, .. } => describe_schema(schema, out),
        OpSpec::Upsert { spec, .. } => {
            writeln!(out, "{:?} {}", spec.key, spec.width)?;
            describe_schema(&spec.input_schema, out)?;
            describe_schema(&spec.output_schema, out)
        }
        OpSpec::Temporal { spec, .. } => {
            writeln!(out, "{} {:?}", spec.input_retracts, spec.watermark)?;
            for side in [&spec.rows, &spec.versions.timed] {
                writeln!(out, "{:?} {} {}", side.key, side.time, side.width)?;
                describe_schema(&side.schema, out)?;
            }
            writeln!(out, "{:?} {:?}", spec.versions.deleted, spec.versions.columns)?;
            describe_schema(&spec.output_schema, out)
        }
        OpSpec::Lookup(spec) => {
            for table in spec.lookup.tables() {
                writeln!(out, "{table:?}")?;
            }
            describe_schema(&spec.output_schema, out)
        }
        OpSpec::Unnest(spec) => {
            writeln!(out, "{:?} {} {}", spec.columns, spec.keeps_null, spec.keeps_empty)?;
            describe_schema(&spec.schema, out)
        }
        OpSpec::Session { spec, .. } => {
            writeln!(out, "{} {:?}", spec.closes, spec.watermark)?;
            describe_schema(&spec.input_schema, out)?;
            describe_schema(&spec.output_schema, out)
        }
        OpSpec::GeneralAggregate { spec, .. } => {
            writeln!(out, "{:?} {:?} {:?} {:?}", spec.close, spec.watermark, spec.emit, spec.total)?;
            describe_schema(&spec.input_schema, out)?;
            describe_schema(&spec.output_schema, out)
        }
        OpSpec::Join { spec, .. } => {
            writeln!(out, "{:?} {} {} {:?}", spec.output, spec.null_equal, spec.on_close, spec.watermark)?;
            for side in &spec.sides {
                writeln!(out, "{:?} {} {:?}", side.key, side.width, side.expiry)?;
                describe_schema(&side.schema, out)?;
            }
            describe_schema(&spec.output_schema, out)
        }
        OpSpec::Over { spec, .. } => {
            writeln!(out, "{:?} {:?} {:?} {:?}", spec.limit, spec.expiry, spec.on_close, spec.watermark)?;
            describe_schema(&spec.input_schema, out)?;
            describe_schema(&spec.output_schema, out)
        }
    }
}

/// Names, types and nullability; metadata is a map without order, and ours are empty.
fn describe_schema(schema: &Schema, out: &mut Text) -> std::fmt::Result {
    for field in schema.fields() {
        write!(out, "{} {} {}, ", field.name(), field.data_type(), field.is_nullable())?;
    }
    writeln!(out)
}
