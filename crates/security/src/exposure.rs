//! Where a server may listen, depending on what protects it.
//!
//! The rule: an address that other machines can reach needs something that authenticates callers. `docs/operations.md`
//! has the table of cases.

use crate::error::SecurityError;
use crate::options::{ClientSecurity, DriverSecurity};
use std::net::{IpAddr, SocketAddr};

/// True for addresses that only this machine can reach.
pub fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Refuses a driver that would admit unauthenticated callers. `addresses`: each with the flag that sets it.
pub fn check_driver(addresses: &[(&'static str, SocketAddr)], security: &DriverSecurity) -> Result<(), SecurityError> {
    if security.client_ca.is_some() && security.certificate.is_none() {
        return Err(SecurityError::Options(
            "--tls-client-ca needs --tls-cert and --tls-key: clients show certificates over TLS only".into(),
        ));
    }
    for (flag, address) in addresses.iter().copied().filter(|(_, address)| !is_local(*address)) {
        if security.is_open() {
            return Err(SecurityError::OpenDriver { flag, address });
        }
        if security.certificate.is_none() {
            tracing::warn!(
                "{flag} {address} can be reached from other machines, so tokens and data would travel there in the \
                 clear: set --tls-cert and --tls-key, unless something else encrypts them"
            );
        }
    }
    Ok(())
}

/// Refuses an executor that would accept batches from unauthenticated senders. Whether the driver authenticates callers
/// is known only after registration, so the session checks that.
pub fn check_executor(listen: SocketAddr, driver_url: &str, security: &ClientSecurity) -> Result<(), SecurityError> {
    if is_local(listen) {
        return Ok(());
    }
    if security.token.is_none() && security.certificate.is_none() {
        return Err(SecurityError::OpenExecutor { address: listen });
    }
    if security.certificate.is_none() && driver_url.starts_with("https://") {
        return Err(SecurityError::PlainExecutor { address: listen });
    }
    Ok(())
}

/// True if a token sent to this URL can be read on its way.
pub fn shows_token(url: &str, security: &ClientSecurity) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| is_local(SocketAddr::new(ip, 0)));
    security.token.is_some() && uri.scheme_str() == Some("http") && !local
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Token;
    use crate::options::CertificateFiles;

    const ANYWHERE: &str = "0.0.0.0:7070";

    fn files() -> Option<CertificateFiles> {
        Some(CertificateFiles { cert: "c".into(), key: "k".into() })
    }

    #[test]
    fn loopback_in_all_its_forms_is_local_and_nothing_else() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(is_local(address.parse().unwrap()), "{address}");
        }
        for address in [ANYWHERE, "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "169.254.0.1:1"] {
            assert!(!is_local(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_driver_is_reachable_only_with_tokens_or_a_client_ca() {
        let none = DriverSecurity::default();
        let encrypted = DriverSecurity { certificate: files(), ..none.clone() };
        let tokens = DriverSecurity { tokens: Some("t".into()), ..none.clone() };
        let mutual = DriverSecurity { client_ca: Some("ca".into()), ..encrypted.clone() };
        for (security, here, anywhere) in
            [(&none, true, false), (&encrypted, true, false), (&tokens, true, true), (&mutual, true, true)]
        {
            for (address, expected) in [("127.0.0.1:7070", here), (ANYWHERE, anywhere)] {
                let checked = check_driver(&[("--http", address.parse().unwrap())], security);
                assert_eq!(checked.is_ok(), expected, "{address} {security:?}");
            }
        }
        let told = check_driver(&[("--http", ANYWHERE.parse().unwrap())], &none).unwrap_err().to_string();
        for part in ["--http 0.0.0.0:7070", "--tokens", "--tls-client-ca", "127.0.0.1"] {
            assert!(told.contains(part), "{told}");
        }
        let bare_ca = DriverSecurity { client_ca: Some("ca".into()), ..none };
        assert!(check_driver(&[], &bare_ca).is_err());
    }

    #[test]
    fn a_token_in_the_clear_is_noticed() {
        let token = ClientSecurity { token: Some(Token::random()), ..ClientSecurity::default() };
        for (url, expected) in [
            ("http://driver:7070", true),
            ("http://10.0.0.1:7070", true),
            ("https://driver:7070", false),
            ("http://127.0.0.1:7070", false),
            ("http://[::1]:7070", false),
            ("http://localhost:7070", false),
        ] {
            assert_eq!(shows_token(url, &token), expected, "{url}");
            assert!(!shows_token(url, &ClientSecurity::default()), "{url}");
        }
    }

    #[test]
    fn an_executor_is_reachable_only_with_something_to_show_and_encrypts_where_its_driver_does() {
        let none = ClientSecurity::default();
        let token = ClientSecurity { token: Some(Token::random()), ..none.clone() };
        let certified = ClientSecurity { certificate: files(), ..none.clone() };
        for (security, plain, tls) in [(&none, false, false), (&token, true, false), (&certified, true, true)] {
            for (url, expected) in [("http://d:1", plain), ("https://d:1", tls)] {
                assert!(check_executor("127.0.0.1:0".parse().unwrap(), url, security).is_ok());
                assert_eq!(check_executor(ANYWHERE.parse().unwrap(), url, security).is_ok(), expected, "{url}");
            }
        }
    }
}
