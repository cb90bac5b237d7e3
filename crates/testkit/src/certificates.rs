//! A certificate authority for tests, and certificates it signs.
//!
//! Invariant: everything is for 127.0.0.1 and created anew for each test process.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::path::{Path, PathBuf};

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's own certificate, as PEM.
    pub pem: String,
}

/// A key and its certificate, as PEM.
pub struct Certificate {
    pub pem: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).expect("an authority signs itself").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Signs a certificate for `name` on this machine, valid for servers and clients.
    pub fn sign(&self, name: &str) -> Certificate {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(["localhost".to_string(), "127.0.0.1".to_string()])
            .expect("these are names of hosts");
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.signed_by(&key, &self.issuer).expect("the authority signs").pem();
        Certificate { pem, key: key.serialize_pem() }
    }
}

/// Writes a file. Returns its path as text.
pub fn write(dir: &Path, name: &str, content: &str) -> String {
    let path: PathBuf = dir.join(name);
    std::fs::write(&path, content).expect("a file can be written");
    path.to_str().expect("a file's name is text").to_string()
}
