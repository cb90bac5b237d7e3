//! Overlays, promotion, restoring: what a task sees and what becomes state.

use super::*;
use crate::dataflow::{Pipeline, PipelineInput, PipelineOutput, Stage, StageInput};
use crate::operators::complete::CompleteSpec;
use crate::operators::keyed_sink::KeyedSinkSpec;
use arrow::datatypes::Schema;
use highwater_protocol::ids::{AttemptNumber, EdgeId, Epoch, SinkId};

const OP: OperatorId = OperatorId(0);
const STAGE: StageId = StageId(0);

fn state() -> QueryState {
    let keyed = KeyedSinkSpec {
        op: OP,
        key: vec![],
        unique: false,
        close: None,
        watermark: vec![],
        schema: Arc::new(Schema::empty()),
    };
    let pipeline = Pipeline {
        late: Vec::new(),
        inputs: vec![PipelineInput::Edge(EdgeId(0))],
        ops: vec![Arc::new(keyed)],
        output: PipelineOutput::Sink(SinkId(0)),
    };
    let stage = Stage { id: STAGE, input: StageInput::Shards, pipelines: vec![pipeline], sinks: vec![SinkId(0)] };
    QueryState::new(&Dataflow { stages: vec![stage], ..Dataflow::default() })
}

fn attempt(number: u64) -> AttemptId {
    AttemptId { epoch: Epoch(1), number: AttemptNumber(number) }
}

fn value(close: i64, text: &str) -> Box<[u8]> {
    [&close.to_le_bytes()[..], text.as_bytes()].concat().into()
}

fn read(state: &QueryState, shard: u16, key: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let task = state.task(STAGE, shard..shard + 1).unwrap();
    task.read(OP, ShardId(shard), key.as_bytes(), &mut bytes).then_some(bytes)
}

#[test]
fn changes_are_tentative_until_their_attempt_is_promoted() {
    let state = state();
    state.load(0..2, &[]).unwrap();
    let mut task = state.task(STAGE, 0..2).unwrap();
    task.put(OP, ShardId(1), b"k", Some(value(NEVER, "v")));
    assert!(task.read(OP, ShardId(1), b"k", &mut Vec::new()), "a task sees its own changes");
    let (overlay, deltas) = task.finish();
    state.stage(attempt(1), overlay);
    assert_eq!(read(&state, 1, "k"), None);
    state.promote(attempt(1)).unwrap();
    assert_eq!(read(&state, 1, "k"), Some(value(NEVER, "v").to_vec()));
    let restored = self::state();
    restored.load(0..2, &[deltas[0].bytes.clone()]).unwrap();
    assert_eq!(read(&restored, 1, "k"), read(&state, 1, "k"));
}

#[test]
fn an_overlay_of_another_attempt_is_refused() {
    let state = state();
    state.load(0..1, &[]).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    task.put(OP, ShardId(0), b"k", Some(value(NEVER, "old")));
    state.stage(attempt(1), task.finish().0);
    assert!(matches!(state.promote(attempt(2)), Err(EngineError::WrongAttempt { .. })));
    assert_eq!(read(&state, 0, "k"), None);
    state.promote(attempt(3)).unwrap();
}

#[test]
fn due_keys_come_in_order_and_only_once() {
    let state = state();
    state.load(0..1, &[]).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    for (key, close) in [("b", 10), ("a", 10), ("c", 5), ("d", 11), ("e", NEVER)] {
        task.put(OP, ShardId(0), key.as_bytes(), Some(value(close, "")));
    }
    state.stage(attempt(1), task.finish().0);
    state.promote(attempt(1)).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    let keys = |task: &TaskState| task.due(OP, 10).into_iter().map(|(_, key)| key.to_vec()).collect::<Vec<_>>();
    assert_eq!(keys(&task), [b"c".to_vec(), b"a".to_vec(), b"b".to_vec()]);
    task.put(OP, ShardId(0), b"a", None);
    assert_eq!(keys(&task), [b"c".to_vec(), b"b".to_vec()]);
    let size = task.size(OP);
    assert_eq!((size.rows, size.removed, size.updated), (4, 1, 0));
    state.stage(attempt(2), task.finish().0);
    state.promote(attempt(2)).unwrap();
    assert_eq!(keys(&state.task(STAGE, 0..1).unwrap()), [b"c".to_vec(), b"b".to_vec()]);
}

