//! The console: rows as JSON lines on an executor's stdout.

use crate::spec::{ConnectorSpec, Encoding, Use};

pub static CONSOLE: ConnectorSpec = ConnectorSpec {
    name: "console",
    aliases: &[],
    title: "the console",
    uses: &[Use::Sink],
    options: &[],
    properties: None,
    encoding: Encoding::Json,
    metadata: false,
    takes_back: true,
    place: None,
    lookup: None,
    describe: |_| "console".into(),
    check: |_| Ok(()),
};
