//! The token file: names, roles and hashes of tokens, never the tokens themselves.
//!
//! Invariant: looking up a token takes the same time for every token.

use crate::error::SecurityError;
use crate::reload::Reloading;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::path::Path;
use subtle::ConstantTimeEq;

/// What the bearer of a token may do. A client's role includes those before it; an executor's role is separate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Operator,
    Admin,
    Executor,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Executor => "executor",
        }
    }
}

/// One entry of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub role: Role,
    sha256: [u8; 32],
}

/// The entries of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    token: Vec<EntryForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryForm {
    name: String,
    role: Role,
    sha256: String,
}

impl Tokens {
    /// Parses the text of the file. The error continues a sentence that begins with the file's path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form: FileForm = toml::from_str(text).map_err(|error| format!("is not a token file: {error}"))?;
        let mut entries: Vec<Entry> = Vec::new();
        for token in form.token {
            let sha256 = from_hex(&token.sha256).ok_or_else(|| {
                format!(
                    "has a sha256 for token `{}` that is not 64 hexadecimal digits; compute it with `sha256sum`",
                    token.name
                )
            })?;
            if let Some(other) = entries.iter().find(|entry| entry.name == token.name || entry.sha256 == sha256) {
                return Err(format!("has `{}` twice, or the same token as `{}`", token.name, other.name));
            }
            entries.push(Entry { name: token.name, role: token.role, sha256 });
        }
        if entries.is_empty() {
            return Err("has no [[token]]".into());
        }
        Ok(Self { entries })
    }

    /// Loads the file; it is read again when it changes.
    pub fn load(path: &Path) -> Result<Reloading<Self>, SecurityError> {
        let file = path.to_path_buf();
        Reloading::load(vec![path.into()], move |contents| {
            let parsed =
                std::str::from_utf8(&contents[0]).map_err(|_| "is not UTF-8".to_string()).and_then(Self::parse);
            parsed.map_err(|problem| SecurityError::Content { path: file.clone(), problem })
        })
    }

    #[cfg(test)]
    pub(crate) fn first(&self) -> &Entry {
        &self.entries[0]
    }

    /// Returns the entry of a token; `None` if there is none.
    pub fn find(&self, token: &str) -> Option<&Entry> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        // Every entry is compared, so that the time does not reveal which one matches.
        self.entries
            .iter()
            .fold(None, |found, entry| if bool::from(entry.sha256.ct_eq(&digest)) { Some(entry) } else { found })
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sha256 of `secret`.
    const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

    fn one(role: &str, sha256: &str) -> String {
        format!("[[token]]\nname = \"ci\"\nrole = \"{role}\"\nsha256 = \"{sha256}\"\n")
    }

    #[test]
    fn a_token_is_found_by_its_hash_alone() {
        let tokens = Tokens::parse(&one("operator", &SECRET.to_uppercase())).unwrap();
        let entry = tokens.find("secret").unwrap();
        assert_eq!((entry.name.as_str(), entry.role), ("ci", Role::Operator));
        for wrong in ["", "secre", "secret ", SECRET] {
            assert_eq!(tokens.find(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_reason() {
        for (text, expected) in [
            (String::new(), "token"),
            ("token = []".into(), "has no"),
            (one("root", SECRET), "root"),
            (one("admin", "abc"), "64 hexadecimal digits"),
            (one("admin", &SECRET.replace('2', "é")), "64 hexadecimal digits"),
            (format!("{}{}", one("admin", SECRET), one("viewer", SECRET)), "twice"),
            (format!("{}tokn = 1", one("admin", SECRET)), "tokn"),
        ] {
            let error = Tokens::parse(&text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
