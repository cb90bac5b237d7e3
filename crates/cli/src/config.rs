//! The configuration file, and its precedence relative to the environment and the command line.
//!
//! Owns: the file's keys, defaults, precedence (flag, environment, file, default). clap reads the environment.
//! Invariant: an unknown key is refused, with the nearest known one.

use crate::cli::{AccessArgs, DriverArgs, ExecutorArgs, Global, LogFormat};
use crate::failure::Failure;
use highwater_connector_api::access::AccessPolicy;
use highwater_protocol::names::nearest;
use highwater_security::credentials::Token;
use highwater_security::{CertificateFiles, ClientSecurity, DriverSecurity};
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The driver's URL for clients and executors if none is given.
pub const DEFAULT_DRIVER: &str = "http://127.0.0.1:7070";
const DEFAULT_DATA_DIR: &str = "./highwater-data";
const DEFAULT_LEASE_MS: u64 = 3_000;

const DRIVER_KEYS: &[&str] = &[
    "listen",
    "http",
    "data_dir",
    "lease_ms",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tokens",
    "allow_env",
    "allow_path",
];

const EXECUTOR_KEYS: &[&str] =
    &["slots", "listen", "advertise", "query_memory", "data_dir", "tls_cert", "tls_key", "allow_env", "allow_path"];

/// Every key of the file, by section; "" is the top level.
const KEYS: &[(&str, &[&str])] = &[
    ("", &["driver_url", "log_format", "tls_ca", "tls_cert", "tls_key", "driver", "executor"]),
    ("driver", DRIVER_KEYS),
    ("executor", EXECUTOR_KEYS),
];

/// The parsed file. All keys are optional.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// URL of the driver, for clients and executors.
    pub driver_url: Option<String>,
    pub log_format: Option<LogFormat>,
    /// CA of the driver's and the executors' certificates.
    pub tls_ca: Option<PathBuf>,
    /// Shown by clients, and by executors without a certificate of their own.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub driver: DriverSection,
    pub executor: ExecutorSection,
}

/// `[driver]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DriverSection {
    pub listen: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    pub data_dir: Option<PathBuf>,
    pub lease_ms: Option<u64>,
    pub allow_env: Option<Vec<String>>,
    pub allow_path: Option<Vec<PathBuf>>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_client_ca: Option<PathBuf>,
    pub tokens: Option<PathBuf>,
}

/// `[executor]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ExecutorSection {
    pub slots: Option<u32>,
    pub listen: Option<SocketAddr>,
    pub advertise: Option<String>,
    pub query_memory: Option<bytesize::ByteSize>,
    pub data_dir: Option<PathBuf>,
    pub allow_env: Option<Vec<String>>,
    pub allow_path: Option<Vec<PathBuf>>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
}

/// A driver's settings, with defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub struct DriverSettings {
    pub listen: SocketAddr,
    pub http: SocketAddr,
    pub data_dir: PathBuf,
    pub lease_ms: u64,
    pub access: AccessPolicy,
    pub security: DriverSecurity,
}

/// An executor's settings, with defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorSettings {
    pub driver_url: String,
    pub slots: u32,
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    /// Bytes; `None`: half of the memory of the machine or container.
    pub query_memory: Option<u64>,
    pub data_dir: Option<PathBuf>,
    pub access: AccessPolicy,
    pub security: ClientSecurity,
}

