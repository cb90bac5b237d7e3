//! Which properties of Kafka's client a script may set.
//!
//! Owns: the one list of them, what kind of value each takes, and why the others are refused.
//! Does not own: what they do (librdkafka), the values Highwater sets itself (crate `connectors`).
//! Invariants: a property is refused unless it is listed: a script may come from someone who must not load code, run
//! commands or write files on the machines it runs on. Only secrets, logins and paths take `${…}` references.

use super::ddl::OptionEntry;
use super::error::{Result, SqlError};
use super::values::{plain_text, text};
use crate::query::{ConnectorOptions, SinkTable, SourceTable};
use std::collections::BTreeMap;

/// What a property's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shown as it is; takes no reference.
    Plain,
    /// Says who logs in, or whom to trust: no secret, but it comes with one and may be a reference, too.
    Login,
    /// Never shown.
    Secret,
    /// A file that every process must be able to read.
    Path,
}

use Kind::{Login, Path, Plain, Secret};

/// Every property a script may set, without the prefix `kafka.`; docs/connectors.md lists them.
pub const PROPERTIES: &[(&str, Kind)] = &[
    // Encryption.
    ("security.protocol", Plain),
    ("ssl.ca.location", Path),
    ("ssl.ca.pem", Login),
    ("ssl.certificate.location", Path),
    ("ssl.certificate.pem", Login),
    ("ssl.key.location", Path),
    ("ssl.key.pem", Secret),
    ("ssl.key.password", Secret),
    ("ssl.keystore.location", Path),
    ("ssl.keystore.password", Secret),
    ("ssl.crl.location", Path),
    ("ssl.cipher.suites", Plain),
    ("ssl.curves.list", Plain),
    ("ssl.sigalgs.list", Plain),
    ("ssl.endpoint.identification.algorithm", Plain),
    ("enable.ssl.certificate.verification", Plain),
    // Login.
    ("sasl.mechanism", Plain),
    ("sasl.mechanisms", Plain),
    ("sasl.username", Login),
    ("sasl.password", Secret),
    ("sasl.oauthbearer.method", Plain),
    ("sasl.oauthbearer.token.endpoint.url", Plain),
    ("sasl.oauthbearer.client.id", Login),
    ("sasl.oauthbearer.client.secret", Secret),
    ("sasl.oauthbearer.scope", Plain),
    ("sasl.oauthbearer.extensions", Login),
    ("https.ca.location", Path),
    ("https.ca.pem", Login),
    // Connections.
    ("client.id", Plain),
    ("client.rack", Plain),
    ("allow.auto.create.topics", Plain),
    ("client.dns.lookup", Plain),
    ("broker.address.family", Plain),
    ("broker.address.ttl", Plain),
    ("connections.max.idle.ms", Plain),
    ("reconnect.backoff.ms", Plain),
    ("reconnect.backoff.max.ms", Plain),
    ("retry.backoff.ms", Plain),
    ("retry.backoff.max.ms", Plain),
    ("socket.connection.setup.timeout.ms", Plain),
    ("socket.keepalive.enable", Plain),
    ("socket.max.fails", Plain),
    ("socket.nagle.disable", Plain),
    ("socket.receive.buffer.bytes", Plain),
    ("socket.send.buffer.bytes", Plain),
    ("socket.timeout.ms", Plain),
    ("api.version.request.timeout.ms", Plain),
    ("enable.metrics.push", Plain),
    ("metadata.max.age.ms", Plain),
    ("metadata.recovery.rebootstrap.trigger.ms", Plain),
    ("metadata.recovery.strategy", Plain),
    ("topic.metadata.propagation.max.ms", Plain),
    ("topic.metadata.refresh.fast.interval.ms", Plain),
    ("topic.metadata.refresh.interval.ms", Plain),
    ("topic.metadata.refresh.sparse", Plain),
    ("message.max.bytes", Plain),
    ("message.copy.max.bytes", Plain),
    ("receive.message.max.bytes", Plain),
    ("max.in.flight", Plain),
    ("max.in.flight.requests.per.connection", Plain),
    // Reading.
    ("group.id", Plain),
    ("check.crcs", Plain),
    ("fetch.error.backoff.ms", Plain),
    ("fetch.max.bytes", Plain),
    ("fetch.message.max.bytes", Plain),
    ("fetch.min.bytes", Plain),
    ("fetch.queue.backoff.ms", Plain),
    ("fetch.wait.max.ms", Plain),
    ("max.partition.fetch.bytes", Plain),
    ("queued.max.messages.kbytes", Plain),
    ("queued.min.messages", Plain),
    // Writing.
    ("batch.num.messages", Plain),
    ("batch.size", Plain),
    ("compression.codec", Plain),
    ("compression.level", Plain),
    ("compression.type", Plain),
    ("delivery.timeout.ms", Plain),
    ("linger.ms", Plain),
    ("message.send.max.retries", Plain),
    ("message.timeout.ms", Plain),
    ("queue.buffering.max.kbytes", Plain),
    ("queue.buffering.max.messages", Plain),
    ("queue.buffering.max.ms", Plain),
    ("request.timeout.ms", Plain),
    ("retries", Plain),
    ("sticky.partitioning.linger.ms", Plain),
    ("transaction.timeout.ms", Plain),
];

