//! A hash of a compiled query, by which processes notice that they run different builds or plans of it.
//!
//! Owns: the input of the hash. Invariants: nothing in it depends on the process (no addresses, no hash
//! order, no clock); the versions of this engine and of DataFusion are part of it, since functions may change with them.

use crate::explain::output_text;
use crate::query::CompiledQuery;
use highwater_dataflow::Op;
use highwater_dataflow::operator::identify_schema;
use highwater_protocol::identity::{PlanIdentity, StateIdentity};
use highwater_sql::tables::{SinkTable, SourceTable};
use std::fmt::Write;
use xxhash_rust::xxh3::Xxh3;

impl CompiledQuery {
    /// Returns the identity of the query's state. A build that computes the same identity can read the state.
    pub fn plan_identity(&self) -> PlanIdentity {
        plan_of(self)
    }

    /// Returns a hash of the options, tables and plan as 32 hex digits: equal for two processes if and only
    /// if they would run the same plan.
    pub fn fingerprint(&self) -> String {
        of(self)
    }
}

fn of(query: &CompiledQuery) -> String {
    let mut text = Text(Xxh3::new());
    // Writing into a hash never fails.
    let _ = describe(query, &mut text);
    format!("{:032x}", text.0.digest128())
}

fn plan_of(query: &CompiledQuery) -> PlanIdentity {
    let ops = query.dataflow.stages.iter().flat_map(|stage| &stage.pipelines).flat_map(|pipeline| &pipeline.ops);
    let of = |op: &Op| {
        let state = op.state()?;
        let mut text = Text(Xxh3::new());
        let _ = op.identify(&mut text);
        let digest = format!("{:032x}", text.0.digest128());
        Some(StateIdentity { operator: state.operator, kind: state.kind.into(), version: state.version, digest })
    };
    let mut operators: Vec<StateIdentity> = ops.filter_map(of).collect();
    operators.sort_by_key(|one| one.operator);
    PlanIdentity { shards: query.options.shards, operators }
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
                writeln!(out, "{}", op.describe())?;
                op.identify(out)?;
            }
            writeln!(out, "{}", output_text(query, pipeline.output))?;
        }
    }
    for edge in &query.dataflow.edges {
        write!(out, "edge {} {:?} {} ", edge.id, edge.key, edge.weighted)?;
        identify_schema(&edge.schema, out)?;
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
    identify_schema(&source.schema, out)
}

fn describe_sink(sink: &SinkTable, out: &mut Text) -> std::fmt::Result {
    writeln!(out, "sink {} {} {:?} {:?} {:?}", sink.id, sink.name, sink.connector, sink.mode, sink.primary_key)?;
    identify_schema(&sink.schema, out)
}
