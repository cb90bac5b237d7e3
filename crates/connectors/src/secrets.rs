//! Secrets in option values: `${env:NAME}` and `${file:PATH}`.
//!
//! Owns: resolving them when a connector opens, and redacting what is shown.
//! Invariant: a resolved value never reaches an error message, a log line or storage.

use crate::error::ConnectorError;

/// What a hidden value is shown as.
pub const REDACTED: &str = "******";

/// Replaces every `${env:NAME}` and `${file:PATH}` of `value`. `option` names the option in errors.
/// One line break at the end of a file is dropped, as editors and `echo` leave one.
pub fn resolve(option: &str, value: &str) -> Result<String, ConnectorError> {
    let mut resolved = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        resolved.push_str(&rest[..start]);
        let reference = &rest[start + 2..];
        let end = reference
            .find('}')
            .ok_or_else(|| ConnectorError::Config(format!("option '{option}': '${{' is not closed by '}}'")))?;
        resolved.push_str(&look_up(option, &reference[..end])?);
        rest = &reference[end + 1..];
    }
    resolved.push_str(rest);
    Ok(resolved)
}

fn look_up(option: &str, reference: &str) -> Result<String, ConnectorError> {
    match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|_| {
            ConnectorError::Config(format!("option '{option}': environment variable {name} is not set in this process"))
        }),
        Some(("file", path)) => {
            let mut text = std::fs::read_to_string(path).map_err(|error| {
                ConnectorError::Config(format!("option '{option}': cannot read the secret file {path}: {error}"))
            })?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Ok(text)
        }
        _ => Err(ConnectorError::Config(format!(
            "option '{option}': '${{{reference}}}' is not a secret; write ${{env:NAME}} or ${{file:PATH}}"
        ))),
    }
}

/// True when the value of this option must not be shown even if it was written in plain text.
pub fn is_secret(option: &str) -> bool {
    let option = option.to_ascii_lowercase();
    ["password", "secret", "jaas", "token", "ssl.key.pem", "private", "credential"]
        .iter()
        .any(|word| option.contains(word))
}

/// The value as it may be shown: references stay as written, plain secrets are hidden.
pub fn redact<'a>(option: &str, value: &'a str) -> &'a str {
    if is_secret(option) && !value.contains("${") { REDACTED } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_files_and_variables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "s3cret\n").unwrap();
        let value = format!("user:${{file:{}}}@${{env:PATH}}", path.display());
        let expected = format!("user:s3cret@{}", std::env::var("PATH").unwrap());
        assert_eq!(resolve("sasl.password", &value).unwrap(), expected);
        assert_eq!(resolve("topic", "plain $ {text}").unwrap(), "plain $ {text}");
    }

    #[test]
    fn names_what_is_missing() {
        let error = resolve("sasl.password", "${env:HIGHWATER_NO_SUCH_VARIABLE}").unwrap_err().to_string();
        assert!(error.contains("sasl.password") && error.contains("HIGHWATER_NO_SUCH_VARIABLE"), "{error}");
        let error = resolve("sasl.password", "${file:/no/such/file}").unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
        assert!(resolve("x", "${vault:a}").unwrap_err().to_string().contains("${env:NAME}"));
        assert!(resolve("x", "${env:A").unwrap_err().to_string().contains("not closed"));
    }

    #[test]
    fn hides_plain_secrets_only() {
        assert_eq!(redact("kafka.sasl.password", "hunter2"), REDACTED);
        assert_eq!(redact("kafka.sasl.password", "${env:PW}"), "${env:PW}");
        assert_eq!(redact("kafka.sasl.username", "me"), "me");
    }
}
