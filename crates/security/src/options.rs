//! The settings of both sides, as flags and configuration give them.

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
    /// Both ports speak TLS with it; none: both are plain.
    pub certificate: Option<CertificateFiles>,
    /// Certificates signed by it are taken for executors; without tokens, for anybody.
    pub client_ca: Option<PathBuf>,
    /// The file of tokens.
    pub tokens: Option<PathBuf>,
}

impl DriverSecurity {
    /// True where anybody who can connect may call anything. Such a driver listens on loopback only.
    pub fn is_open(&self) -> bool {
        self.tokens.is_none() && self.client_ca.is_none()
    }
}

/// What a client or an executor trusts and shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientSecurity {
    /// Signs the servers' certificates; an executor takes it for other executors' too.
    pub ca: Option<PathBuf>,
    /// Shown to servers; an executor serves with it.
    pub certificate: Option<CertificateFiles>,
    /// Shown to the driver.
    pub token: Option<Token>,
}
