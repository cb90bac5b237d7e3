//! The properties of Kafka's client that a script may set.
//!
//! Owns: the list of them, the kind of value each takes, and the reasons why others are refused.
//! Does not own: their effect (librdkafka), the values that Highwater sets itself (crate `connector-kafka`).
//! Invariant: a property that is not listed is refused, since the author of a script may not be allowed to load code,
//! run commands or write files on the machines where it runs.

use crate::spec::OptionKind::{self, Login, Path, Secret, Text};
use crate::spec::OptionValues;
use crate::spec::{Fault, FaultAt, PropertySpec};

pub static PROPERTIES: PropertySpec = PropertySpec {
    prefix: "kafka.",
    known: KNOWN,
    about: "a property of Kafka's client, from [this list](#client-properties)",
    refusal,
};

/// Every property a script may set, without the prefix `kafka.`; docs/connectors.md lists them.
const KNOWN: &[(&str, OptionKind)] = &[
    // Encryption.
    ("security.protocol", Text),
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
    ("ssl.cipher.suites", Text),
    ("ssl.curves.list", Text),
    ("ssl.sigalgs.list", Text),
    ("ssl.endpoint.identification.algorithm", Text),
    ("enable.ssl.certificate.verification", Text),
    // Login.
    ("sasl.mechanism", Text),
    ("sasl.mechanisms", Text),
    ("sasl.username", Login),
    ("sasl.password", Secret),
    ("sasl.oauthbearer.method", Text),
    ("sasl.oauthbearer.token.endpoint.url", Text),
    ("sasl.oauthbearer.client.id", Login),
    ("sasl.oauthbearer.client.secret", Secret),
    ("sasl.oauthbearer.scope", Text),
    ("sasl.oauthbearer.extensions", Login),
    ("https.ca.location", Path),
    ("https.ca.pem", Login),
    // Connections.
    ("client.id", Text),
    ("client.rack", Text),
    ("allow.auto.create.topics", Text),
    ("client.dns.lookup", Text),
    ("broker.address.family", Text),
    ("broker.address.ttl", Text),
    ("connections.max.idle.ms", Text),
    ("reconnect.backoff.ms", Text),
    ("reconnect.backoff.max.ms", Text),
    ("retry.backoff.ms", Text),
    ("retry.backoff.max.ms", Text),
    ("socket.connection.setup.timeout.ms", Text),
    ("socket.keepalive.enable", Text),
    ("socket.max.fails", Text),
    ("socket.nagle.disable", Text),
    ("socket.receive.buffer.bytes", Text),
    ("socket.send.buffer.bytes", Text),
    ("socket.timeout.ms", Text),
    ("api.version.request.timeout.ms", Text),
    ("enable.metrics.push", Text),
    ("metadata.max.age.ms", Text),
    ("metadata.recovery.rebootstrap.trigger.ms", Text),
    ("metadata.recovery.strategy", Text),
    ("topic.metadata.propagation.max.ms", Text),
    ("topic.metadata.refresh.fast.interval.ms", Text),
    ("topic.metadata.refresh.interval.ms", Text),
    ("topic.metadata.refresh.sparse", Text),
    ("message.max.bytes", Text),
    ("message.copy.max.bytes", Text),
    ("receive.message.max.bytes", Text),
    ("max.in.flight", Text),
    ("max.in.flight.requests.per.connection", Text),
    // Reading.
    ("group.id", Text),
    ("check.crcs", Text),
    ("fetch.error.backoff.ms", Text),
    ("fetch.max.bytes", Text),
    ("fetch.message.max.bytes", Text),
    ("fetch.min.bytes", Text),
    ("fetch.queue.backoff.ms", Text),
    ("fetch.wait.max.ms", Text),
    ("max.partition.fetch.bytes", Text),
    ("queued.max.messages.kbytes", Text),
    ("queued.min.messages", Text),
    // Writing.
    ("batch.num.messages", Text),
    ("batch.size", Text),
    ("compression.codec", Text),
    ("compression.level", Text),
    ("compression.type", Text),
    ("delivery.timeout.ms", Text),
    ("linger.ms", Text),
    ("message.send.max.retries", Text),
    ("message.timeout.ms", Text),
    ("queue.buffering.max.kbytes", Text),
    ("queue.buffering.max.messages", Text),
    ("queue.buffering.max.ms", Text),
    ("request.timeout.ms", Text),
    ("retries", Text),
    ("sticky.partitioning.linger.ms", Text),
    ("transaction.timeout.ms", Text),
];

