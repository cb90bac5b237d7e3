//! The reason why a record is bad.
//!
//! Owns: its text, and the column it names. Does not own: the handling of the record (`on_bad_record`).

/// An error in a record, with the path of its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    path: String,
    message: String,
}

impl Fault {
    pub fn new(message: impl Into<String>) -> Self {
        Self { path: String::new(), message: message.into() }
    }

    /// Puts `name` before the path: `a` within `b` is `b.a`.
    pub fn within(mut self, name: &str) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{name}{separator}{}", self.path);
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "column '{}': {}", self.path, self.message)
    }
}

/// Returns the bytes as text, or a fault if they are not UTF-8.
pub fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| Fault::new(format!("not UTF-8 at byte {}", error.valid_up_to())))
}