/// Properties that Highwater sets itself, and what to use instead.
const OWNED: &[(&str, &str)] = &[
    ("auto.offset.reset", "use 'starting_offsets' and 'on_data_loss'"),
    ("enable.auto.commit", "offsets live in the query's checkpoint"),
    ("enable.auto.offset.store", "offsets live in the query's checkpoint"),
    ("isolation.level", "use 'isolation_level'"),
    ("transactional.id", "each writer of a sink has its own"),
    ("enable.idempotence", "it is always on"),
    ("acks", "all replicas in sync always acknowledge"),
    ("request.required.acks", "all replicas in sync always acknowledge"),
    ("partitioner", "rows go by murmur2_random, as Kafka's own clients do"),
    ("enable.partition.eof", "it is always on"),
];

const LOADS_CODE: &str = "it loads code into the process, and who submits a script must not";
const LOGS: &str = "what processes log is their operator's to say: RUST_LOG=librdkafka=debug";
const NO_KERBEROS: &str = "Kerberos is not supported; log in with PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER";
const CLIENT_CREDENTIALS: &str = "tokens are fetched by client credentials: 'kafka.sasl.oauthbearer.client.id', \
                                  '.client.secret' and '.token.endpoint.url'";
const CALLBACK: &str = "it is a function of the client's, and cannot be written as text";
const ASSIGNMENT: &str = "the driver assigns partitions, no consumer group does";

/// Properties people look for and must not set, with the reason. A name that ends with a dot stands for all that begin
/// with it.
const REFUSED: &[(&str, &str)] = &[
    ("plugin.library.paths", LOADS_CODE),
    ("interceptors", LOADS_CODE),
    ("ssl.engine.", LOADS_CODE),
    ("ssl.providers", LOADS_CODE),
    ("ssl_engine_callback_data", LOADS_CODE),
    ("debug", LOGS),
    ("log.", LOGS),
    ("log_level", LOGS),
    ("statistics.interval.ms", LOGS),
    ("sasl.kerberos.", NO_KERBEROS),
    ("sasl.oauthbearer.config", CLIENT_CREDENTIALS),
    ("sasl.oauthbearer.grant.type", CLIENT_CREDENTIALS),
    ("sasl.oauthbearer.assertion.", CLIENT_CREDENTIALS),
    ("sasl.oauthbearer.metadata.", CLIENT_CREDENTIALS),
    ("enable.sasl.oauthbearer.unsecure.jwt", CLIENT_CREDENTIALS),
    ("sasl.jaas.config", "it is Java's: use 'kafka.sasl.username' and 'kafka.sasl.password'"),
    ("ssl.truststore.", "it is Java's: use 'kafka.ssl.ca.location' with a PEM file"),
    ("metadata.broker.list", "use 'bootstrap.servers'"),
    ("group.", ASSIGNMENT),
    ("partition.assignment.strategy", ASSIGNMENT),
    ("session.timeout.ms", ASSIGNMENT),
    ("heartbeat.interval.ms", ASSIGNMENT),
    ("max.poll.interval.ms", "not reading is back-pressure here, never a sign of death"),
    ("offset.store.", "offsets live in the query's checkpoint"),
    ("test.mock.", "it is for librdkafka's own tests"),
    ("enabled_events", CALLBACK),
    ("opaque", CALLBACK),
    ("default_topic_conf", CALLBACK),
    ("ssl.certificate.verify_cb", CALLBACK),
];