/// Properties that Highwater sets itself, and what to use instead.
const OWNED: &[(&str, &str)] = &[
    ("auto.offset.reset", "use 'starting_offsets' and 'on_data_loss'"),
    ("enable.auto.commit", "offsets are kept in the query's checkpoint"),
    ("enable.auto.offset.store", "offsets are kept in the query's checkpoint"),
    ("isolation.level", "use 'isolation_level'"),
    ("transactional.id", "each writer of a sink has its own"),
    ("enable.idempotence", "it is always on"),
    ("acks", "it is always 'all'"),
    ("request.required.acks", "it is always 'all'"),
    ("partitioner", "rows are partitioned by murmur2_random, as by Kafka's own clients"),
    ("enable.partition.eof", "it is always on"),
];

const LOADS_CODE: &str = "it loads code into the process, which a script must not do";
const LOGS: &str = "logging is set for a whole process, not by scripts: RUST_LOG=librdkafka=debug";
const NO_KERBEROS: &str = "Kerberos is not supported; log in with PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER";
const CLIENT_CREDENTIALS: &str = "tokens are fetched by client credentials: 'kafka.sasl.oauthbearer.client.id', \
                                  '.client.secret' and '.token.endpoint.url'";
const CALLBACK: &str = "it is a callback function of the client, which cannot be written as text";
const ASSIGNMENT: &str = "the driver assigns partitions, not a consumer group";

/// Known properties that a script must not set, with the reason. A name that ends with a dot stands for all properties
/// that begin with it.
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
    ("sasl.jaas.config", "it is for Java clients: use 'kafka.sasl.username' and 'kafka.sasl.password'"),
    ("ssl.truststore.", "it is for Java clients: use 'kafka.ssl.ca.location' with a PEM file"),
    ("metadata.broker.list", "use 'bootstrap.servers'"),
    ("group.", ASSIGNMENT),
    ("partition.assignment.strategy", ASSIGNMENT),
    ("session.timeout.ms", ASSIGNMENT),
    ("heartbeat.interval.ms", ASSIGNMENT),
    ("max.poll.interval.ms", "a consumer that does not poll is held up by back-pressure and never times out"),
    ("offset.store.", "offsets are kept in the query's checkpoint"),
    ("test.mock.", "it is for librdkafka's own tests"),
    ("enabled_events", CALLBACK),
    ("opaque", CALLBACK),
    ("default_topic_conf", CALLBACK),
    ("ssl.certificate.verify_cb", CALLBACK),
];

fn refusal(property: &str) -> Option<(&'static str, &'static str)> {
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == property) {
        return Some(("cannot be set: exactly-once depends on it", instead));
    }
    let is_meant = |name: &str| property == name || name.ends_with('.') && property.starts_with(name);
    let reason = REFUSED.iter().find(|(name, _)| is_meant(name)).map(|(_, reason)| *reason);
    let reason = reason.or_else(|| property.ends_with("_cb").then_some(CALLBACK));
    Some(("cannot be set by a script", reason?))
}

/// Refuses unsupported login mechanisms and token methods at submit, before a client is made with them.
pub fn check_login(values: &OptionValues) -> Result<(), Fault> {
    let property = |name: &str| values.properties().get(name).map(|value| (format!("kafka.{name}"), value));
    let fault = |option: String, message: String, hint: &str| Fault {
        option,
        at: FaultAt::Value,
        message,
        hint: hint.to_string(),
    };
    if let Some((option, mechanism)) = property("sasl.mechanism").or_else(|| property("sasl.mechanisms"))
        && !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
            .contains(&mechanism.to_ascii_uppercase().as_str())
    {
        let message = format!("'{mechanism}' is not a supported login mechanism");
        return Err(fault(option, message, "write one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"));
    }
    if let Some((option, method)) = property("sasl.oauthbearer.method")
        && !method.eq_ignore_ascii_case("oidc")
    {
        let message = format!("'{method}' is not a supported method of getting a token");
        return Err(fault(option, message, "write 'oidc', the only method, or leave the option out"));
    }
    Ok(())
}
