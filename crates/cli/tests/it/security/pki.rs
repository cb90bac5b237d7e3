//! A CA for tests, and the files it creates.

use highwater_security::{CertificateFiles, ClientSecurity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::path::{Path, PathBuf};

/// A certificate authority with its files in a folder.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    /// File of its certificate.
    pub file: PathBuf,
}

impl Ca {
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder: folder.to_path_buf(), file }
    }

    /// Writes NAME.pem and NAME.key for these hosts.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> CertificateFiles {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let files = CertificateFiles {
            cert: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
        };
        std::fs::write(&files.cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// Settings of a client that trusts this CA, and shows a certificate if one is given.
    pub fn client(&self, certificate: Option<&CertificateFiles>) -> ClientSecurity {
        ClientSecurity { ca: Some(self.file.clone()), certificate: certificate.cloned(), token: None }
    }
}

/// Flags `--tls-cert` and `--tls-key`.
pub fn flags(files: &CertificateFiles) -> [&str; 4] {
    ["--tls-cert", files.cert.to_str().unwrap(), "--tls-key", files.key.to_str().unwrap()]
}
