//! TLS and logins: every way to connect to a Kafka that authenticates clients, and the errors when it refuses.

use highwater_testkit::secure::{PASSWORD, SecureKafka, USER};
use highwater_testkit::tokens::{CLIENT_SECRET, HASTY_CLIENT};
use highwater_testkit::{Highwater, Isolation, Message};
use serde_json::json;
use std::time::{Duration, Instant};

/// A listener, and client options that it accepts.
struct Login {
    name: &'static str,
    listener: &'static str,
    options: Vec<(&'static str, String)>,
}

impl Login {
    fn new(name: &'static str, listener: &'static str, options: &[(&'static str, &str)]) -> Self {
        let kafka = SecureKafka::shared();
        let mut all = Vec::new();
        if listener != "OPEN" {
            all.push(("ssl.ca.location", kafka.ca.clone()));
        }
        all.extend(options.iter().map(|(key, value)| (*key, (*value).to_string())));
        Self { name, listener, options: all }
    }

    fn password(name: &'static str, listener: &'static str, mechanism: &str, password: &str) -> Self {
        let protocol = if listener == "OPEN" { "SASL_PLAINTEXT" } else { "SASL_SSL" };
        let (user, mechanism) = (("sasl.username", USER), ("sasl.mechanism", mechanism));
        Self::new(name, listener, &[("security.protocol", protocol), mechanism, user, ("sasl.password", password)])
    }

    fn token(name: &'static str, client: &str, secret: &str) -> Self {
        let kafka = SecureKafka::shared();
        Self::new(
            name,
            "TOKEN",
            &[
                ("security.protocol", "SASL_SSL"),
                ("sasl.mechanism", "OAUTHBEARER"),
                ("sasl.oauthbearer.method", "oidc"),
                ("sasl.oauthbearer.client.id", client),
                ("sasl.oauthbearer.client.secret", secret),
                ("sasl.oauthbearer.scope", "kafka"),
                ("sasl.oauthbearer.extensions", "purpose=testing"),
                ("sasl.oauthbearer.token.endpoint.url", &kafka.tokens.token_url),
                ("https.ca.location", &kafka.ca),
            ],
        )
    }

    fn mutual(name: &'static str, with_certificate: bool) -> Self {
        let kafka = SecureKafka::shared();
        let mut options = vec![("security.protocol", "SSL")];
        if with_certificate {
            options
                .extend([("ssl.certificate.location", kafka.certificate.as_str()), ("ssl.key.location", &kafka.key)]);
        }
        Self::new(name, "MUTUAL", &options)
    }

    /// The same client with one option changed.
    fn with(mut self, name: &'static str, key: &'static str, value: &str) -> Self {
        self.name = name;
        self.options.retain(|(known, _)| *known != key);
        self.options.push((key, value.to_string()));
        self
    }

    fn topics(&self) -> (String, String) {
        (format!("login-{}-in", self.name), format!("login-{}-out", self.name))
    }

    /// A script that copies one topic to another, both through the listener.
    fn script(&self, settings: &str) -> String {
        let servers = SecureKafka::shared().servers(self.listener);
        let options: String = self.options.iter().map(|(key, value)| format!(", 'kafka.{key}' = '{value}'")).collect();
        let table = |name: &str, topic: &str| {
            format!(
                "CREATE TABLE {name} (id BIGINT) WITH ('connector' = 'kafka', 'format' = 'json', 'topic' = '{topic}',
                   'bootstrap.servers' = '{servers}'{options});"
            )
        };
        let (input, output) = self.topics();
        format!("{settings} {} {} INSERT INTO o SELECT id FROM t;", table("t", &input), table("o", &output))
    }

    fn produce(&self, ids: std::ops::Range<i64>) {
        let cluster = &SecureKafka::shared().cluster;
        let (input, _) = self.topics();
        if !cluster.topics().contains(&input) {
            cluster.create_topic(&input, 1);
        }
        cluster.produce(&input, ids.map(|id| Message::json(&json!({"id": id}))));
    }

    fn ids(&self) -> Vec<i64> {
        let records = SecureKafka::shared().cluster.read_all(&self.topics().1, Isolation::Committed);
        records.iter().map(|record| record.json()["id"].as_i64().unwrap()).collect()
    }
}

const SECRETS: [(&str, &str); 3] =
    [("TEST_PASSWORD", PASSWORD), ("TEST_WRONG", "not-the-password"), ("TEST_CLIENT_SECRET", CLIENT_SECRET)];

fn environment() -> Vec<(&'static str, String)> {
    SECRETS.iter().map(|(name, value)| (*name, (*value).to_string())).collect()
}

fn started() -> Highwater {
    let mut cluster = Highwater::stopped();
    cluster.start_driver(&environment());
    cluster.add_executor(&environment());
    cluster.ok(&["ls"]);
    cluster
}

#[test]
fn every_login_reads_and_writes() {
    let kafka = SecureKafka::shared();
    let pem = |path: &str| std::fs::read_to_string(path).unwrap();
    let logins = [
        Login::new("tls", "TLS", &[("security.protocol", "SSL")]),
        Login::new("tls-pem", "TLS", &[("security.protocol", "ssl"), ("ssl.ca.pem", &pem(&kafka.ca))]),
        Login::mutual("mutual", true),
        Login::mutual("mutual-files", false)
            .with("mutual-files", "ssl.certificate.pem", &format!("${{file:{}}}", kafka.certificate))
            .with("mutual-files", "ssl.key.pem", &format!("${{file:{}}}", kafka.key)),
        Login::password("plain", "LOGIN", "PLAIN", "${env:TEST_PASSWORD}"),
        Login::password("scram-256", "LOGIN", "SCRAM-SHA-256", "${env:TEST_PASSWORD}"),
        Login::password("scram-512", "LOGIN", "SCRAM-SHA-512", "${env:TEST_PASSWORD}"),
        Login::password("open-plain", "OPEN", "PLAIN", "${env:TEST_PASSWORD}"),
        Login::password("open-scram", "OPEN", "SCRAM-SHA-512", "${env:TEST_PASSWORD}"),
        Login::token("token", "service", "${env:TEST_CLIENT_SECRET}"),
    ]
    .map(|mut login| {
        // Either the file or the text is given.
        if login.options.iter().any(|(key, _)| *key == "ssl.ca.pem") {
            login.options.retain(|(key, _)| *key != "ssl.ca.location");
        }
        login
    });
    let cluster = started();
    for login in &logins {
        login.produce(0..100);
        cluster.submit(login.name, &login.script("SET trigger = 'once';"));
    }
    for login in &logins {
        cluster.wait_state(login.name, &["finished"]);
        assert_eq!(login.ids(), (0..100).collect::<Vec<_>>(), "{}", login.name);
    }
}

#[test]
fn a_refused_login_is_reported_at_submit_in_the_brokers_words() {
    let kafka = SecureKafka::shared();
    let tls = || Login::new("refused", "TLS", &[("security.protocol", "SSL")]);
    let plain = |mechanism: &str| Login::password("refused", "LOGIN", mechanism, "${env:TEST_WRONG}");
    let token = |secret: &str| Login::token("refused", "service", secret);
    let cases = [
        (tls().with("stranger", "ssl.ca.location", &kafka.stranger), "certificate verify failed"),
        (tls().with("no-tls", "security.protocol", "PLAINTEXT"), "security.protocol"),
        (Login::mutual("no-certificate", false), "alert"),
        (plain("PLAIN").with("refused-plain", "client.id", "x"), "Invalid username or password"),
        (plain("SCRAM-SHA-256").with("refused-scram", "client.id", "x"), "invalid credentials"),
        (plain("SCRAM-SHA-512").with("nobody", "sasl.username", "nobody"), "invalid credentials"),
        (Login::password("open", "OPEN", "PLAIN", "${env:TEST_WRONG}"), "Invalid username or password"),
        (Login::password("other", "OPEN", "SCRAM-SHA-256", "${env:TEST_PASSWORD}"), "SCRAM-SHA-256"),
        (token("${env:TEST_WRONG}").with("secret", "client.id", "x"), "invalid_client the secret is wrong"),
        (token(CLIENT_SECRET).with("endpoint", "https.ca.location", &kafka.stranger), "certificate"),
    ];
    let cluster = started();
    for (login, expected) in cases {
        login.produce(0..1);
        let file = cluster.file(&format!("{}.sql", login.name), &login.script(""));
        let begun = Instant::now();
        let output = cluster.run(&["submit", &file]);
        let (took, stderr) = (begun.elapsed(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!(output.status.code(), Some(1), "{}: {stderr}", login.name);
        assert!(stderr.contains(expected), "{}: {expected:?} is not in: {stderr}", login.name);
        assert!(took < Duration::from_secs(30), "{}: {took:?}", login.name);
        for (_, secret) in SECRETS {
            assert!(!stderr.contains(secret), "{}: {stderr}", login.name);
        }
    }
    assert_eq!(cluster.json(&["ls"]), json!([]), "nothing is stored");
}

#[test]
fn a_refused_login_of_an_executor_is_shown_in_status_until_it_is_corrected() {
    let login = Login::password("executor", "LOGIN", "SCRAM-SHA-512", "${env:TEST_PASSWORD}");
    login.produce(0..100);
    let mut cluster = Highwater::stopped();
    cluster.start_driver(&environment());
    let wrong = cluster.add_executor(&[("TEST_PASSWORD", "not-the-password".to_string())]);
    cluster.ok(&["ls"]);
    cluster.submit("executor", &login.script("SET trigger = 'once';"));
    let status = cluster.wait("the refusal in status", || {
        let status = cluster.status("executor");
        status["message"].as_str()?.contains("invalid credentials").then_some(status)
    });
    assert_eq!(status["state"], "waiting", "{status}");
    cluster.kill_executor(wrong);
    cluster.add_executor(&environment());
    cluster.wait_state("executor", &["finished"]);
    assert_eq!(login.ids(), (0..100).collect::<Vec<_>>());
}

#[test]
fn tokens_are_renewed_while_a_query_runs() {
    let kafka = SecureKafka::shared();
    let login = Login::token("renewed", HASTY_CLIENT, "${env:TEST_CLIENT_SECRET}");
    login.produce(0..10);
    let cluster = started();
    let before = kafka.tokens.given();
    cluster.submit("renewed", &login.script(""));
    cluster.wait_caught_up("renewed");
    // At first one token for the driver and one for the executor; these expire twice before this many were issued.
    cluster.wait("tokens to be renewed", || (kafka.tokens.given() >= before + 6).then_some(()));
    login.produce(10..20);
    cluster.wait("the records after that", || (login.ids().len() == 20).then_some(()));
    assert_eq!(login.ids(), (0..20).collect::<Vec<_>>());
}
