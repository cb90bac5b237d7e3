//! Files: read by lookup joins, and written by sinks.

use crate::spec::{ConnectorSpec, Default, Encoding, LookupKind, OptionKind, OptionSpec, Use};

pub static FILESYSTEM: ConnectorSpec = ConnectorSpec {
    name: "filesystem",
    aliases: &["file"],
    title: "a folder of files",
    uses: &[Use::Lookup, Use::Sink],
    options: &[
        OptionSpec {
            name: "path",
            aliases: &[],
            kind: OptionKind::Path,
            default: Default::Required("'/data/side.csv'"),
            uses: &[Use::Lookup, Use::Sink],
            about: "for lookups, a file or a folder of files on the driver's machine; for a sink, a folder that the driver and all executors share",
        },
        OptionSpec {
            name: "refresh",
            aliases: &[],
            kind: OptionKind::Duration,
            default: Default::None("never"),
            uses: &[Use::Lookup],
            about: "how often the driver checks whether the content has changed",
        },
    ],
    properties: None,
    encoding: Encoding::Files,
    metadata: false,
    takes_back: false,
    place: None,
    lookup: Some(LookupKind::Snapshot { refresh: "refresh" }),
    describe: |values| format!("file {}", values.text("path").unwrap_or_default()),
    check: |_| Ok(()),
};
