//! Errors about certificates, tokens and addresses, and what to do about them.

use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// Why a process does not start, or keeps using the files it read before.
#[derive(Debug, Error)]
pub enum SecurityError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} {problem}")]
    Content { path: PathBuf, problem: String },
    #[error("certificate and key cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
    #[error("the CA's certificates cannot be used: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("{0}")]
    Options(String),
    #[error(
        "{flag} {address} can be reached from other machines, but callers need neither a token nor a certificate: set \
         --tokens F.toml (with --tls-cert and --tls-key, so that tokens do not travel in the clear) or --tls-client-ca \
         F, or listen on 127.0.0.1"
    )]
    OpenDriver { flag: &'static str, address: SocketAddr },
    #[error(
        "--listen {address} can be reached from other machines, but this executor has no credentials for a driver that \
         requires them: set HIGHWATER_TOKEN to a token of role executor, or --tls-cert and --tls-key, or listen on \
         127.0.0.1"
    )]
    OpenExecutor { address: SocketAddr },
    #[error(
        "--listen {address} can be reached from other machines, so rows would travel there in the clear although the \
         driver uses TLS: set --tls-cert and --tls-key, or listen on 127.0.0.1"
    )]
    PlainExecutor { address: SocketAddr },
}
