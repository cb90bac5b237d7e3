//! An OIDC token endpoint: issues signed tokens for client credentials, and publishes the key that verifies them.
//!
//! Owns: a thread that answers `POST /token` over TLS, and one that answers `GET /keys` without. It knows one secret.

use crate::certificates::Certificate;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The clients' secret.
pub const CLIENT_SECRET: &str = "oidc-s3cret-of-the-test";
/// A client whose tokens expire soon.
pub const HASTY_CLIENT: &str = "hasty";
/// Lifetime of its tokens, seconds.
const HASTY_SECONDS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(10);

/// A running endpoint; its threads end with the process.
pub struct TokenEndpoint {
    /// Where clients request tokens.
    pub token_url: String,
    /// Where brokers get the keys.
    pub keys_url: String,
    given: Arc<AtomicUsize>,
}

struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl TokenEndpoint {
    /// Starts the endpoint with `certificate` on its TLS port.
    pub fn start(certificate: &Certificate) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        let signer = Signer { key: key.expect("its own key"), random };
        let keys = signer.keys().to_string();
        let given = Arc::new(AtomicUsize::new(0));
        let (tokens, open) = (listen(), listen());
        let url = |listener: &TcpListener, scheme: &str, path: &str| {
            format!("{scheme}://{}/{path}", listener.local_addr().expect("it listens"))
        };
        let (token_url, keys_url) = (url(&tokens, "https", "token"), url(&open, "http", "keys"));
        let (config, count) = (Arc::new(tls(certificate)), given.clone());
        std::thread::spawn(move || {
            for stream in tokens.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let Ok(connection) = ServerConnection::new(config.clone()) else { continue };
                // A client that does not trust the certificate closes the connection.
                let _ = answer(StreamOwned::new(connection, stream), |head, _| {
                    let (status, body) = signer.token(head);
                    count.fetch_add(usize::from(status == 200), Ordering::SeqCst);
                    (status, body.to_string())
                });
            }
        });
        std::thread::spawn(move || {
            for stream in open.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = answer(stream, |_, _| (200, keys.clone()));
            }
        });
        Self { token_url, keys_url, given }
    }

    /// Number of tokens issued.
    pub fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

impl Signer {
    fn keys(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "alg": "ES256", "use": "sig", "x": x, "y": y}]})
    }

    fn token(&self, head: &str) -> (u16, Value) {
        let login = head.lines().find_map(|line| line.split_once(": Basic ").map(|(_, login)| login.trim()));
        let login = login.and_then(|login| STANDARD.decode(login).ok()).unwrap_or_default();
        let login = String::from_utf8(login).unwrap_or_default();
        let Some((client, CLIENT_SECRET)) = login.split_once(':') else {
            return (401, json!({"error": "invalid_client", "error_description": "the secret is wrong"}));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let seconds = if client == HASTY_CLIENT { HASTY_SECONDS } else { 3_600 };
        let claims =
            json!({"sub": client, "iss": "test", "aud": "kafka", "scope": "kafka", "iat": now, "exp": now + seconds});
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&json!({"alg": "ES256", "kid": "1", "typ": "JWT"})), encode(&claims));
        let signature = self.key.sign(&self.random, signed.as_bytes()).expect("the key signs");
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        (200, json!({"access_token": token, "token_type": "Bearer", "expires_in": seconds}))
    }
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn tls(certificate: &Certificate) -> ServerConfig {
    let chain = vec![CertificateDer::from_pem_slice(certificate.pem.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("a key");
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key is the certificate's")
}

/// Reads one request and writes one answer.
fn answer<S: Read + Write>(stream: S, respond: impl Fn(&str, &str) -> (u16, String)) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    let (status, text) = respond(&head, &String::from_utf8_lossy(&body));
    let stream = stream.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    stream.flush()
}
