//! TLS settings from PEM files.
//!
//! Owns: protocol versions and verification. Invariants: one crypto provider (ring), named wherever it is used, so that
//! no process-wide default matters; TLS 1.2 and 1.3 only; a client certificate is optional in the handshake, since
//! health checks are open, and verified if shown; `guard` requires it where needed.

use crate::error::SecurityError;
use crate::options::{CertificateFiles, ClientSecurity};
use crate::reload::Reloading;
use crate::trust::Trust;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The protocol spoken over the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 only.
    Grpc,
    Http,
}

impl Protocol {
    fn names(self) -> Vec<Vec<u8>> {
        match self {
            Self::Grpc => vec![b"h2".to_vec()],
            Self::Http => vec![b"http/1.1".to_vec()],
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The configuration of a server: its certificate, and the CA of client certificates, if any.
pub fn server(
    certificate: &CertificateFiles,
    client_ca: Option<&Path>,
    protocol: Protocol,
) -> Result<Reloading<ServerConfig>, SecurityError> {
    let certificate = certificate.clone();
    let client_ca = client_ca.map(Path::to_path_buf);
    let mut files = vec![certificate.cert.clone(), certificate.key.clone()];
    files.extend(client_ca.clone());
    Reloading::load(files, move |contents| {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match &client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots(path, &contents[2])?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let (chain, key) = identity(&certificate, &contents[0], &contents[1])?;
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = protocol.names();
        Ok(config)
    })
}

/// The configuration of a client; `None` if no CA is given, which `https://` needs.
pub fn client(security: &ClientSecurity) -> Result<Option<Reloading<ClientConfig>>, SecurityError> {
    let Some(ca) = security.ca.clone() else {
        return match &security.certificate {
            None => Ok(None),
            Some(_) => Err(SecurityError::Options(
                "--tls-cert and --tls-key need --tls-ca: without it no server can be verified, and they are not sent \
                 to any"
                    .into(),
            )),
        };
    };
    let certificate = security.certificate.clone();
    let mut files = vec![ca.clone()];
    files.extend(certificate.iter().flat_map(|files| [files.cert.clone(), files.key.clone()]));
    let reloading = Reloading::load(files, move |contents| {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let given = certificates(&ca, &contents[0])?;
        let trust = Trust::new(roots(&ca, &contents[0])?, given, provider())?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(trust));
        let mut config = match &certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = identity(files, &contents[1], &contents[2])?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = Protocol::Grpc.names();
        Ok(config)
    })?;
    Ok(Some(reloading))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(files: &CertificateFiles, cert: &[u8], key: &[u8]) -> Result<Identity, SecurityError> {
    let chain = certificates(&files.cert, cert)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| SecurityError::Content {
        path: files.key.clone(),
        problem: format!("has no usable private key in PEM ({error}); encrypted keys are not supported"),
    })?;
    Ok((chain, key))
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, SecurityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let wrong = |problem: String| SecurityError::Content { path: PathBuf::from(path), problem };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| wrong(format!("is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(wrong("has no certificate in PEM".into()));
    }
    Ok(found)
}
