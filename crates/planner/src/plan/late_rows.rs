//! A hidden sink for late rows, for each source with a `late_topic`.
//!
//! Owns: those sinks, and the choice of the sink for a late row. Does not own: making the records (crate `connector-api`),
//! which rows are late (the runtime). Invariants: a late row is written once, in the transaction of its batch; it goes to
//! the topic of the first source, in the order of ids, that has a `late_topic` and whose rows reach that input.

use highwater_dataflow::{Dataflow, Pipeline, PipelineInput, PipelineOutput, Stage, StageInput};
use highwater_protocol::ids::{EdgeId, SinkId, SourceId};
use highwater_protocol::options::OutputMode;
use highwater_sql::record_copies::schema;
use highwater_sql::tables::{SinkTable, SourceTable};
use std::collections::{BTreeMap, BTreeSet};

/// Adds a sink for every source with a `late_topic` whose rows an operator may drop as late; warns of the others.
pub fn connect(
    dataflow: &mut Dataflow,
    sources: &[SourceTable],
    sinks: &mut Vec<SinkTable>,
    warnings: &mut Vec<String>,
) {
    let asking: BTreeMap<SourceId, SinkTable> =
        sources.iter().filter_map(|source| Some((source.id, sink_of(source)?))).collect();
    if asking.is_empty() {
        return;
    }
    let reach = reach(dataflow);
    let mut opened: BTreeMap<SourceId, SinkId> = BTreeMap::new();
    for stage in &mut dataflow.stages {
        let input = stage.input;
        let mut used: Vec<SinkId> = Vec::new();
        for pipeline in stage.pipelines.iter_mut().filter(|pipeline| pipeline.ops.iter().any(|op| op.drops_late())) {
            let sources_of = |one: &PipelineInput| sources_of(one, input, &reach);
            let first = |of: BTreeSet<SourceId>| of.into_iter().find(|source| asking.contains_key(source));
            let wanted: Vec<Option<SourceId>> = pipeline.inputs.iter().map(|one| first(sources_of(one))).collect();
            pipeline.late = wanted
                .into_iter()
                .map(|source| {
                    let source = source?;
                    Some(*opened.entry(source).or_insert_with(|| {
                        let id = SinkId(sinks.len() as u32);
                        sinks.extend(asking.get(&source).map(|sink| SinkTable { id, ..sink.clone() }));
                        id
                    }))
                })
                .collect();
            used.extend(pipeline.late.iter().flatten());
        }
        add_sinks(stage, used);
    }
    for (source, sink) in asking.iter().filter(|(source, _)| !opened.contains_key(source)) {
        let name = sources.iter().find(|table| table.id == *source).map_or(sink.name.as_str(), |table| &table.name);
        warnings.push(format!("'late_topic' of '{name}' does nothing: no operator closes windows over its rows"));
    }
}

fn add_sinks(stage: &mut Stage, used: Vec<SinkId>) {
    for sink in used {
        if !stage.sinks.contains(&sink) {
            stage.sinks.push(sink);
        }
    }
}

fn sink_of(source: &SourceTable) -> Option<SinkTable> {
    let connector = source.connector.beside(source.options.late_topic.as_ref()?)?;
    Some(SinkTable {
        id: SinkId(0),
        name: format!("{} (late rows)", source.name),
        schema: schema(),
        primary_key: Vec::new(),
        mode: OutputMode::Append,
        connector,
    })
}

/// Returns the sources whose rows go over each edge. Edges lead forward, so one pass over the stages suffices.
fn reach(dataflow: &Dataflow) -> BTreeMap<EdgeId, BTreeSet<SourceId>> {
    let mut reach: BTreeMap<EdgeId, BTreeSet<SourceId>> = BTreeMap::new();
    for stage in &dataflow.stages {
        for Pipeline { inputs, output, .. } in &stage.pipelines {
            let PipelineOutput::Exchange(edge) = output else { continue };
            let of: BTreeSet<SourceId> = inputs.iter().flat_map(|one| sources_of(one, stage.input, &reach)).collect();
            reach.entry(*edge).or_default().extend(of);
        }
    }
    reach
}

fn sources_of(
    input: &PipelineInput,
    stage: StageInput,
    reach: &BTreeMap<EdgeId, BTreeSet<SourceId>>,
) -> BTreeSet<SourceId> {
    match (input, stage) {
        (PipelineInput::Source, StageInput::Source(source)) => BTreeSet::from([source]),
        (PipelineInput::Source, StageInput::Shards) => BTreeSet::new(),
        (PipelineInput::Edge(edge), _) => reach.get(edge).cloned().unwrap_or_default(),
    }
}
