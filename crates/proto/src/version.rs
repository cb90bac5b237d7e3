//! Versions of the protocol, and refusing incompatible peers.
//!
//! Executors must have exactly the driver's version, because they must compile a query identically and repeat each
//! other's batches byte for byte. Clients must speak the driver's protocol; a client that does not send its protocol is
//! accepted.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Number of the protocol: raised by every change that an older peer would misunderstand.
pub const PROTOCOL: u32 = 1;
/// Version of this binary.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Request header with the sender's [`PROTOCOL`].
pub const PROTOCOL_HEADER: &str = "highwater-protocol";
/// Request header with the sender's [`VERSION`].
pub const VERSION_HEADER: &str = "highwater-version";
/// Response header that marks a refusal which a retry does not change.
const REFUSED_HEADER: &str = "highwater-refused";

/// Checks the headers of a client.
pub fn check_client(protocol: Option<&str>, version: Option<&str>) -> Result<(), Status> {
    match protocol {
        None => Ok(()),
        Some(protocol) if protocol.parse() == Ok(PROTOCOL) => Ok(()),
        Some(protocol) => Err(refuse(format!(
            "the client has version {} (protocol {protocol}), the driver {VERSION} (protocol {PROTOCOL}); use the \
             client of the driver's version",
            version.unwrap_or("unknown")
        ))),
    }
}

/// Checks an executor that registers.
pub fn check_executor(protocol: u32, version: &str) -> Result<(), Status> {
    if protocol == PROTOCOL && version == VERSION {
        return Ok(());
    }
    Err(refuse(format!(
        "the executor has version {version} (protocol {protocol}), the driver {VERSION} (protocol {PROTOCOL}); run one \
         version: stop the driver and all executors, and start them again from the same binary"
    )))
}

fn refuse(message: String) -> Status {
    let mut status = Status::new(Code::FailedPrecondition, message);
    status.metadata_mut().insert(REFUSED_HEADER, MetadataValue::from_static("version"));
    status
}

/// True for refusals made by this module.
pub fn is_refusal(status: &Status) -> bool {
    status.metadata().contains_key(REFUSED_HEADER)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn incompatible_peers_are_refused_with_both_versions_and_the_remedy() {
        check_client(None, None).unwrap();
        check_client(Some("1"), Some("9.9.9")).unwrap();
        check_executor(PROTOCOL, VERSION).unwrap();
        for refused in [
            check_client(Some("2"), Some("9.9.9")),
            check_client(Some("2"), None),
            check_client(Some("one"), None),
            check_executor(PROTOCOL, "9.9.9"),
            check_executor(PROTOCOL + 1, VERSION),
            check_executor(0, VERSION),
        ] {
            let status = refused.unwrap_err();
            assert!(is_refusal(&status));
            assert_eq!(status.code(), Code::FailedPrecondition);
            for part in [VERSION, "protocol 1", "version", ";"] {
                assert!(status.message().contains(part), "{status}");
            }
        }
        assert!(!is_refusal(&Status::failed_precondition("another version of the table")));
    }
}
