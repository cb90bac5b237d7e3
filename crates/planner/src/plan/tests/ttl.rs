//! `state_ttl`: to which operators it applies, and the warnings without it.

use super::*;

const JOIN: &str = "INSERT INTO keyed SELECT a.card, b.id FROM plain a JOIN plain b ON a.id = b.id;";

#[test]
fn it_bounds_what_nothing_else_bounds() {
    let sql = format!(
        "SET state_ttl = '1 hour';
         INSERT INTO keyed SELECT card, count(*) FROM plain GROUP BY card;
         INSERT INTO keyed_windows SELECT window_start, card, count(*) FROM {TUMBLE} GROUP BY window_start, card;
         INSERT INTO rows_out SELECT DISTINCT card, id FROM plain;"
    );
    let query = good(&sql);
    assert!(query.warnings.is_empty(), "{:?}", query.warnings);
    let told: Vec<(&str, Option<&str>, Option<i64>)> = query
        .dataflow
        .operators
        .iter()
        .map(|info| (info.name.as_str(), info.bounded_by.as_deref(), info.ttl_ms))
        .collect();
    let batch = Some("its batch: a key has one row at most");
    assert_eq!(
        told,
        [
            ("aggregate", Some("state_ttl 1 hour"), Some(3_600_000)),
            ("keyed sink", batch, None),
            ("aggregate", Some("window_start, by the watermark of pay"), None),
            ("keyed sink", batch, None),
            ("distinct", Some("state_ttl 1 hour"), Some(3_600_000)),
            ("event time", Some("its batch: it keeps no rows"), None),
        ]
    );
    assert!(query.explain_text().contains("bounded by state_ttl 1 hour"), "{}", query.explain_text());
}

#[test]
fn flinks_name_and_zero_mean_the_same_as_there() {
    let ttl = |set: &str| good(&format!("{set} {JOIN}")).options.state_ttl_ms;
    assert_eq!(ttl("SET 'table.exec.state.ttl' = '30 min';"), Some(1_800_000));
    assert_eq!(ttl("SET stateTtl = '90 s';"), Some(90_000));
    for never in ["SET table.exec.state.ttl = '0 ms';", "SET state_ttl = '0';", "SET state_ttl = 'never';", ""] {
        assert_eq!(ttl(never), None, "{never}");
    }
    assert_ne!(good(JOIN).fingerprint(), good(&format!("SET state_ttl = '1 h'; {JOIN}")).fingerprint());
}

#[test]
fn without_it_the_warning_names_it() {
    let warnings = good(JOIN).warnings;
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|warning| warning.contains("SET state_ttl")), "{warnings:?}");
}

#[test]
fn wrong_values_and_places_are_refused() {
    let wrong = bad("SET state_ttl = 'an hour';");
    assert!(wrong.contains("'an hour' is not a value of 'state_ttl'"), "{wrong}");
    let near = bad("SET state_tll = '1 hour';");
    assert!(near.contains("unknown setting 'state_tll'") && near.contains("state_ttl"), "{near}");
}