impl Config {
    /// Reads the file; without a path, returns an empty configuration.
    pub fn load(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::invalid(format!("cannot read the configuration {}: {error}", path.display())))?;
        Self::parse(&text).map_err(|message| Failure::invalid(format!("{}: {message}", path.display())))
    }

    /// Parses the file's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
        check_keys("", &table)?;
        for (section, value) in &table {
            if let toml::Value::Table(inner) = value {
                check_keys(section, inner)?;
            }
        }
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// URL of the driver. A URL without a scheme gets https:// if a CA is given, else http://.
    pub fn driver_url(&self, global: &Global) -> String {
        let given = global.driver.clone().filter(|url| !url.trim().is_empty());
        let url = given.or_else(|| self.driver_url.clone()).unwrap_or_else(|| DEFAULT_DRIVER.to_string());
        let scheme = if self.tls_ca(global).is_some() { "https" } else { "http" };
        if url.contains("://") { url } else { format!("{scheme}://{url}") }
    }

    fn tls_ca(&self, global: &Global) -> Option<PathBuf> {
        global.tls_ca.clone().filter(|path| !path.as_os_str().is_empty()).or_else(|| self.tls_ca.clone())
    }

    /// What a client trusts and shows. The token is taken only from the environment, where process lists do not show
    /// it.
    pub fn client_security(&self, global: &Global) -> Result<ClientSecurity, Failure> {
        let certificate = pair(&global.tls_cert, &global.tls_key)?;
        let certificate = certificate.map_or_else(|| pair(&self.tls_cert, &self.tls_key), |given| Ok(Some(given)))?;
        Ok(ClientSecurity { ca: self.tls_ca(global), certificate, token: token()? })
    }

    pub fn driver(&self, args: &DriverArgs, global: &Global) -> Result<DriverSettings, Failure> {
        let file = &self.driver;
        let listen = args.listen.or(file.listen).unwrap_or_else(|| loopback(7070));
        let certificate = pair(&global.tls_cert, &global.tls_key)?;
        let security = DriverSecurity {
            certificate: certificate.map_or_else(|| pair(&file.tls_cert, &file.tls_key), |given| Ok(Some(given)))?,
            client_ca: args.tls_client_ca.clone().or_else(|| file.tls_client_ca.clone()),
            tokens: args.tokens.clone().or_else(|| file.tokens.clone()),
        };
        let trusted = listen.ip().is_loopback() && security.tokens.is_none();
        Ok(DriverSettings {
            listen,
            http: args.http.or(file.http).unwrap_or_else(|| loopback(7071)),
            data_dir: self.data_dir(args.data_dir.clone()),
            lease_ms: args.lease_ms.or(file.lease_ms).unwrap_or(DEFAULT_LEASE_MS),
            access: access(&args.access, &file.allow_env, &file.allow_path, trusted),
            security,
        })
    }

    pub fn executor(&self, args: &ExecutorArgs, global: &Global) -> Result<ExecutorSettings, Failure> {
        let file = &self.executor;
        let listen = args.listen.or(file.listen).unwrap_or_else(|| loopback(0));
        let mut security = self.client_security(global)?;
        if let (None, Some(own)) = (&global.tls_cert, pair(&file.tls_cert, &file.tls_key)?) {
            security.certificate = Some(own);
        }
        let trusted = listen.ip().is_loopback() && security.token.is_none();
        Ok(ExecutorSettings {
            driver_url: self.driver_url(global),
            slots: args.slots.or(file.slots).unwrap_or_else(cores),
            listen,
            advertise: args.advertise.clone().or_else(|| file.advertise.clone()),
            query_memory: args.query_memory.or_else(|| file.query_memory.map(|size| size.as_u64())),
            data_dir: args.data_dir.clone().or_else(|| file.data_dir.clone()),
            access: access(&args.access, &file.allow_env, &file.allow_path, trusted),
            security,
        })
    }

    /// Folder of the checkpoints.
    pub fn data_dir(&self, flag: Option<PathBuf>) -> PathBuf {
        flag.or_else(|| self.driver.data_dir.clone()).unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR))
    }
}

/// `trusted`: only users of this machine reach the process, and they are not distinguished. Then scripts may refer to
/// everything unless a list restricts that.
fn access(
    args: &AccessArgs,
    file_env: &Option<Vec<String>>,
    file_paths: &Option<Vec<PathBuf>>,
    trusted: bool,
) -> AccessPolicy {
    let env = args.allow_env.clone().or_else(|| file_env.clone());
    let paths = args.allow_path.clone().or_else(|| file_paths.clone());
    AccessPolicy::new(trusted, env, paths)
}

/// Certificate and key, which must be given together or not at all.
fn pair(cert: &Option<PathBuf>, key: &Option<PathBuf>) -> Result<Option<CertificateFiles>, Failure> {
    match (cert.clone(), key.clone()) {
        (Some(cert), Some(key)) => Ok(Some(CertificateFiles { cert, key })),
        (None, None) => Ok(None),
        _ => Err(Failure::invalid("tls_cert and tls_key must come together: set both, or neither")),
    }
}

