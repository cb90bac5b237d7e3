//! Compares the store in memory with a model of [`StateStore`] in plain loops.
//!
//! Owns: the model and random batches of calls. Does not own: promotion, restoring, memory (`tests`).

use super::keeps_tests::Keeps;
use super::*;
use crate::{Pipeline, PipelineInput, PipelineOutput, Stage, StageInput};
use highwater_protocol::ids::{AttemptNumber, EdgeId, Epoch, SinkId};
use proptest::prelude::*;
use std::ops::ControlFlow;

const OP: OperatorId = OperatorId(0);
const STAGE: StageId = StageId(0);
const SHARDS: u16 = 3;

type Entries = Vec<(ShardId, Vec<u8>, Vec<u8>)>;

/// A store that keeps everything in one list.
#[derive(Default)]
struct Model {
    committed: Entries,
    changes: Vec<(ShardId, Vec<u8>, Option<Vec<u8>>)>,
}

impl Model {
    /// Returns the committed entries with the changes applied, by shard and key.
    fn entries(&self) -> Entries {
        let mut all: BTreeMap<(ShardId, Vec<u8>), Vec<u8>> = BTreeMap::new();
        all.extend(self.committed.iter().map(|(shard, key, value)| ((*shard, key.clone()), value.clone())));
        for (shard, key, value) in &self.changes {
            match value {
                Some(value) => all.insert((*shard, key.clone()), value.clone()),
                None => all.remove(&(*shard, key.clone())),
            };
        }
        all.into_iter().map(|((shard, key), value)| (shard, key, value)).collect()
    }

    fn owned(&self, shard: ShardId) -> Result<(), EngineError> {
        if self.shards().contains(&shard) { Ok(()) } else { Err(EngineError::MissingShard(shard)) }
    }
}

impl StateStore for Model {
    fn shards(&self) -> Range<ShardId> {
        ShardId(0)..ShardId(SHARDS)
    }

    fn get(&self, _: OperatorId, keys: &Keys, values: &mut Values) -> Result<(), EngineError> {
        values.clear();
        let entries = self.entries();
        for (shard, key) in keys.iter() {
            self.owned(shard)?;
            let found = entries.iter().find(|(of, known, _)| *of == shard && known == key);
            values.push(found.map(|(_, _, value)| value.as_slice()));
        }
        Ok(())
    }

