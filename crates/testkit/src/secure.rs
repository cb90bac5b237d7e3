//! One Kafka broker that listens in every way Highwater can log in, with its own certificates and users.
//!
//! Owns: its listeners, users and files. Does not own: the broker (`cluster`), tokens (`tokens`).
//! Tests write and read their records without login, on the broker's plain listener.

use crate::certificates::{Authority, write};
use crate::cluster::{KafkaCluster, folder};
use crate::ports::free_port;
use crate::tokens::TokenEndpoint;
use std::sync::OnceLock;
use tempfile::TempDir;

/// The only user of PLAIN and SCRAM; `PASSWORD` is its password.
pub const USER: &str = "alice";
pub const PASSWORD: &str = "kafka-s3cret-of-the-test";

/// Name, protocol and, for logins, mechanisms.
const LISTENERS: [(&str, &str, &str); 5] = [
    ("TLS", "SSL", ""),
    ("MUTUAL", "SSL", ""),
    ("LOGIN", "SASL_SSL", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
    ("OPEN", "SASL_PLAINTEXT", "PLAIN,SCRAM-SHA-512"),
    ("TOKEN", "SASL_SSL", "OAUTHBEARER"),
];

const SECURITY: &str = "org.apache.kafka.common.security";

/// A broker and what clients need to talk to it.
pub struct SecureKafka {
    pub cluster: KafkaCluster,
    pub tokens: TokenEndpoint,
    ports: Vec<u16>,
    /// File of the authority that signed the certificates of the broker and the token endpoint.
    pub ca: String,
    /// File of an authority that signed neither.
    pub stranger: String,
    /// File of a client's certificate; `key` is that of its key, and the last field has both as text.
    pub certificate: String,
    pub key: String,
    _files: TempDir,
}

static SHARED: OnceLock<SecureKafka> = OnceLock::new();

impl SecureKafka {
    /// One broker that all tests of this process share.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(Self::start)
    }

    /// HOST:PORT of a listener: TLS, MUTUAL, LOGIN, OPEN or TOKEN.
    pub fn servers(&self, listener: &str) -> String {
        let place = LISTENERS.iter().position(|(name, ..)| *name == listener).expect("a listener of this broker");
        format!("127.0.0.1:{}", self.ports[place])
    }

    fn start() -> Self {
        let files = tempfile::tempdir().expect("a folder can be made");
        let (authority, stranger) = (Authority::new("test authority"), Authority::new("stranger"));
        let (broker, client) = (authority.sign("broker"), authority.sign("client"));
        let tokens = TokenEndpoint::start(&authority.sign("tokens"));
        let dir = files.path();
        let ca = write(dir, "ca.pem", &authority.pem);
        let keystore = write(dir, "broker.pem", &format!("{}{}", broker.key, broker.pem));
        let ports: Vec<u16> = LISTENERS.iter().map(|_| free_port()).collect();
        let listeners: String =
            LISTENERS.iter().zip(&ports).map(|((name, ..), port)| format!(",{name}://127.0.0.1:{port}")).collect();
        Self {
            cluster: KafkaCluster::start_listening(folder(), &listeners, &properties(&keystore, &ca, &tokens)),
            tokens,
            ports,
            stranger: write(dir, "stranger.pem", &stranger.pem),
            certificate: write(dir, "client.pem", &client.pem),
            key: write(dir, "client.key", &client.key),
            ca,
            _files: files,
        }
    }
}

fn properties(keystore: &str, ca: &str, tokens: &TokenEndpoint) -> String {
    let protocols: String = LISTENERS.iter().map(|(name, protocol, _)| format!(",{name}:{protocol}")).collect();
    let keys = &tokens.keys_url;
    let mut text = format!(
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
         ssl.keystore.type=PEM\nssl.keystore.location={keystore}\n\
         ssl.truststore.type=PEM\nssl.truststore.location={ca}\n\
         listener.name.mutual.ssl.client.auth=required\n\
         listener.name.token.connections.max.reauth.ms=3600000\n\
         listener.name.token.oauthbearer.sasl.server.callback.handler.class=\
         {SECURITY}.oauthbearer.OAuthBearerValidatorCallbackHandler\n\
         listener.name.token.oauthbearer.sasl.oauthbearer.jwks.endpoint.url={keys}\n\
         listener.name.token.oauthbearer.sasl.oauthbearer.expected.audience=kafka\n\
         highwater.jvm.options=-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}\n\
         highwater.scram=SCRAM-SHA-256=[name={USER},password={PASSWORD}] SCRAM-SHA-512=[name={USER},password={PASSWORD}]\n"
    );
    for (name, _, mechanisms) in LISTENERS.iter().filter(|(.., mechanisms)| !mechanisms.is_empty()) {
        let name = format!("listener.name.{}", name.to_lowercase());
        text.push_str(&format!("{name}.sasl.enabled.mechanisms={mechanisms}\n"));
        for mechanism in mechanisms.split(',') {
            let module = match mechanism {
                "PLAIN" => format!("plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\""),
                "OAUTHBEARER" => "oauthbearer.OAuthBearerLoginModule required".to_string(),
                _ => "scram.ScramLoginModule required".to_string(),
            };
            let mechanism = mechanism.to_lowercase();
            text.push_str(&format!("{name}.{mechanism}.sasl.jaas.config={SECURITY}.{module};\n"));
        }
    }
    text
}
