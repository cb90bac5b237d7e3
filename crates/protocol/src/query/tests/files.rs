//! Files that rows look up: each plan has its version of them.

use super::*;
use crate::files::{FileContent, FileVersions};
use crate::query::RunState;

fn version(text: &str) -> FileVersions {
    [("items".to_string(), vec![FileContent::of(text.as_bytes())])].into()
}

fn with_files() -> QueryConfig {
    QueryConfig { looks_up_files: true, ..config() }
}

#[test]
fn nothing_is_planned_before_the_files_are_read() {
    // given
    let mut query = Query::new(with_files());
    query.tell(executors(&[(1, 1)]));
    // when
    assert_eq!(query.tell(available(1, &[(0, 3)])), vec![]);
    assert_eq!(query.machine.state(), RunState::Starting);
    assert_eq!(query.tell(Event::FilesUnreadable { message: "no such file".into() }), vec![]);
    // then
    assert_eq!(query.machine.state(), RunState::Waiting("no such file".into()));
    assert_eq!(names(&query.tell(Event::Files(version("a")))), ["release", "run"]);
    assert_eq!((query.machine.state(), query.run().plan.files.clone()), (RunState::Running, version("a")));
}

#[test]
fn a_batch_keeps_its_version_and_the_next_one_gets_the_newest() {
    // given
    let mut query = Query::new(with_files());
    query.tell(executors(&[(1, 1)]));
    query.tell(Event::Files(version("a")));
    query.tell(available(1, &[(0, 3)]));
    // when
    assert_eq!(query.tell(Event::Files(version("b"))), vec![], "the batch under way looks up the old one");
    query.tell(Event::FilesUnreadable { message: "no such file".into() });
    // then
    assert_eq!(query.machine.state(), RunState::Running, "a version that is known stays in use");
    let record = committed(&query.complete()).record.clone();
    assert_eq!(record.plan.files, version("a"));
    query.tell(available(1, &[(0, 4)]));
    assert_eq!(query.run().plan.files, version("b"));
    query.complete();
    let actions = query.tell(Event::Files(version("c")));
    assert_eq!(actions, [Action::ReleaseFiles { before: version("c") }], "nothing is under way");
}

#[test]
fn a_prepared_batch_is_finished_with_its_version_before_the_files_are_read() {
    let prepared = |files: FileVersions| {
        let (_, record) = Query::preparing();
        let mut record = (*record).clone();
        record.plan.files = files;
        record
    };
    // given
    let mut query = Query::restarted(with_files(), &prepared(version("a")), 5_000, Resolution::NotPublished);
    // when
    query.tell(executors(&[(1, 1)]));
    // then
    assert_eq!(query.run().plan.files, version("a"));
    // given: a record written before versions were recorded
    let mut query = Query::restarted(with_files(), &prepared(FileVersions::new()), 5_000, Resolution::NotPublished);
    // when
    query.tell(executors(&[(1, 1)]));
    // then
    assert!(query.running.is_none());
    query.tell(Event::Files(version("b")));
    assert_eq!(query.run().plan.files, version("b"));
}