/// The token of this process.
fn token() -> Result<Option<Token>, Failure> {
    match std::env::var("HIGHWATER_TOKEN") {
        Ok(text) if !text.trim().is_empty() => {
            Token::parse(&text).map(Some).map_err(|wrong| Failure::invalid(format!("HIGHWATER_TOKEN: {wrong}")))
        }
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(Failure::invalid(format!("HIGHWATER_TOKEN: {error}"))),
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// One slot per core that this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

fn check_keys(section: &str, table: &toml::Table) -> Result<(), String> {
    let Some((_, known)) = KEYS.iter().find(|(name, _)| *name == section) else { return Ok(()) };
    for key in table.keys() {
        if known.contains(&key.as_str()) {
            continue;
        }
        let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        return Err(format!("unknown key `{key}`{place}; {hint}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
driver_url = "http://file:1"
log_format = "json"
[driver]
listen = "0.0.0.0:9000"
data_dir = "/var/lib/highwater"
[executor]
slots = 8
query_memory = "2GiB"
"#;

    #[test]
    fn a_flag_comes_before_the_file_and_the_file_before_the_default() {
        let config = Config::parse(FILE).unwrap();
        let flags = DriverArgs { listen: Some("127.0.0.1:1".parse().unwrap()), ..DriverArgs::default() };
        let none = Global::default();
        assert_eq!(config.driver(&flags, &none).unwrap().listen.to_string(), "127.0.0.1:1");
        let settings = config.driver(&DriverArgs::default(), &none).unwrap();
        assert_eq!(settings.listen.to_string(), "0.0.0.0:9000");
        assert_eq!(settings.http.to_string(), "127.0.0.1:7071");
        assert_eq!(settings.data_dir, PathBuf::from("/var/lib/highwater"));
        assert_eq!(settings.lease_ms, 3_000);
        let defaults = Config::default().driver(&DriverArgs::default(), &none).unwrap();
        assert_eq!(defaults.listen.to_string(), "127.0.0.1:7070");
        assert_eq!(defaults.data_dir, PathBuf::from("./highwater-data"));
    }

    #[test]
    fn the_driver_is_found_by_flag_or_environment_then_file_then_default() {
        let config = Config::parse(FILE).unwrap();
        let flag = Global { driver: Some("http://flag:1".into()), ..Global::default() };
        assert_eq!(config.driver_url(&flag), "http://flag:1");
        assert_eq!(config.driver_url(&Global::default()), "http://file:1");
        assert_eq!(Config::default().driver_url(&Global::default()), DEFAULT_DRIVER);
        let bare = Global { driver: Some("host:7070".into()), ..Global::default() };
        assert_eq!(config.driver_url(&bare), "http://host:7070");
        let empty = Global { driver: Some(String::new()), ..Global::default() };
        assert_eq!(config.driver_url(&empty), "http://file:1");
    }

    #[test]
    fn executors_take_a_free_port_and_every_core() {
        let settings = Config::default().executor(&ExecutorArgs::default(), &Global::default()).unwrap();
        assert_eq!((settings.listen.port(), settings.slots), (0, cores()));
        let config = Config::parse(FILE).unwrap();
        let settings = config.executor(&ExecutorArgs::default(), &Global::default()).unwrap();
        assert_eq!((settings.slots, settings.query_memory), (8, Some(2 << 30)));
    }

    #[test]
    fn certificates_come_from_flags_then_the_own_section_then_the_top_level() {
        let file = r#"
tls_ca = "ca"
tls_cert = "client.pem"
tls_key = "client.key"
[driver]
tls_cert = "driver.pem"
tls_key = "driver.key"
tokens = "tokens.toml"
[executor]
tls_cert = "executor.pem"
tls_key = "executor.key"
"#;
        let config = Config::parse(file).unwrap();
        let none = Global::default();
        let flags = Global { tls_cert: Some("f.pem".into()), tls_key: Some("f.key".into()), ..none.clone() };
        for (global, client, driver, executor) in
            [(&none, "client.pem", "driver.pem", "executor.pem"), (&flags, "f.pem", "f.pem", "f.pem")]
        {
            let cert = |files: Option<CertificateFiles>| files.unwrap().cert;
            assert_eq!(cert(config.client_security(global).unwrap().certificate), PathBuf::from(client));
            let settings = config.driver(&DriverArgs::default(), global).unwrap();
            assert!(!settings.security.is_open());
            assert_eq!(cert(settings.security.certificate), PathBuf::from(driver));
            let settings = config.executor(&ExecutorArgs::default(), global).unwrap();
            assert_eq!(cert(settings.security.certificate), PathBuf::from(executor));
        }
        let bare = Global { driver: Some("host:7070".into()), ..none };
        assert_eq!(config.driver_url(&bare), "https://host:7070");
        let half = Config::parse("tls_cert = \"c\"").unwrap();
        assert!(half.client_security(&Global::default()).unwrap_err().to_string().contains("come together"));
    }

    #[test]
    fn scripts_reach_everything_on_loopback_and_only_what_is_allowed_elsewhere() {
        let (no_flags, global) = (DriverArgs::default(), Global::default());
        let driver = |config: &Config, args: &DriverArgs| config.driver(args, &global).unwrap().access;
        assert_eq!(driver(&Config::default(), &no_flags), AccessPolicy::ALL);
        let open = Config::parse(FILE).unwrap();
        let none = AccessPolicy::new(false, None, None);
        assert_eq!(driver(&open, &no_flags), none);
        let with_tokens = DriverArgs { tokens: Some("tokens.toml".into()), ..DriverArgs::default() };
        assert_eq!(driver(&Config::default(), &with_tokens), none, "tokens tell users of this machine apart");
        let access = AccessArgs { allow_env: Some(vec!["A".into()]), ..AccessArgs::default() };
        let flags = DriverArgs { access, ..DriverArgs::default() };
        assert_eq!(driver(&open, &flags), AccessPolicy::new(false, Some(vec!["A".into()]), None));
        let file = Config::parse("[executor]\nallow_path = [\"/data\"]").unwrap();
        let expected = AccessPolicy::new(true, None, Some(vec!["/data".into()]));
        assert_eq!(file.executor(&ExecutorArgs::default(), &global).unwrap().access, expected);
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        let error = Config::parse("[driver]\nlisten_ = \"x\"").unwrap_err();
        assert_eq!(error, "unknown key `listen_` in [driver]; did you mean `listen`?");
        let error = Config::parse("zzz = 1").unwrap_err();
        assert!(error.contains("known here: driver_url"), "{error}");
        assert!(Config::parse("[driver]\nlease_ms = \"soon\"").unwrap_err().contains("lease_ms"));
    }
}