/// What kind of value a property takes; one that is not listed is treated as a secret.
pub fn kind(property: &str) -> Kind {
    PROPERTIES.iter().find(|(name, _)| *name == property).map_or(Secret, |(_, kind)| *kind)
}

/// The `kafka.*` options among `entries`, checked, without their prefix.
pub fn properties(entries: &[OptionEntry]) -> Result<BTreeMap<String, String>> {
    let mut properties = BTreeMap::new();
    for entry in entries {
        let Some(property) = entry.key.strip_prefix("kafka.") else { continue };
        let value = match allowed(entry, property)? {
            Plain => plain_text(entry)?,
            Login | Secret | Path => text(entry)?,
        };
        properties.insert(property.to_string(), value);
    }
    check_login(entries)?;
    Ok(properties)
}

fn allowed(entry: &OptionEntry, property: &str) -> Result<Kind> {
    if let Some((_, kind)) = PROPERTIES.iter().find(|(name, _)| *name == property) {
        return Ok(*kind);
    }
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == property) {
        return Err(SqlError::at(entry.key_at, format!("'{}' cannot be set: exactly-once rests on it", entry.key))
            .hint(*instead));
    }
    let is_meant = |name: &str| property == name || name.ends_with('.') && property.starts_with(name);
    let reason = REFUSED.iter().find(|(name, _)| is_meant(name)).map(|(_, reason)| *reason);
    if let Some(reason) = reason.or_else(|| property.ends_with("_cb").then_some(CALLBACK)) {
        return Err(SqlError::at(entry.key_at, format!("'{}' cannot be set by a script", entry.key)).hint(reason));
    }
    let near = super::suggest::nearest(property, PROPERTIES.iter().map(|(name, _)| *name));
    let hint = match near {
        Some(near) => format!("did you mean 'kafka.{near}'?"),
        None => "docs/connectors.md lists the properties that can be set".to_string(),
    };
    Err(SqlError::at(entry.key_at, format!("unknown property '{}'", entry.key)).hint(hint))
}

/// Logins that would only be found out to be none when a client is made.
fn check_login(entries: &[OptionEntry]) -> Result<()> {
    let entry = |property: &str| entries.iter().find(|entry| entry.key.strip_prefix("kafka.") == Some(property));
    let mechanism = entry("sasl.mechanism").or_else(|| entry("sasl.mechanisms"));
    if let Some(entry) = mechanism
        && !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
            .contains(&entry.value.to_ascii_uppercase().as_str())
    {
        return Err(SqlError::at(entry.value_at, format!("'{}' is no mechanism to log in with", entry.value))
            .hint("write one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"));
    }
    if let Some(method) = entry("sasl.oauthbearer.method")
        && !method.value.eq_ignore_ascii_case("oidc")
    {
        return Err(SqlError::at(method.value_at, format!("'{}' is no way to get a token", method.value))
            .hint("write 'oidc', or leave it out: it is the only one"));
    }
    Ok(())
}

