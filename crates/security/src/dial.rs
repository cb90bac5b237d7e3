//! Opens connections, plain for `http://` and TLS for `https://`, and explains failures.
//!
//! Owns: connecting and the handshake, for tonic's channels. They call this again on every reconnect, so files that
//! were read again are used from the next connection on.

use crate::incoming::SPEAKS_TLS;
use crate::reload::Reloading;
use crate::stream::Stream;
use crate::trust::is_ca_shown;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

/// How long to wait for a server to report why it ended a connection.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    tls: Option<Reloading<ClientConfig>>,
}

/// Why a connection could not be opened.
#[derive(Debug, Error)]
pub enum DialError {
    #[error("{0} has no host")]
    NoHost(Uri),
    #[error(
        "{0} needs --tls-ca F (or HIGHWATER_TLS_CA): the certificate of the CA that signed the server's certificate"
    )]
    NoCa(Uri),
    #[error("cannot connect to {address}")]
    Connect { address: String, source: io::Error },
    /// A retry does not help: certificates or URLs are wrong.
    #[error("{0}")]
    Tls(String),
    #[error("the TLS handshake with {address} was interrupted")]
    Handshake { address: String, source: io::Error },
}

impl Dialer {
    pub fn new(tls: Option<Reloading<ClientConfig>>) -> Self {
        Self { tls }
    }

    /// Like [`explain`], for a failed call. A server that refuses the client's certificate says so after the handshake
    /// (TLS 1.3), and HTTP/2 may see only that the connection ended; then another connection is opened to read the
    /// reason.
    pub async fn explain(&self, uri: &Uri, status: &Status) -> Option<String> {
        let known = explain(status);
        let vague = matches!(status.code(), Code::Cancelled | Code::Unknown | Code::Unavailable);
        if known.is_some() || !vague || uri.scheme_str() != Some("https") {
            return known;
        }
        let listen = async {
            let mut stream = self.clone().dial(uri.clone()).await.ok()?;
            // A gRPC server sends its settings first, without being asked.
            stream.read_u8().await.err().and_then(|error| explain(&error))
        };
        tokio::time::timeout(LISTEN_TIMEOUT, listen).await.ok().flatten()
    }

    async fn dial(self, uri: Uri) -> Result<Stream, DialError> {
        let Some(host) = uri.host() else { return Err(DialError::NoHost(uri)) };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let address = format!("{host}:{port}");
        let config = match (secure, &self.tls) {
            (false, _) => None,
            (true, None) => return Err(DialError::NoCa(uri)),
            (true, Some(tls)) => Some(tls.current()),
        };
        let connected = TcpStream::connect((host.as_str(), port)).await;
        let stream = connected.map_err(|source| DialError::Connect { address: address.clone(), source })?;
        // Only reduces latency; a failure does not matter.
        let _ = stream.set_nodelay(true);
        let Some(config) = config else { return Ok(Stream::plain(stream)) };
        let name = ServerName::try_from(host)
            .map_err(|_| DialError::Tls(format!("{address} is not a name that a certificate can have")))?;
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(Stream::tls(stream)),
            Err(source) => Err(match rustls_error(&source) {
                Some(error) => DialError::Tls(sentence(&address, error)),
                None => DialError::Handshake { address, source },
            }),
        }
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<Stream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.dial(uri).await.map(TokioIo::new) })
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Explains a TLS error to the user.
fn sentence(address: &str, error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(_) => {
            format!("{address} does not speak TLS: use http://, or start the server with --tls-cert and --tls-key")
        }
        rustls::Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => {
                format!("the certificate of {address} is not signed by the CA that --tls-ca names")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "{address} has a certificate for other names ({problem}); use one of those names, or add this one \
                     to the certificate"
                )
            }
            problem if is_ca_shown(problem) => {
                format!("{address} has a self-signed certificate, which is not the one that --tls-ca names")
            }
            problem => format!("the certificate of {address} was refused: {problem}"),
        },
        rustls::Error::AlertReceived(alert) => alert_sentence(address, &format!("{alert:?}")),
        error => format!("TLS with {address} failed: {error}"),
    }
}

fn alert_sentence(address: &str, alert: &str) -> String {
    format!("{address} refuses the certificate that --tls-cert names, or the handshake ({alert})")
}

/// Explains why a connection or a call failed: [`explain`], or else the innermost cause (`connection refused` rather
/// than `transport error`).
pub fn reason(error: &(dyn Error + 'static)) -> String {
    explain(error).unwrap_or_else(|| {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        innermost.to_string()
    })
}

/// Explains an error that a retry does not fix: TLS on one side only, certificates refused. `None` for other errors.
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(dial @ (DialError::Tls(_) | DialError::NoCa(_) | DialError::NoHost(_))) = error.downcast_ref() {
            return Some(dial.to_string());
        }
        if let Some(refused) = error.downcast_ref::<io::Error>().and_then(rustls_error) {
            return Some(sentence("the server", refused));
        }
        // Errors that came over HTTP/2 are text only.
        let text = error.to_string();
        if text.contains(SPEAKS_TLS) {
            return Some(SPEAKS_TLS.to_string());
        }
        if let Some((_, alert)) = text.split_once("received fatal alert: ") {
            return Some(alert_sentence("the server", alert));
        }
        next = error.source();
    }
    None
}
