//! The 24 queries, as files of this repository (`crates/cli/nexmark`).
//!
//! Owns: which queries there are, and their scripts with the topics and files of one run. Does not own: what they
//! compute, which is in the files. Invariant: each file is a complete script for the topics that it names.

use crate::failure::Failure;

/// The streams all queries read.
const TABLES: &str = include_str!("../../../nexmark/tables.sql");

/// The Kafka address in the files of [`TABLES`] and the queries.
const SERVERS: &str = "'localhost:9092'";
/// The beginning of the topic names in these files.
const TOPICS: &str = "'nexmark-";
/// The file that q13 looks up.
const SIDE_INPUT: &str = "'nexmark-side-input.csv'";

/// One query of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// `q0` to `q23`.
    pub name: &'static str,
    sql: &'static str,
}

macro_rules! queries {
    ($($name:literal),+) => {
        [$(Query { name: $name, sql: include_str!(concat!("../../../nexmark/", $name, ".sql")) }),+]
    };
}

/// All queries, in order.
pub const QUERIES: [Query; 24] = queries!(
    "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "q8", "q9", "q10", "q11", "q12", "q13", "q14", "q15", "q16", "q17",
    "q18", "q19", "q20", "q21", "q22", "q23"
);

/// What a run inserts into the scripts.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub bootstrap_servers: String,
    /// Prefix of the names of event topics, before a hyphen.
    pub events: String,
    /// Prefix of the names of result topics, before a hyphen.
    pub results: String,
    /// Path of the side input.
    pub side_input: String,
    /// Maximum records of a table in one micro-batch; `None`: no limit.
    pub batch_records: Option<u64>,
}

impl Query {
    /// Returns the queries of these names; `all` means all queries.
    pub fn named(names: &[String]) -> Result<Vec<Self>, Failure> {
        let mut found: Vec<Self> = Vec::new();
        for name in names {
            let name = name.trim().to_lowercase();
            let matching = QUERIES.into_iter().filter(|query| name == "all" || query.name == name);
            let before = found.len();
            found.extend(matching);
            if found.len() == before {
                return Err(Failure::invalid(format!("unknown query '{name}': write q0 to q23, or all")));
            }
        }
        Ok(found)
    }

    /// The script as it is in the repository.
    pub fn script(self) -> String {
        format!("{TABLES}\n{}", self.sql)
    }

    /// The script for one run.
    pub fn script_at(self, places: &Places) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let events = format!("'{}-", places.events);
        let tables = TABLES.replace(TOPICS, &events);
        let query = self.sql.replace(SIDE_INPUT, &quoted(&places.side_input));
        let query = query.replace(TOPICS, &format!("'{}-", places.results));
        let limit = places.batch_records.map(|records| format!("SET max_offsets_per_trigger = {records};\n"));
        let script = format!("{}{tables}\n{query}", limit.unwrap_or_default());
        script.replace(SERVERS, &quoted(&places.bootstrap_servers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            bootstrap_servers: "kafka:4711".into(),
            events: "run-1".into(),
            results: "run-2".into(),
            side_input: "/tmp/o'side.csv".into(),
            batch_records: Some(77),
        }
    }

    #[test]
    fn every_query_compiles_as_it_is_and_for_a_run() {
        for query in QUERIES {
            for script in [query.script(), query.script_at(&places())] {
                if let Err(error) = highwater_planner::compile(&script) {
                    panic!("{}: {error}\n{script}", query.name);
                }
            }
        }
    }

    #[test]
    fn a_run_has_its_own_topics_and_files() {
        for query in QUERIES {
            let script = query.script_at(&places());
            for left in [SERVERS, TOPICS, SIDE_INPUT] {
                assert!(!script.contains(left), "{left} is left in {}", query.name);
            }
            for part in ["'kafka:4711'", "'run-1-bid'", &format!("'run-2-{}'", query.name), "trigger = 77"] {
                assert!(script.contains(part), "{part} is missing in {}", query.name);
            }
        }
        assert!(QUERIES[13].script_at(&places()).contains("'path' = '/tmp/o''side.csv'"));
    }

    #[test]
    fn queries_by_name() {
        let named = |names: &[&str]| Query::named(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        assert_eq!(named(&["all"]).unwrap().len(), 24);
        let two: Vec<&str> = named(&["Q5", " q23"]).unwrap().iter().map(|query| query.name).collect();
        assert_eq!(two, ["q5", "q23"]);
        assert_eq!(named(&["q5", "q24"]).unwrap_err().exit_code(), 2);
    }
}
