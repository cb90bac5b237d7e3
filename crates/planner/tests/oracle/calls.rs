//! Calls of operators to their store: their number does not grow with the keys of a batch, and the outcome does not depend
//! on the size of portions.
//!
//! Owns: a store that counts calls, and batches of every operator with state. Does not own: checking the rows. Invariant:
//! the test fails if no query here has some kind of operator.

use crate::harness::Records;
use crate::harness::fold::texts;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMillisecondArray};
use highwater_dataflow::changelog::ChangeBatch;
use highwater_dataflow::error::EngineError;
use highwater_dataflow::operator::{Running, StartContext};
use highwater_dataflow::runtime::BatchContext;
use highwater_dataflow::state::{Keys, QueryState, Scan, StateStore, Until, Values, Visit, Writes};
use highwater_dataflow::{PipelineInput, PipelineOutput, Stage, StageInput};
use highwater_planner::CompiledQuery;
use highwater_protocol::ids::{AttemptId, AttemptNumber, BatchId, EdgeId, Epoch, OperatorId, ShardId};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

const SHARDS: u16 = 4;
const WITH: &str = "WITH ('connector'='kafka','topic'='x','bootstrap.servers'='localhost:1','format'='json')";
const HOUR_MS: i64 = 3_600_000;

/// Passes calls on, and counts them.
struct Counting<'a> {
    store: &'a mut dyn StateStore,
    calls: Cell<u64>,
}

impl Counting<'_> {
    fn count(&self) {
        self.calls.set(self.calls.get() + 1);
    }
}

impl StateStore for Counting<'_> {
    fn shards(&self) -> Range<ShardId> {
        self.store.shards()
    }

    fn get(&self, operator: OperatorId, keys: &Keys, values: &mut Values) -> Result<(), EngineError> {
        self.count();
        self.store.get(operator, keys, values)
    }

    fn scan(&self, operator: OperatorId, scans: &[Scan<'_>], visit: Visit<'_>) -> Result<(), EngineError> {
        self.count();
        self.store.scan(operator, scans, visit)
    }

    fn due(&self, operator: OperatorId, until: Until, keys: &mut Keys) -> Result<(), EngineError> {
        self.count();
        self.store.due(operator, until, keys)
    }

    fn put(&mut self, operator: OperatorId, writes: &Writes) -> Result<(), EngineError> {
        self.count();
        self.store.put(operator, writes)
    }
}

/// The times of a batch. With `rows_ms`, all keys have a row with this event time; without, no key has a row.
#[derive(Clone, Copy)]
struct Batch {
    rows_ms: Option<i64>,
    watermark_ms: Option<i64>,
    now_ms: i64,
}

/// Batches in which keys appear, change, close, appear again, and expire.
const BATCHES: [Batch; 6] = [
    Batch { rows_ms: Some(1_000), watermark_ms: None, now_ms: HOUR_MS },
    Batch { rows_ms: Some(3_000), watermark_ms: Some(500), now_ms: HOUR_MS + 1 },
    Batch { rows_ms: Some(9_000), watermark_ms: Some(2_000), now_ms: HOUR_MS + 2 },
    Batch { rows_ms: None, watermark_ms: Some(100_000), now_ms: HOUR_MS + 3 },
    Batch { rows_ms: Some(101_000), watermark_ms: Some(100_000), now_ms: HOUR_MS + 4 },
    Batch { rows_ms: Some(102_000), watermark_ms: Some(200_000), now_ms: 9 * HOUR_MS },
];

/// A query that runs with one task per stage.
struct Run {
    query: CompiledQuery,
    state: QueryState,
    batches: u64,
    /// Bytes of a portion of scans; `None` = the default.
    portion_bytes: Option<usize>,
    /// Number of calls of each operator in each batch.
    calls: Calls,
    /// Sorted output of every pipeline, and changes of state.
    outcome: Vec<String>,
}

