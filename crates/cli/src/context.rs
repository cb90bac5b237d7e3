//! The context of every command: global options and configuration.
//!
//! Owns: the driver to call, and where results go. Does not own: parsing (`cli`, `config`).

use crate::cli::{Global, LogFormat};
use crate::client::Driver;
use crate::config::Config;
use crate::failure::Failure;
use crate::output;
use highwater_security::exposure;
use serde_json::Value;

/// The context of every command: global options and configuration.
#[derive(Clone, Debug)]
pub struct Context {
    pub global: Global,
    pub config: Config,
}

impl Context {
    pub fn new(global: &Global) -> Result<Self, Failure> {
        Ok(Self { global: global.clone(), config: Config::load(global.config.as_deref())? })
    }

    pub fn log_format(&self) -> LogFormat {
        self.global.log_format.or(self.config.log_format).unwrap_or(LogFormat::Text)
    }

    /// The driver that this command calls.
    pub fn driver(&self) -> Result<Driver, Failure> {
        let (url, security) = (self.config.driver_url(&self.global), self.config.client_security(&self.global)?);
        if exposure::shows_token(&url, &security) {
            output::note(&format!("warning: HIGHWATER_TOKEN is sent to {url} in the clear; use https://"));
        }
        Driver::new(&url, &security)
    }

    /// Writes a result: the document with `--json`, otherwise the text.
    pub fn show(&self, document: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.global.json { output::json(&document()) } else { output::line(&text()) }
    }

    /// Like [`Self::show`], followed by warnings on stderr; with `--json` they are in the document only.
    pub fn show_warned(
        &self,
        document: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
        warnings: &[String],
    ) -> Result<(), Failure> {
        self.show(document, text)?;
        if !self.global.json {
            output::warnings(warnings);
        }
        Ok(())
    }
}
