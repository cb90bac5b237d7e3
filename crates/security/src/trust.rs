//! Which server a client trusts: one whose certificate the CA signed, or that shows the CA's certificate itself.
//!
//! The latter is what `openssl req -x509` creates in one step, and OpenSSL and Go accept it; webpki rejects a CA's
//! certificate as that of a server. It is accepted only if it equals, byte for byte, a certificate that the user gave.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, VerifierBuilderError};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

#[derive(Debug)]
pub struct Trust {
    signed: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

/// True if the only problem of a certificate is that it is a CA's. Its dates were checked before.
pub fn is_ca_shown(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity")
}

impl Trust {
    pub fn new(
        roots: RootCertStore,
        given: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { signed, given })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(problem)) if is_ca_shown(&problem) && self.given.contains(end_entity) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    fn self_signed(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["one.test".to_string()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn trust(certificate: &CertificateDer<'static>) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        Trust::new(roots, vec![certificate.clone()], Arc::new(rustls::crypto::ring::default_provider())).unwrap()
    }

    #[test]
    fn only_the_given_ca_is_accepted_as_a_servers_certificate() {
        let (given, other, old) = (self_signed(4000), self_signed(4000), self_signed(2000));
        let check = |trust: &Trust, shown: &CertificateDer<'static>, name: &'static str| {
            trust.verify_server_cert(shown, &[], &ServerName::try_from(name).unwrap(), &[], UnixTime::now()).is_ok()
        };
        assert!(check(&trust(&given), &given, "one.test"));
        assert!(!check(&trust(&given), &given, "two.test"), "another name");
        assert!(!check(&trust(&given), &other, "one.test"), "another certificate");
        assert!(!check(&trust(&old), &old, "one.test"), "expired");
    }
}
