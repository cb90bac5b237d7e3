//! What is wrong with certificates, tokens and addresses, and what to do about it.

use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// Why a process does not start, or keeps using what it read before.
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
        "{flag} {address} can be reached from other machines, and nothing keeps strangers out: set --tokens F.toml (with \
         --tls-cert and --tls-key, so that tokens do not travel in the clear) or --tls-client-ca F, or listen on 127.0.0.1"
    )]
    OpenDriver { flag: &'static str, address: SocketAddr },
    #[error(
        "--listen {address} can be reached from other machines, and this executor has nothing to show to a driver that \
         keeps strangers out: set HIGHWATER_TOKEN to a token of role executor, or --tls-cert and --tls-key, or listen on \
         127.0.0.1"
    )]
    OpenExecutor { address: SocketAddr },
    #[error(
        "--listen {address} can be reached from other machines, and rows would travel there in the clear although the \
         driver uses TLS: set --tls-cert and --tls-key, or listen on 127.0.0.1"
    )]
    PlainExecutor { address: SocketAddr },
}
