//! References in option values: `${env:NAME}` and `${file:PATH}`.
//!
//! Owns: finding and resolving them, and hiding their values in texts. Does not own: which options take them (`values`),
//! which may be referred to (crate `connector-api`). Connectors resolve them on opening; compiling never does.

/// Stands for a hidden value in texts.
pub const REDACTED: &str = "******";

/// Values of fewer bytes are not hidden: they are no secrets, and hiding them would make messages unreadable.
const SHORTEST: usize = 3;

/// Replaces every reference of `value`. One line break at the end of a file is dropped, as editors and `echo` leave one.
/// Adds the values of references to `hidden`. The error names the reference.
pub fn resolve(value: &str, hidden: &mut Vec<String>) -> Result<String, String> {
    let mut resolved = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        resolved.push_str(&rest[..start]);
        let reference = &rest[start + 2..];
        let end = reference.find('}').ok_or("'${' is not closed by '}'")?;
        let found = look_up(&reference[..end])?;
        resolved.push_str(&found);
        hidden.push(found);
        rest = &reference[end + 1..];
    }
    resolved.push_str(rest);
    Ok(resolved)
}

/// Returns kind (`env`, `file`) and name of each reference in `value`.
pub fn references(value: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = value;
    while let Some(start) = rest.find("${") {
        let reference = &rest[start + 2..];
        let Some(end) = reference.find('}') else { break };
        found.extend(reference[..end].split_once(':'));
        rest = &reference[end + 1..];
    }
    found
}

/// Returns `text` with [`REDACTED`] in the place of hidden values.
pub fn hide(text: &str, hidden: &[String]) -> String {
    let mut values: Vec<&str> =
        hidden.iter().map(|value| value.trim()).filter(|value| value.len() >= SHORTEST).collect();
    // Longest first, since a value may be part of another one.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values.into_iter().fold(text.to_string(), |shown, value| shown.replace(value, REDACTED))
}

fn look_up(reference: &str) -> Result<String, String> {
    match reference.split_once(':') {
        Some(("env", name)) => {
            std::env::var(name).map_err(|_| format!("environment variable {name} is not set in this process"))
        }
        Some(("file", path)) => {
            let mut text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read the secret file {path}: {error}"))?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Ok(text)
        }
        _ => Err(format!("'${{{reference}}}' is not a reference; write ${{env:NAME}} or ${{file:PATH}}")),
    }
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
        let variable = std::env::var("PATH").unwrap();
        let mut hidden = Vec::new();
        assert_eq!(resolve(&value, &mut hidden).unwrap(), format!("user:s3cret@{variable}"));
        assert_eq!(hidden, ["s3cret".to_string(), variable]);
        assert_eq!(resolve("plain $ {text}", &mut hidden).unwrap(), "plain $ {text}");
    }

    #[test]
    fn names_what_is_missing() {
        let error = |value: &str| resolve(value, &mut Vec::new()).unwrap_err();
        assert!(error("${env:HIGHWATER_NO_SUCH_VARIABLE}").contains("HIGHWATER_NO_SUCH_VARIABLE"));
        assert!(error("${file:/no/such/file}").contains("/no/such/file"));
        assert!(error("${vault:a}").contains("${env:NAME}"));
        assert!(error("${env:A").contains("not closed"));
    }

    #[test]
    fn references_are_found_and_values_are_hidden() {
        assert_eq!(references("a${env:X}b${file:/y}"), [("env", "X"), ("file", "/y")]);
        let hidden = ["hunter".to_string(), "hunter2\n".into(), "ab".into()];
        assert_eq!(hide("hunter2, hunter and ab", &hidden), "******, ****** and ab");
    }
}
