//! Options of connectors: what is refused, and what is shown of secrets.

use crate::{CompiledQuery, compile};
use highwater_connector_spec::{CONNECTORS, Default};
use highwater_sql::error::Result;

fn table(options: &str) -> Result<CompiledQuery> {
    compile(&format!(
        "CREATE TABLE a (x BIGINT) WITH ('connector' = 'kafka', 'topic' = 'a', 'format' = 'json',
           'bootstrap.servers' = 'h:1' {options});
         CREATE TABLE b (x BIGINT) WITH ('connector' = 'console');
         INSERT INTO b SELECT x FROM a;"
    ))
}

fn refused(option: &str, value: &str) -> String {
    table(&format!(", '{option}' = '{value}'")).unwrap_err().to_string()
}

#[test]
fn a_property_that_is_not_listed_is_refused_with_the_reason() {
    assert!(table(", 'kafka.linger.ms' = '5', 'kafka.ssl.ca.location' = '/ca.pem'").is_ok());
    for (property, reason) in [
        ("plugin.library.paths", "loads code"),
        ("ssl.engine.location", "loads code"),
        ("debug", "RUST_LOG"),
        ("log.queue", "RUST_LOG"),
        ("sasl.kerberos.kinit.cmd", "Kerberos is not supported"),
        ("oauthbearer_token_refresh_cb", "callback function of the client"),
        ("enable.idempotence", "exactly-once depends on it"),
        ("sasl.pasword", "did you mean 'kafka.sasl.password'?"),
        ("zzz", "docs/connectors.md"),
    ] {
        let error = refused(&format!("kafka.{property}"), "x");
        assert!(error.contains(reason) && error.contains(property), "{error}");
    }
}

#[test]
fn only_secrets_logins_and_paths_take_references() {
    for property in ["sasl.password", "sasl.username", "ssl.ca.location"] {
        assert!(table(&format!(", 'kafka.{property}' = '${{env:X}}'")).is_ok(), "{property}");
    }
    for property in ["client.id", "sasl.oauthbearer.token.endpoint.url", "group.id"] {
        let error = refused(&format!("kafka.{property}"), "${env:X}");
        assert!(error.contains("secrets and paths"), "{error}");
    }
}

#[test]
fn mechanisms_nobody_knows_are_refused_wherever_they_stand() {
    let error = refused("kafka.sasl.mechanism", "GSSAPI");
    assert!(error.starts_with("line 2, column ") && error.contains("SCRAM-SHA-256"), "{error}");
    assert!(refused("kafka.sasl.oauthbearer.method", "default").contains("oidc"));
    let sql = "SET 'kafka.sasl.mechanism' = 'GSSAPI';
        CREATE TABLE a (x BIGINT) WITH ('connector' = 'kafka', 'topic' = 'a', 'format' = 'json', 'bootstrap.servers' = 'h:1');
        CREATE TABLE b (x BIGINT) WITH ('connector' = 'console'); INSERT INTO b SELECT x FROM a;";
    let error = compile(sql).unwrap_err().to_string();
    assert!(error.starts_with("line 1, column 30: 'GSSAPI' is not a supported login mechanism"), "{error}");
}

#[test]
fn an_option_of_another_connector_is_refused_with_its_owner() {
    let error = refused("path", "/x");
    assert!(error.contains("the kafka connector has no option 'path'"), "{error}");
    assert!(error.contains("'connector' = 'filesystem'"), "{error}");
    let console = |options: &str| {
        let sql = format!("CREATE TABLE b (x BIGINT) WITH ('connector' = 'console', {options});");
        compile(&sql).unwrap_err().to_string()
    };
    assert!(console("'topic' = 't'").contains("the console connector has no option 'topic'"));
    assert!(console("'kafka.client.id' = 't'").contains("the console connector has no option 'kafka.client.id'"));
    assert!(console("'key.format' = 'json'").contains("the console connector has no option 'key.format'"));
}

#[test]
fn secrets_in_the_script_are_warned_of() {
    let options = ", 'kafka.sasl.password' = 'hunter2', 'kafka.ssl.key.password' = '${env:X}'";
    let compiled = table(options).unwrap();
    let [warning] = compiled.warnings.as_slice() else { panic!("{:?}", compiled.warnings) };
    assert!(warning.contains("kafka.sasl.password") && !warning.contains("hunter2"), "{warning}");
    assert!(!compiled.explain_text().contains("hunter2"));
    assert!(!compiled.explain_json().to_string().contains("hunter2"));
}

#[test]
fn an_error_does_not_show_a_secret() {
    let error = refused("kafka.sasl.password", "hunter2${env:");
    assert!(!error.contains("hunter2"), "{error}");
}

/// The frontend accepts the values that docs give for options of reading.
#[test]
fn declared_values_are_taken_and_declared_defaults_are_used() {
    let untouched = table("").unwrap().sources[0].options.clone();
    for option in CONNECTORS.iter().flat_map(|spec| spec.options) {
        let Some(reading) = option.kind.reading() else { continue };
        let words = reading.values().split('`').skip(1).step_by(2);
        for word in words.filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_')) {
            let set = table(&format!(", '{}' = '{word}'", option.name));
            assert!(set.is_ok(), "{} = {word}: {set:?}", option.name);
        }
        if let Default::Value(value) = option.default {
            let set = table(&format!(", '{}' = '{value}'", option.name)).unwrap();
            assert_eq!(set.sources[0].options, untouched, "{}", option.name);
        }
    }
}
