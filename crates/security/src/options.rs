//! The security settings of servers and clients, as flags and configuration set them.

use crate::credentials::Token;
use std::path::PathBuf;

/// A certificate chain and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What protects a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverSecurity {
    /// Both ports use TLS with it; `None`: both are plain.
    pub certificate: Option<CertificateFiles>,
    /// CA of client certificates. A certificate signed by it identifies an executor or, if there are no tokens, any
    /// caller.
    pub client_ca: Option<PathBuf>,
    /// The file of tokens.
    pub tokens: Option<PathBuf>,
}

impl DriverSecurity {
    /// True if anyone who can connect may call anything. Such a driver listens on loopback only.
    pub fn is_open(&self) -> bool {
        self.tokens.is_none() && self.client_ca.is_none()
    }
}

/// How a client or an executor verifies servers, and identifies itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSecurity {
    /// CA of the servers' certificates, and, for an executor, of those of other executors.
    pub ca: Option<PathBuf>,
    /// Shown to servers; an executor also serves with it.
    pub certificate: Option<CertificateFiles>,
    /// Shown to the driver.
    pub token: Option<Token>,
}
