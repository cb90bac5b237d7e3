//! Tokens by OIDC client credentials, for SASL's OAUTHBEARER.
//!
//! Owns: the properties of this login, the request to the token endpoint, and the valid tokens of this process: all
//! clients with the same login share a token. Does not own: setting tokens in clients (`login`).
//! librdkafka would need libcurl for this, which is not linked.
//! Invariant: no error text of this module contains a secret or a token.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use highwater_connector_api::tls;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use ureq::tls::{PemItem, TlsConfig, parse_pem};

/// Timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest lifetime used: a token that is valid for longer is treated as valid for a year.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Maximum size of an answer in bytes.
const ANSWER_BYTES: u64 = 1 << 20;
/// Maximum number of characters of the endpoint's error message in an error.
const WORDS: usize = 300;

/// The token endpoint, and the client's credentials there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Oidc {
    endpoint: String,
    client_id: String,
    client_secret: String,
    scope: Option<String>,
    extensions: Vec<(String, String)>,
    authorities: Authorities,
}

/// Certificate authorities that the endpoint's certificate is verified against.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Authorities {
    Systems,
    File(String),
    Pem(String),
}

/// A token for brokers.
#[derive(Clone)]
pub struct Token {
    pub value: String,
    pub principal: String,
    pub extensions: Vec<(String, String)>,
    pub ends_at_epoch_ms: i64,
    pub ends_at: Instant,
    pub renew_at: Instant,
}

/// Removes the properties of this login from those meant for librdkafka. Returns `None` if the mechanism is not
/// OAUTHBEARER.
pub fn take(properties: &mut BTreeMap<String, String>) -> Result<Option<Oidc>, String> {
    let mut out = |name: &str| properties.remove(name);
    let mut own = |name: &str| out(&format!("sasl.oauthbearer.{name}"));
    let (endpoint, client_id) = (own("token.endpoint.url"), own("client.id"));
    let (client_secret, scope, extensions) = (own("client.secret"), own("scope"), own("extensions"));
    own("method");
    let authorities = match (out("https.ca.pem"), out("https.ca.location")) {
        (Some(pem), _) => Authorities::Pem(pem),
        (None, Some(path)) => Authorities::File(path),
        (None, None) => Authorities::Systems,
    };
    let mechanism = ["sasl.mechanism", "sasl.mechanisms"].into_iter().find_map(|name| properties.get(name));
    if !mechanism.is_some_and(|mechanism| mechanism.eq_ignore_ascii_case("OAUTHBEARER")) {
        return Ok(None);
    }
    let needed = |value: Option<String>, name: &str| {
        value.ok_or_else(|| format!("the login OAUTHBEARER needs 'kafka.sasl.oauthbearer.{name}'"))
    };
    Ok(Some(Oidc {
        endpoint: needed(endpoint, "token.endpoint.url")?,
        client_id: needed(client_id, "client.id")?,
        client_secret: needed(client_secret, "client.secret")?,
        scope,
        extensions: extensions.as_deref().map(parse_extensions).transpose()?.unwrap_or_default(),
        authorities,
    }))
}

/// Parses `name=value,name=value`.
fn parse_extensions(text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        Some((name.trim().to_string(), value.trim().to_string()))
    };
    text.split(',')
        .map(pair)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| "'kafka.sasl.oauthbearer.extensions' is written 'name=value,name=value'".to_string())
}

type Slot = Arc<Mutex<Option<Token>>>;

/// Returns a token that is not due for renewal: the cached one, or a new one. Blocks.
pub fn token(oidc: &Oidc) -> Result<Token, String> {
    static SLOTS: OnceLock<Mutex<BTreeMap<Oidc, Slot>>> = OnceLock::new();
    let slot = {
        let mut slots = SLOTS.get_or_init(Mutex::default).lock();
        let is_over = |slot: &Slot| {
            Arc::strong_count(slot) == 1 && slot.lock().as_ref().is_none_or(|token| token.ends_at <= Instant::now())
        };
        slots.retain(|_, slot| !is_over(slot));
        slots.entry(oidc.clone()).or_default().clone()
    };
    // The lock of one login only: an endpoint that does not answer must not block other logins.
    let mut known = slot.lock();
    if let Some(token) = known.as_ref().filter(|token| token.renew_at > Instant::now()) {
        return Ok(token.clone());
    }
    let token = fetch(oidc).map_err(|reason| format!("no token from {}: {reason}", oidc.endpoint))?;
    *known = Some(token.clone());
    Ok(token)
}