type Calls = BTreeMap<(&'static str, OperatorId, u64), u64>;

impl Run {
    fn new(script: &str, portion_bytes: Option<usize>) -> Self {
        let query = highwater_planner::compile(script).unwrap_or_else(|error| panic!("{error}\n{script}"));
        let state = QueryState::new(&query.dataflow);
        state.load(0..SHARDS, &[]).unwrap();
        Self { query, state, batches: 0, portion_bytes, calls: Calls::new(), outcome: Vec::new() }
    }

    fn commit(&mut self, batch: Batch, keys: i64) {
        let sources = self.query.sources.iter().map(|source| source.id);
        let times = |time: Option<i64>| sources.clone().filter_map(|id| Some((id, time?))).collect::<BTreeMap<_, _>>();
        let infos = self.query.dataflow.operators.iter();
        let before = self.batches.checked_sub(1).and_then(|before| BATCHES[before as usize].watermark_ms);
        let context = BatchContext {
            batch: BatchId(self.batches),
            timestamp_ms: batch.now_ms,
            late_before: times(before),
            close_before: times(batch.watermark_ms),
            shards: SHARDS,
            ttl: infos.filter_map(|info| Some((info.id, info.ttl_ms?))).collect(),
            ..BatchContext::default()
        };
        self.query.clock.set_ms(batch.now_ms);
        let attempt = AttemptId { epoch: Epoch(1), number: AttemptNumber(self.batches) };
        let mut edges: BTreeMap<EdgeId, Vec<ChangeBatch>> = BTreeMap::new();
        for stage in self.query.dataflow.stages.clone() {
            let records = self.records(&stage, batch, keys);
            self.run(&stage, &context, records.as_ref(), &mut edges, attempt);
        }
        self.state.promote(attempt).unwrap();
        self.batches += 1;
    }

    /// Returns rows of the source that a stage reads.
    fn records(&self, stage: &Stage, Batch { rows_ms, .. }: Batch, keys: i64) -> Option<RecordBatch> {
        let (StageInput::Source(source), Some(time)) = (stage.input, rows_ms) else { return None };
        let source = self.query.sources.iter().find(|one| one.id == source).unwrap();
        let columns: [(&str, ArrayRef); 3] = [
            ("k", Arc::new(Int64Array::from_iter_values(0..keys))),
            ("n", Arc::new(Int64Array::from_iter_values((0..keys).map(|key| key + time)))),
            ("ts", Arc::new(TimestampMillisecondArray::from(vec![time; keys as usize]))),
        ];
        let mut records = Records::default();
        records.append(&source.name, 0, RecordBatch::try_from_iter(columns).unwrap());
        let rows = records.of(source).remove(&0).unwrap();
        let layout = source.layout();
        let columns = layout.fields().iter().map(|field| rows.column_by_name(field.name()).unwrap().clone());
        Some(RecordBatch::try_new(layout.clone(), columns.collect()).unwrap())
    }

    fn run(
        &mut self,
        stage: &Stage,
        context: &BatchContext,
        records: Option<&RecordBatch>,
        edges: &mut BTreeMap<EdgeId, Vec<ChangeBatch>>,
        attempt: AttemptId,
    ) {
        let shards = if stage.input == StageInput::Shards { 0..SHARDS } else { 0..0 };
        let mut task = self.state.task(stage.id, shards).unwrap();
        for pipeline in &stage.pipelines {
            let start = StartContext { batch: context, sink: "o" };
            let mut ops: Vec<Running> = pipeline.ops.iter().map(|op| op.start(&start).unwrap()).collect();
            let mut done = Vec::new();
            for (port, input) in pipeline.inputs.iter().enumerate() {
                let rows = match input {
                    PipelineInput::Source => records.into_iter().cloned().map(ChangeBatch::inserts).collect(),
                    PipelineInput::Edge(edge) => edges.get(edge).cloned().unwrap_or_default(),
                };
                rows.into_iter().for_each(|rows| push(&mut ops, port, rows, &mut done));
            }
            for place in 0..ops.len() {
                let (before, after) = ops.split_at_mut(place + 1);
                let Running::Stateful(operator) = &mut before[place] else { continue };
                self.portion_bytes.into_iter().for_each(|bytes| operator.scan_at_once(bytes));
                let (store, growth) = task.parts();
                let mut counting = Counting { store, calls: Cell::new(0) };
                let (given, _) = operator.finish_on(&mut counting, growth).unwrap();
                let calls = counting.calls.get();
                if let Some(state) = pipeline.ops[place].state() {
                    *self.calls.entry((state.kind, state.operator, self.batches)).or_default() += calls;
                }
                given.into_iter().for_each(|rows| push(after, 0, rows, &mut done));
            }
            self.outcome.extend(sorted(&done));
            if let PipelineOutput::Exchange(edge) = pipeline.output {
                edges.entry(edge).or_default().extend(done);
            }
        }
        let (overlay, deltas) = task.finish();
        self.outcome
            .extend(deltas.iter().map(|delta| format!("{:?} {} {:?}", delta.operator, delta.keys, delta.digest)));
        self.state.stage(attempt, overlay);
    }
}

/// Returns rows with their weights as text, sorted.
fn sorted(rows: &[ChangeBatch]) -> Vec<String> {
    let of = |rows: &ChangeBatch| {
        let texts = texts(&rows.batch).into_iter().enumerate();
        texts.map(|(row, text)| format!("{:+} {text:?}", rows.weight(row))).collect::<Vec<_>>()
    };
    let mut all: Vec<String> = rows.iter().flat_map(of).collect();
    all.sort();
    all
}

fn push(ops: &mut [Running], port: usize, rows: ChangeBatch, done: &mut Vec<ChangeBatch>) {
    if rows.num_rows() == 0 {
        return;
    }
    match ops.split_first_mut() {
        None => done.push(rows),
        Some((Running::Stateful(operator), _)) => operator.push(port, rows).unwrap(),
        Some((Running::Rows(operator), after)) => {
            let mut pieces = Vec::new();
            operator
                .apply(rows, &mut |piece| {
                    pieces.push(piece);
                    Ok(())
                })
                .unwrap();
            pieces.into_iter().for_each(|piece| push(after, 0, piece, done));
        }
    }
}

/// Queries of every operator with state, with each of its kinds of access to state.
const QUERIES: [(&str, &str); 20] = [
    ("k BIGINT, c BIGINT, PRIMARY KEY (k) NOT ENFORCED", "SELECT k, count(*) FROM p GROUP BY k"),
    (
        "e TIMESTAMP(3), k BIGINT, c BIGINT",
        "SELECT window_end, k, count(*) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '2' SECOND)) \
         GROUP BY window_start, window_end, k",
    ),
    (
        "k BIGINT, c BIGINT, d BIGINT, PRIMARY KEY (k) NOT ENFORCED",
        "SELECT k % 1000003, CAST(median(n) AS BIGINT), min(n) FROM q GROUP BY k % 1000003",
    ),
    (
        "k BIGINT, n BIGINT, c BIGINT, PRIMARY KEY (k, n) NOT ENFORCED",
        "SELECT k, n, sum(n) OVER (PARTITION BY k ORDER BY n) FROM p",
    ),
    (
        "k BIGINT, n BIGINT, c BIGINT, PRIMARY KEY (k, n) NOT ENFORCED",
        "SELECT k, n, lag(n) OVER (PARTITION BY k % 1000003 ORDER BY n) FROM q",
    ),
    (
        "k BIGINT, n BIGINT, PRIMARY KEY (k, n) NOT ENFORCED",
        "SELECT k, n FROM (SELECT k, n, row_number() OVER (PARTITION BY k ORDER BY n) AS i FROM p) a WHERE i <= 2",
    ),
    (
        "k BIGINT, n BIGINT, PRIMARY KEY (k, n) NOT ENFORCED",
        "SELECT k, n FROM (SELECT k, n, rank() OVER (PARTITION BY k % 1000003 ORDER BY n) AS i FROM q) a WHERE i <= 2",
    ),
    (
        "e TIMESTAMP(3), k BIGINT, n BIGINT",
        "SELECT window_end, k, n FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end, k \
         ORDER BY n) AS i FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '2' SECOND))) a WHERE i <= 1",
    ),
    (
        "s TIMESTAMP(3), e TIMESTAMP(3), k BIGINT, c BIGINT",
        "SELECT window_start, window_end, k, count(*) FROM TABLE(SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), \
         INTERVAL '4' SECOND)) GROUP BY window_start, window_end, k",
    ),
    (
        "s TIMESTAMP(3), e TIMESTAMP(3), k BIGINT, c BIGINT, PRIMARY KEY (s, e, k) NOT ENFORCED",
        "SELECT window_start, window_end, k, count(*) FROM TABLE(SESSION(TABLE w PARTITION BY k, DESCRIPTOR(ts), \
         INTERVAL '4' SECOND)) GROUP BY window_start, window_end, k",
    ),
    (
        "s TIMESTAMP(3), e TIMESTAMP(3), k BIGINT, c BIGINT, PRIMARY KEY (s, e, k) NOT ENFORCED",
        "SELECT window_start, window_end, k, count(*) FROM TABLE(SESSION(TABLE x PARTITION BY k, DESCRIPTOR(ts), \
         INTERVAL '4' SECOND)) GROUP BY window_start, window_end, k",
    ),
    (
        "k BIGINT, n BIGINT, m BIGINT, PRIMARY KEY (k, n) NOT ENFORCED",
        "SELECT p.k, p.n, q.n FROM p LEFT JOIN q ON p.k = q.k",
    ),
    ("k BIGINT, n BIGINT, PRIMARY KEY (k, n) NOT ENFORCED", "SELECT k, n FROM p WHERE k IN (SELECT k FROM q)"),
    (
        "k BIGINT, n BIGINT, m BIGINT",
        "SELECT t.k, t.n, u.n FROM t LEFT JOIN u ON t.k = u.k AND u.ts BETWEEN t.ts AND t.ts + INTERVAL '2' SECOND",
    ),
    (
        "k BIGINT, n BIGINT, m BIGINT",
        "SELECT t.k, t.n, r.n FROM t LEFT JOIN r FOR SYSTEM_TIME AS OF t.ts AS r ON t.k = r.k",
    ),
    (
        "k BIGINT, n BIGINT, m BIGINT, PRIMARY KEY (k, n) NOT ENFORCED",
        "SELECT t.k, t.n, r.n FROM t LEFT JOIN r FOR SYSTEM_TIME AS OF t.ts AS r ON t.k = r.k",
    ),
    ("k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED", "SELECT k % 1000003, n FROM q"),
    (
        "k BIGINT, n BIGINT",
        "SELECT k, n FROM (SELECT k, n, row_number() OVER (PARTITION BY k ORDER BY pt) AS i FROM p) a WHERE i = 1",
    ),
    ("k BIGINT, n BIGINT", "SELECT k, n FROM q"),
    ("k BIGINT, n BIGINT", "SELECT DISTINCT k, n FROM p"),
];

fn script(ttl: bool, (columns, select): (&str, &str)) -> String {
    let ttl = if ttl { "SET state_ttl = '1 hour';" } else { "" };
    // Rows of a table that takes some back fit no sink but a complete one.
    let complete = if select == "SELECT k, n FROM q" { "SET output_mode = 'complete';" } else { "" };
    format!(
        "SET shards = {SHARDS}; {ttl} {complete}
         CREATE TABLE p (k BIGINT, n BIGINT, pt AS proctime()) {WITH};
         CREATE TABLE q (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) {WITH};
         CREATE TABLE x (k BIGINT, n BIGINT, ts TIMESTAMP(3)) {WITH};
         CREATE TABLE w (k BIGINT, n BIGINT, ts TIMESTAMP(3), PRIMARY KEY (k) NOT ENFORCED) {WITH};
         CREATE TABLE t (k BIGINT, n BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) {WITH};
         CREATE TABLE u (k BIGINT, n BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) {WITH};
         CREATE TABLE r (k BIGINT, n BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts, PRIMARY KEY (k) NOT ENFORCED) {WITH};
         CREATE TABLE o ({columns}) {WITH}; INSERT INTO o {select};"
    )
}

/// Returns every query, with and without TTL.
fn scripts() -> impl Iterator<Item = (&'static str, String)> {
    QUERIES.iter().flat_map(|query| [false, true].map(|ttl| (query.1, script(ttl, *query))))
}

fn run(script: &str, keys: i64, portion_bytes: Option<usize>) -> Run {
    let mut run = Run::new(script, portion_bytes);
    BATCHES.iter().for_each(|batch| run.commit(*batch, keys));
    run
}

#[test]
fn no_operator_calls_its_store_more_often_for_more_keys() {
    let (mut kinds, mut wrong) = (BTreeSet::new(), Vec::new());
    for (query, script) in scripts() {
        let (few, many) = (run(&script, 40, None).calls, run(&script, 160, None).calls);
        assert_eq!(few.keys().collect::<Vec<_>>(), many.keys().collect::<Vec<_>>());
        for (of @ (kind, _, batch), few) in &few {
            kinds.insert(*kind);
            if many[of] != *few {
                wrong.push(format!("{kind}, batch {batch}: {few} calls, then {}: {query}", many[of]));
            }
        }
    }
    assert!(wrong.is_empty(), "more calls for four times the keys:\n{}", wrong.join("\n"));
    let all = [
        "aggregate",
        "complete result",
        "first row",
        "join",
        "keyed sink",
        "keyed source",
        "over",
        "retracting aggregate",
        "session",
        "temporal join",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), all);
}

#[test]
fn an_operator_that_scans_little_at_once_does_the_same() {
    let mut calls = [0, 0];
    for (query, script) in scripts() {
        let whole = run(&script, 40, None);
        // A key at a time, and some of them.
        for bytes in [1, 500] {
            let parts = run(&script, 40, Some(bytes));
            assert!(whole.outcome == parts.outcome, "{bytes} bytes at once: {query}");
            [&whole, &parts].into_iter().zip(&mut calls).for_each(|(run, sum)| *sum += run.calls.values().sum::<u64>());
        }
    }
    assert!(calls[1] > 2 * calls[0], "{calls:?}: keys were not scanned apart");
}
