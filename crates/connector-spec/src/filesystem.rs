//! Files: that rows look up, and that are written.

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
            about: "looked up: a file, or a folder of files, of the driver's machine; written: a folder that driver and executors share",
        },
        OptionSpec {
            name: "refresh",
            aliases: &[],
            kind: OptionKind::Duration,
            default: Default::None("never"),
            uses: &[Use::Lookup],
            about: "how often it is looked whether the content has changed",
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