    fn scan(&self, _: OperatorId, scans: &[Scan<'_>], visit: Visit<'_>) -> Result<(), EngineError> {
        for (place, scan) in scans.iter().enumerate() {
            self.owned(scan.shard)?;
            let within = |key: &[u8]| match scan.keys {
                Stretch::Prefix(prefix) => key.starts_with(prefix),
                Stretch::Range { start, end } => key >= start && end.is_none_or(|end| key < end),
            };
            let mut entries = self.entries();
            entries.retain(|(shard, key, _)| *shard == scan.shard && within(key));
            if scan.direction == Direction::Backward {
                entries.reverse();
            }
            for (_, key, value) in entries {
                if visit(place, &key, &value)?.is_break() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn due(&self, _: OperatorId, until: Until, keys: &mut Keys) -> Result<(), EngineError> {
        let is_due = |close_ms: i64| match until {
            Until::Watermark(time) => close_ms >= i64::MIN / 2 && close_ms <= time,
            Until::Clock(time) => close_ms < i64::MIN / 2 && close_ms <= expires_at(time),
        };
        let mut due: Vec<_> = self.committed.iter().map(|(shard, key, value)| (*shard, close_of(value), key)).collect();
        due.retain(|(shard, close_ms, key)| {
            is_due(*close_ms) && !self.changes.iter().any(|(of, changed, _)| of == shard && changed == *key)
        });
        due.sort();
        due.into_iter().for_each(|(shard, _, key)| keys.push(shard, &[key]));
        Ok(())
    }

    fn put(&mut self, _: OperatorId, writes: &Writes) -> Result<(), EngineError> {
        for (shard, key, value) in writes.iter() {
            self.owned(shard)?;
            self.changes.push((shard, key.to_vec(), value.map(<[u8]>::to_vec)));
        }
        Ok(())
    }
}

/// One batch of calls: writes, then reads.
#[derive(Clone, Debug)]
struct Calls {
    writes: Vec<(u16, Vec<u8>, Option<i64>)>,
    scans: Vec<ScanCall>,
    until: i64,
    /// True if the writes are committed afterwards.
    commits: bool,
}

#[derive(Clone, Debug)]
struct ScanCall {
    shard: u16,
    start: Vec<u8>,
    /// `None`: all keys that begin with `start`.
    end: Option<Vec<u8>>,
    direction: Direction,
    /// Number of entries after which the scan breaks off.
    most: usize,
}

impl ScanCall {
    fn scan(&self) -> Scan<'_> {
        let (start, shard) = (self.start.as_slice(), ShardId(self.shard));
        let keys = match self.end.as_deref() {
            Some(end) => Stretch::Range { start: start.min(end), end: Some(start.max(end)) },
            None => Stretch::Prefix(start),
        };
        Scan { shard, keys, direction: self.direction }
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..4)
}

fn calls() -> impl Strategy<Value = Calls> {
    let close = prop_oneof![(0i64..9).prop_map(closes_at), (0i64..9).prop_map(expires_at), Just(NEVER)];
    let write = (0..SHARDS, key(), prop::option::weighted(0.7, close));
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Backward)];
    let scan = (0..SHARDS, key(), prop::option::of(key()), direction, 1usize..5)
        .prop_map(|(shard, start, end, direction, most)| ScanCall { shard, start, end, direction, most });
    let (writes, scans) = (prop::collection::vec(write, 0..12), prop::collection::vec(scan, 0..6));
    (writes, scans, 0i64..9, any::<bool>()).prop_map(|(writes, scans, until, commits)| Calls {
        writes,
        scans,
        until,
        commits,
    })
}

/// Runs the calls, and returns the results of all reads.
fn seen(store: &mut dyn StateStore, calls: &Calls) -> Vec<String> {
    let (mut writes, mut keys, mut values) = (Writes::default(), Keys::default(), Values::default());
    for (shard, key, close) in &calls.writes {
        let (head, tail) = key.split_at(key.len() / 2);
        match close {
            Some(close) => writes.put(ShardId(*shard), &[head, tail], &[&close.to_le_bytes(), key]),
            None => writes.delete(ShardId(*shard), &[head, tail]),
        }
        keys.push(ShardId(*shard), &[head, tail]);
        keys.push(ShardId((shard + 1) % SHARDS), &[key]);
    }
    store.put(OP, &writes).unwrap();
    store.get(OP, &keys, &mut values).unwrap();
    let mut seen: Vec<String> =
        (0..keys.len()).map(|at| format!("{:?} is {:?}", keys.get(at), values.get(at))).collect();
    let scans: Vec<Scan<'_>> = calls.scans.iter().map(ScanCall::scan).collect();
    let mut visited = vec![0; scans.len()];
    let visit: Visit<'_> = &mut |place, key, value| {
        seen.push(format!("scan {place}: {key:?} {value:?}"));
        visited[place] += 1;
        Ok(if visited[place] >= calls.scans[place].most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    store.scan(OP, &scans, visit).unwrap();
    for until in [Until::Watermark(calls.until), Until::Clock(calls.until)] {
        let mut due = Keys::default();
        store.due(OP, until, &mut due).unwrap();
        seen.extend(due.iter().map(|(shard, key)| format!("{until:?}: {shard} {key:?}")));
    }
    let mut elsewhere = Keys::default();
    elsewhere.push(ShardId(SHARDS), &[b"k"]);
    seen.push(format!("{:?}", store.get(OP, &elsewhere, &mut values)));
    seen.push(format!("{:?}", store.scan(OP, &[Scan::prefix(ShardId(SHARDS), b"")], &mut |_, _, _| unreachable!())));
    let mut foreign = Writes::default();
    foreign.delete(ShardId(SHARDS), &[b"k"]);
    seen.push(format!("{:?}", store.put(OP, &foreign)));
    seen
}

fn state() -> QueryState {
    let pipeline = Pipeline {
        inputs: vec![PipelineInput::Edge(EdgeId(0))],
        late: Vec::new(),
        ops: vec![Arc::new(Keeps(OP, Layout::Ordered))],
        output: PipelineOutput::Sink(SinkId(0)),
    };
    let stage = Stage { id: STAGE, input: StageInput::Shards, pipelines: vec![pipeline], sinks: vec![SinkId(0)] };
    let state = QueryState::new(&Dataflow { stages: vec![stage], ..Dataflow::default() });
    state.load(0..SHARDS, &[]).unwrap();
    state
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_in_memory_does_what_the_model_does(batches in prop::collection::vec(calls(), 1..6)) {
        let (state, mut model) = (state(), Model::default());
        let mut task = state.task(STAGE, 0..SHARDS).unwrap();
        for (number, calls) in batches.iter().enumerate() {
            prop_assert_eq!(seen(task.parts().0, calls), seen(&mut model, calls));
            if calls.commits {
                let attempt = AttemptId { epoch: Epoch(1), number: AttemptNumber(number as u64) };
                state.stage(attempt, task.finish().0);
                state.promote(attempt).unwrap();
                task = state.task(STAGE, 0..SHARDS).unwrap();
                model.committed = model.entries();
                model.changes.clear();
            }
        }
    }
}
