//! The configuration file, and what holds when it, the environment and the command line disagree.
//!
//! Owns: the file's keys, defaults, precedence (flag, environment, file, default). The environment reaches us
//! through clap. Invariant: an unknown key is refused with the nearest known one.

use crate::cli::{DriverArgs, ExecutorArgs, Global, LogFormat};
use crate::failure::Failure;
use highwater_core::names::nearest;
use serde::Deserialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where clients and executors look for the driver when nothing says otherwise.
pub const DEFAULT_DRIVER: &str = "http://127.0.0.1:7070";
const DEFAULT_DATA_DIR: &str = "./highwater-data";
const DEFAULT_LEASE_MS: u64 = 3_000;

/// Every key of the file, by section; "" is the top level.
const KEYS: &[(&str, &[&str])] = &[
    ("", &["driver_url", "log_format", "driver", "executor"]),
    ("driver", &["listen", "http", "data_dir", "lease_ms"]),
    ("executor", &["slots", "listen", "advertise", "query_memory", "data_dir"]),
];

/// The file as parsed. Everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// URL of the driver, for clients and executors.
    pub driver_url: Option<String>,
    pub log_format: Option<LogFormat>,
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
}

/// A driver's settings, all decided.
#[derive(Clone, Debug, PartialEq)]
pub struct DriverSettings {
    pub listen: SocketAddr,
    pub http: SocketAddr,
    pub data_dir: PathBuf,
    pub lease_ms: u64,
}

/// An executor's settings, all decided.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecutorSettings {
    pub driver_url: String,
    pub slots: u32,
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    /// Bytes; `None`: a share of what there is.
    pub query_memory: Option<u64>,
    pub data_dir: Option<PathBuf>,
}

impl Config {
    /// Reads the file; no file is an empty one.
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

    /// URL of the driver for this process.
    pub fn driver_url(&self, global: &Global) -> String {
        let given = global.driver.clone().filter(|url| !url.trim().is_empty());
        let url = given.or_else(|| self.driver_url.clone()).unwrap_or_else(|| DEFAULT_DRIVER.to_string());
        if url.contains("://") { url } else { format!("http://{url}") }
    }

    pub fn driver(&self, args: &DriverArgs) -> DriverSettings {
        let file = &self.driver;
        DriverSettings {
            listen: args.listen.or(file.listen).unwrap_or_else(|| loopback(7070)),
            http: args.http.or(file.http).unwrap_or_else(|| loopback(7071)),
            data_dir: self.data_dir(args.data_dir.clone()),
            lease_ms: args.lease_ms.or(file.lease_ms).unwrap_or(DEFAULT_LEASE_MS),
        }
    }

    pub fn executor(&self, args: &ExecutorArgs, global: &Global) -> ExecutorSettings {
        let file = &self.executor;
        ExecutorSettings {
            driver_url: self.driver_url(global),
            slots: args.slots.or(file.slots).unwrap_or_else(cores),
            listen: args.listen.or(file.listen).unwrap_or_else(|| loopback(0)),
            advertise: args.advertise.clone().or_else(|| file.advertise.clone()),
            query_memory: args.query_memory.or_else(|| file.query_memory.map(|size| size.as_u64())),
            data_dir: args.data_dir.clone().or_else(|| file.data_dir.clone()),
        }
    }

    /// Folder of the checkpoints.
    pub fn data_dir(&self, flag: Option<PathBuf>) -> PathBuf {
        flag.or_else(|| self.driver.data_dir.clone()).unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR))
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// One slot per core this process may use.
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
        assert_eq!(config.driver(&flags).listen.to_string(), "127.0.0.1:1");
        let settings = config.driver(&DriverArgs::default());
        assert_eq!(settings.listen.to_string(), "0.0.0.0:9000");
        assert_eq!(settings.http.to_string(), "127.0.0.1:7071");
        assert_eq!(settings.data_dir, PathBuf::from("/var/lib/highwater"));
        assert_eq!(settings.lease_ms, 3_000);
        let defaults = Config::default().driver(&DriverArgs::default());
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
        let settings = Config::default().executor(&ExecutorArgs::default(), &Global::default());
        assert_eq!((settings.listen.port(), settings.slots), (0, cores()));
        let config = Config::parse(FILE).unwrap();
        let settings = config.executor(&ExecutorArgs::default(), &Global::default());
        assert_eq!((settings.slots, settings.query_memory), (8, Some(2 << 30)));
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
