//! Fuzzing of the SQL front end: text of any kind, and scripts that are nearly right.
//!
//! Owns: the scripts and how they are changed. Invariants: the compiler returns a query or an error with a
//! reason; it never panics, never overflows the stack, and ends in time. Every query can be explained.

use crate::harness::cases;
use crate::queries;
use highwater_planner::compile;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// More time than any script needs on a busy machine.
const IN_TIME: Duration = Duration::from_secs(60);

fn check(script: &str) {
    let begun = Instant::now();
    match compile(script) {
        Ok(query) => {
            assert!(!query.explain_text().is_empty() && query.explain_json().is_object());
            assert!(!query.fingerprint().is_empty());
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains("fault of Highwater"), "{text}\n{script}");
        }
    }
    assert!(begun.elapsed() < IN_TIME, "{:?}:\n{script}", begun.elapsed());
}

/// Returns scripts that compile, or nearly: the examples, those of the documentation, and random ones of all kinds.
fn corpus() -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut scripts: Vec<String> = std::fs::read_dir(format!("{root}/examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    scripts.sort();
    let page = std::fs::read_to_string(format!("{root}/docs/sql.md")).unwrap();
    let mut blocks = page.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let tables = blocks.next().unwrap().to_string();
    scripts.extend(blocks.map(|block| match block.contains("INSERT") {
        true => format!("{tables}\n{block}"),
        false => format!("{tables}\nCREATE VIEW fuzzed AS {block}"),
    }));
    scripts.extend(cases::fixed(60, &queries::query()).map(|query| query.script()));
    scripts
}

/// Splits a script into words, numbers, strings, signs and the blanks between them.
fn tokens(script: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = script;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' => rest[1..].find('\'').map_or(rest.len(), |end| end + 2),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c if c.is_whitespace() => rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after;
    }
    tokens
}

/// Returns the script with some tokens removed, doubled, exchanged, or replaced with those of other scripts.
fn changed(script: &str, words: &[&str], edits: &[(u16, u8, u16)]) -> String {
    let mut tokens = tokens(script);
    for (place, what, other) in edits {
        if tokens.is_empty() {
            break;
        }
        let place = usize::from(*place) % tokens.len();
        let other = usize::from(*other);
        match what % 7 {
            0 => drop(tokens.remove(place)),
            1 => tokens[place] = words[other % words.len()],
            2 => tokens.insert(place, words[other % words.len()]),
            3 => {
                let with = other % tokens.len();
                tokens.swap(place, with);
            }
            4 => {
                let part: Vec<&str> = tokens[place..].iter().copied().take(other % 40).collect();
                tokens.splice(place..place, part);
            }
            5 => drop(tokens.drain(place..(place + other % 12).min(tokens.len()))),
            _ => {
                let part: Vec<&str> = tokens[place..].iter().copied().take(4).collect();
                tokens.splice(place..place, part.repeat(other % 300));
            }
        }
    }
    tokens.concat()
}

#[test]
fn fuzz_sql_of_any_text() {
    bolero::check!().for_each(|bytes: &[u8]| check(&String::from_utf8_lossy(bytes)));
}

#[test]
fn fuzz_sql_that_is_nearly_right() {
    let corpus = corpus();
    let words: BTreeSet<&str> = corpus.iter().flat_map(|script| tokens(script)).collect();
    let words: Vec<&str> = words.into_iter().collect();
    bolero::check!().with_type::<(u16, Vec<(u16, u8, u16)>)>().for_each(|(script, edits)| {
        let edits = &edits[..edits.len().min(8)];
        check(&changed(&corpus[usize::from(*script) % corpus.len()], &words, edits));
    });
}

#[test]
fn what_is_changed_is_right_before() {
    let scripts = corpus();
    let right = scripts.iter().filter(|script| compile(script).is_ok()).count();
    assert!(right * 2 > scripts.len(), "{right} of {} compile", scripts.len());
    assert!(scripts.iter().all(|script| tokens(script).concat() == *script));
}