#[test]
fn a_shard_that_is_not_owned_is_missing() {
    let state = state();
    state.load(0..2, &[]).unwrap();
    assert!(matches!(state.task(STAGE, 1..3), Err(EngineError::MissingShard(ShardId(2)))));
    state.forget([ShardId(0)].into_iter());
    assert_eq!(state.owned(), [ShardId(1)].into());
}

#[test]
fn memory_counts_what_an_entry_costs_and_goes_when_it_goes() {
    let state = state();
    state.load(0..1, &[]).unwrap();
    let put = |number: u64, value: Option<Box<[u8]>>| {
        let mut task = state.task(STAGE, 0..1).unwrap();
        task.put(OP, ShardId(0), b"key", value);
        let size = task.size(OP).bytes;
        let (overlay, _) = task.finish();
        state.stage(attempt(number), overlay);
        state.promote(attempt(number)).unwrap();
        let committed = state.task(STAGE, 0..1).unwrap().size(OP).bytes;
        assert_eq!(committed, size, "what a task foresees is what is kept");
        size
    };
    let kept = put(1, Some(value(NEVER, "v")));
    assert!(kept > 12, "more than its bytes: {kept}");
    assert!(put(2, Some(value(5, "v"))) > kept, "what closes is remembered by its time too");
    assert_eq!(put(3, Some(value(NEVER, "v"))), kept);
    assert_eq!(put(4, None), 0);
}

#[test]
fn a_stretch_is_walked_both_ways_with_the_tasks_own_changes() {
    let op = CompleteSpec { op: OP, schema: Arc::new(Schema::empty()) };
    let pipeline = Pipeline {
        inputs: vec![PipelineInput::Edge(EdgeId(0))],
        late: Vec::new(),
        ops: vec![Arc::new(op)],
        output: PipelineOutput::Sink(SinkId(0)),
    };
    let stage = Stage { id: STAGE, input: StageInput::Shards, pipelines: vec![pipeline], sinks: vec![SinkId(0)] };
    let state = QueryState::new(&Dataflow { stages: vec![stage], ..Dataflow::default() });
    state.load(0..1, &[]).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    for key in ["a1", "a3", "a5", "b1"] {
        task.put(OP, ShardId(0), key.as_bytes(), Some(value(NEVER, key)));
    }
    state.stage(attempt(1), task.finish().0);
    state.promote(attempt(1)).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    task.put(OP, ShardId(0), b"a2", Some(value(NEVER, "a2")));
    task.put(OP, ShardId(0), b"a3", None);
    let walked = |start: &str, end: Option<&str>, direction| {
        let mut keys = Vec::new();
        let stretch = Stretch { start: start.as_bytes(), end: end.map(str::as_bytes) };
        task.walk_stretch(OP, ShardId(0), stretch, direction, &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            std::ops::ControlFlow::Continue(())
        });
        keys
    };
    assert_eq!(walked("a", Some("a5"), Direction::Backward), ["a2", "a1"]);
    assert_eq!(walked("a2", Some("b"), Direction::Forward), ["a2", "a5"]);
    assert_eq!(walked("a2", None, Direction::Backward), ["b1", "a5", "a2"]);
    assert_eq!(walked("a5", Some("a5"), Direction::Forward), [""; 0]);
}

#[test]
fn state_of_an_operator_that_declares_none_is_refused() {
    let state = state();
    let mut delta = highwater_protocol::state_delta::DeltaWriter::new(OperatorId(7));
    delta.push(ShardId(0), b"k", Some(&value(NEVER, "v")));
    let loaded = state.load(0..1, &[delta.finish()]);
    assert!(matches!(loaded, Err(EngineError::UndeclaredState(OperatorId(7)))), "{loaded:?}");
    state.load(0..1, &[]).unwrap();
    let mut task = state.task(STAGE, 0..1).unwrap();
    task.put(OP, ShardId(0), b"k", Some(value(NEVER, "v")));
    task.check().unwrap();
    task.put(OperatorId(7), ShardId(0), b"k", Some(value(NEVER, "v")));
    assert!(matches!(task.check(), Err(EngineError::UndeclaredState(OperatorId(7)))));
}