/// Warnings of secrets that stand in the script itself, for each table once.
pub fn written_secrets(sources: &[SourceTable], sinks: &[SinkTable]) -> Vec<String> {
    let read = sources.iter().map(|source| (&source.name, &source.connector));
    let written = sinks.iter().map(|sink| (&sink.name, &sink.connector));
    let tables: BTreeMap<&String, &ConnectorOptions> = read.chain(written).collect();
    let mut warnings = Vec::new();
    for (table, connector) in tables {
        let ConnectorOptions::Kafka(options) = connector else { continue };
        let written = |(property, value): &(&String, &String)| kind(property) == Secret && !value.contains("${");
        warnings.extend(options.properties.iter().filter(written).map(|(property, _)| {
            format!(
                "table '{table}': the value of 'kafka.{property}' stands in the script, which is stored; write \
                 ${{env:NAME}} or ${{file:PATH}} instead"
            )
        }));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::tokenizer::Location;

    fn check(options: &[(&str, &str)]) -> Result<BTreeMap<String, String>> {
        let at = Location::new(1, 1);
        let entry = |(key, value): &(&str, &str)| OptionEntry {
            key: format!("kafka.{key}"),
            key_at: at,
            value: (*value).into(),
            value_at: at,
        };
        properties(&options.iter().map(entry).collect::<Vec<_>>())
    }

    fn refused(options: &[(&str, &str)]) -> String {
        check(options).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_listed_is_refused_with_the_reason() {
        assert!(check(&[("linger.ms", "5"), ("ssl.ca.location", "/ca.pem")]).is_ok());
        for (property, reason) in [
            ("plugin.library.paths", "loads code"),
            ("ssl.engine.location", "loads code"),
            ("debug", "RUST_LOG"),
            ("log.queue", "RUST_LOG"),
            ("sasl.kerberos.kinit.cmd", "Kerberos is not supported"),
            ("oauthbearer_token_refresh_cb", "function of the client"),
            ("enable.idempotence", "exactly-once rests on it"),
            ("sasl.pasword", "did you mean 'kafka.sasl.password'?"),
            ("zzz", "docs/connectors.md"),
        ] {
            let error = refused(&[(property, "x")]);
            assert!(error.contains(reason) && error.contains(property), "{error}");
        }
    }

    #[test]
    fn only_secrets_logins_and_paths_take_references() {
        for property in ["sasl.password", "sasl.username", "ssl.ca.location"] {
            assert!(check(&[(property, "${env:X}")]).is_ok(), "{property}");
        }
        for property in ["client.id", "sasl.oauthbearer.token.endpoint.url", "group.id"] {
            let error = refused(&[(property, "${env:X}")]);
            assert!(error.contains("secrets and paths"), "{error}");
        }
    }

    #[test]
    fn mechanisms_nobody_knows_are_refused() {
        assert!(refused(&[("sasl.mechanism", "GSSAPI")]).contains("SCRAM-SHA-256"));
        assert!(refused(&[("sasl.oauthbearer.method", "default")]).contains("oidc"));
    }

    #[test]
    fn secrets_in_the_script_are_warned_of() {
        let sql = "CREATE TABLE a (x BIGINT) WITH ('connector' = 'kafka', 'topic' = 'a', 'format' = 'json',
              'bootstrap.servers' = 'h:1', 'kafka.sasl.password' = 'hunter2', 'kafka.ssl.key.password' = '${env:X}');
            CREATE TABLE b (x BIGINT) WITH ('connector' = 'console');
            INSERT INTO b SELECT x FROM a;";
        let compiled = crate::compile(sql).unwrap();
        let [warning] = compiled.warnings.as_slice() else { panic!("{:?}", compiled.warnings) };
        assert!(warning.contains("kafka.sasl.password") && !warning.contains("hunter2"), "{warning}");
        assert!(!compiled.explain_text().contains("hunter2"));
    }

    #[test]
    fn every_property_is_documented() {
        let docs = include_str!("../../../../docs/connectors.md");
        for (property, _) in PROPERTIES {
            assert!(docs.contains(&format!("`{property}`")), "{property} is not in docs/connectors.md");
        }
    }

    #[test]
    fn an_error_does_not_show_a_secret() {
        let error = refused(&[("sasl.password", "hunter2${env:")]);
        assert!(!error.contains("hunter2"), "{error}");
    }
}
