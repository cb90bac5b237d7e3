//! Reads the script that the command line names: a file, or stdin.
//!
//! Owns: reading it, and the query's default name. Does not own: its meaning (crate `planner`).

use crate::failure::Failure;
use std::io::Read;
use std::path::Path;

/// Longest script accepted, bytes; it must fit into one gRPC message.
const MAX_SCRIPT_BYTES: usize = 4 * 1024 * 1024;

/// Reads the script `file`; `-` is stdin.
pub fn read(file: &str) -> Result<String, Failure> {
    let bytes = if file == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(MAX_SCRIPT_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::invalid(format!("cannot read the script from stdin: {error}")))?;
        bytes
    } else {
        std::fs::read(file).map_err(|error| Failure::invalid(format!("cannot read the script {file}: {error}")))?
    };
    if bytes.len() > MAX_SCRIPT_BYTES {
        return Err(Failure::invalid(format!("the script {file} is longer than 4 MiB")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| Failure::invalid(format!("the script {file} is not UTF-8: {error}; save it as UTF-8")))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text))
}

/// Returns the query's name: the one given, or the stem of the file.
pub fn name(given: Option<String>, file: &str) -> Result<String, Failure> {
    if let Some(name) = given {
        return Ok(name);
    }
    if file == "-" {
        return Err(Failure::invalid("a script from stdin has no name: set one with --name"));
    }
    match Path::new(file).file_stem().and_then(|stem| stem.to_str()) {
        Some(stem) => Ok(stem.to_string()),
        None => Err(Failure::invalid(format!("{file} has no usable file name: set a name with --name"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_stem_unless_given() {
        assert_eq!(name(None, "a/b/totals.v1.sql").unwrap(), "totals.v1");
        assert_eq!(name(Some("x".into()), "-").unwrap(), "x");
        assert_eq!(name(None, "-").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_missing_file_is_usage() {
        let failure = read("/nonexistent/q.sql").unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.message().unwrap().contains("/nonexistent/q.sql"));
    }
}