fn fetch(oidc: &Oidc) -> Result<Token, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .tls_config(trust(&oidc.authorities)?)
        .build()
        .into();
    let login = STANDARD.encode(format!("{}:{}", oidc.client_id, oidc.client_secret));
    let mut form = vec![("grant_type", "client_credentials")];
    form.extend(oidc.scope.as_deref().map(|scope| ("scope", scope)));
    let mut answer = agent
        .post(&oidc.endpoint)
        .header("Authorization", format!("Basic {login}"))
        .header("Accept", "application/json")
        .send_form(form)
        .map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec().map_err(|error| error.to_string())?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if !status.is_success() {
        let words = ["error", "error_description"].map(|key| body[key].as_str().unwrap_or_default());
        let words: String = words.join(" ").trim().chars().take(WORDS).collect();
        return Err(format!("the endpoint answered {status} {words}").trim_end().to_string());
    }
    let value = body["access_token"].as_str().ok_or("its answer has no access_token")?;
    read(value, body["expires_in"].as_f64(), oidc)
}

/// Makes a `Token` of the answer's `access_token`. Expiry and principal are read from the token if it is a JWT;
/// otherwise from `expires_in` (in seconds) and the client id.
fn read(value: &str, expires_in: Option<f64>, oidc: &Oidc) -> Result<Token, String> {
    let claims: Value = value
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok())
        .and_then(|claims| serde_json::from_slice(&claims).ok())
        .unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ends = claims["exp"].as_f64().or(expires_in.map(|left| now.as_secs_f64() + left));
    let ends = ends.ok_or("neither the token nor the endpoint's answer says when the token expires")?;
    if ends.is_nan() || ends <= now.as_secs_f64() {
        return Err("the token has expired already: the clocks differ, or the endpoint returns old tokens".into());
    }
    let ends = Duration::from_secs_f64(ends.min((now + YEAR).as_secs_f64()));
    let left = ends.saturating_sub(now);
    Ok(Token {
        value: value.to_string(),
        principal: claims["sub"].as_str().unwrap_or(&oidc.client_id).to_string(),
        extensions: oidc.extensions.clone(),
        ends_at_epoch_ms: i64::try_from(ends.as_millis()).unwrap_or(i64::MAX),
        ends_at: Instant::now() + left,
        renew_at: Instant::now() + left.mul_f64(0.8),
    })
}

fn trust(authorities: &Authorities) -> Result<TlsConfig, String> {
    let read = |pem: &[u8], of: &str| {
        let mut found = Vec::new();
        for item in parse_pem(pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|error| format!("{of}: {error}"))? {
                found.push(certificate);
            }
        }
        if found.is_empty() { Err(format!("{of} holds no certificate in PEM")) } else { Ok(found) }
    };
    let certificates = match authorities {
        Authorities::Pem(pem) => read(pem.as_bytes(), "'kafka.https.ca.pem'")?,
        Authorities::File(path) => {
            let pem = std::fs::read(path).map_err(|error| format!("'kafka.https.ca.location' {path}: {error}"))?;
            read(&pem, path)?
        }
        Authorities::Systems => tls::system_authorities(),
    };
    Ok(tls::config(certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let all = [
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.oauthbearer.client.id", "me"),
            ("sasl.oauthbearer.client.secret", "hunter2"),
            ("sasl.oauthbearer.token.endpoint.url", "https://127.0.0.1:1/token"),
            ("client.id", "highwater"),
        ];
        all.iter().chain(more).map(|(key, value)| ((*key).to_string(), (*value).to_string())).collect()
    }

    #[test]
    fn its_properties_do_not_reach_librdkafka() {
        let mut all = properties(&[("sasl.oauthbearer.extensions", "logicalCluster=lkc-1, pool=p")]);
        let oidc = take(&mut all).unwrap().unwrap();
        let left: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(left, ["client.id", "sasl.mechanism"]);
        let pairs = [("logicalCluster", "lkc-1"), ("pool", "p")];
        assert_eq!(oidc.extensions, pairs.map(|(name, value)| (name.to_string(), value.to_string())));
        let mut lacking = properties(&[]);
        lacking.remove("sasl.oauthbearer.client.secret");
        assert!(take(&mut lacking).err().unwrap().contains("client.secret"));
        let mut other = properties(&[("sasl.mechanism", "PLAIN")]);
        assert!(take(&mut other).unwrap().is_none());
    }

    #[test]
    fn a_token_tells_its_end_and_its_owner() {
        let oidc = take(&mut properties(&[])).unwrap().unwrap();
        let end = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 100;
        let claims = URL_SAFE_NO_PAD.encode(format!("{{\"sub\":\"svc\",\"exp\":{end}}}"));
        let token = read(&format!("e30.{claims}.x"), None, &oidc).unwrap();
        assert_eq!((token.principal.as_str(), token.ends_at_epoch_ms / 1000), ("svc", i64::try_from(end).unwrap()));
        assert!(token.renew_at < token.ends_at);
        let opaque = read("opaque", Some(60.0), &oidc).unwrap();
        assert_eq!(opaque.principal, "me");
        assert!(read("opaque", None, &oidc).is_err() && read("opaque", Some(-1.0), &oidc).is_err());
    }

    #[test]
    fn an_endpoint_that_is_not_there_is_named_without_the_secret() {
        let oidc = take(&mut properties(&[])).unwrap().unwrap();
        let error = token(&oidc).err().unwrap();
        assert!(
            error.starts_with("no token from https://127.0.0.1:1/token: ") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
