//! Versions of what is spoken, and refusing what does not fit.
//!
//! Executors must be of the driver's very version: they compile a query alike, and repeat each other's batches to the
//! byte. Clients must speak its protocol; one that does not say which (any gRPC client) is taken at its word.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// Number of the protocol: raised by a change that an older side would misunderstand.
pub const PROTOCOL: u32 = 1;
/// Version of this binary.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Request header with the sender's [`PROTOCOL`].
pub const PROTOCOL_HEADER: &str = "highwater-protocol";
/// Request header with the sender's [`VERSION`].
pub const VERSION_HEADER: &str = "highwater-version";
/// Response header that marks a refusal which trying again does not mend.
const REFUSED_HEADER: &str = "highwater-refused";

/// Checks the headers of a client.
pub fn check_client(protocol: Option<&str>, version: Option<&str>) -> Result<(), Status> {
    match protocol {
        None => Ok(()),
        Some(protocol) if protocol.parse() == Ok(PROTOCOL) => Ok(()),
        Some(protocol) => Err(refuse(format!(
            "the client is version {} (protocol {protocol}), the driver {VERSION} (protocol {PROTOCOL}); use the client of \
             the driver's version",
            version.unwrap_or("unknown")
        ))),
    }
}

/// Checks an executor that wants to join.
pub fn check_executor(protocol: u32, version: &str) -> Result<(), Status> {
    if protocol == PROTOCOL && version == VERSION {
        return Ok(());
    }
    Err(refuse(format!(
        "the executor is version {version} (protocol {protocol}), the driver {VERSION} (protocol {PROTOCOL}); run one \
         version: stop the driver and all executors, and start them again from the same binary"
    )))
}

fn refuse(message: String) -> Status {
    let mut status = Status::new(Code::FailedPrecondition, message);
    status.metadata_mut().insert(REFUSED_HEADER, MetadataValue::from_static("version"));
    status
}

/// True for the refusals made here.
pub fn is_refusal(status: &Status) -> bool {
    status.metadata().contains_key(REFUSED_HEADER)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_versions_and_the_remedy() {
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
