//! Access of scripts to the machine they run on: environment variables and files.
//!
//! Owns: the policy of a process, and checking a compiled script against it before anything is opened. Does not own:
//! which options hold paths or references (their declarations), flags (cli).
//! Invariants: a reference or a path that is not allowed is never read; paths are resolved before they are compared, so
//! that neither `..` nor a symbolic link leads out of an allowed folder.

use crate::error::ConnectorError;
use highwater_connector_spec::OptionKind;
use highwater_sql::references;
use highwater_sql::tables::{ConnectorOptions, SinkTable, SnapshotTable, SourceTable};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The allowed values of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed<T> {
    All,
    Only(Vec<T>),
}

/// What scripts may reach in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Names of environment variables, for `${env:NAME}`.
    pub env: Allowed<String>,
    /// Folders for `${file:PATH}`, tables of files, certificates and keys, including everything below them.
    pub paths: Allowed<PathBuf>,
}

impl AccessPolicy {
    /// Allows everything; for processes that only their own user can reach.
    pub const ALL: Self = Self { env: Allowed::All, paths: Allowed::All };

    /// Allows exactly the given names and folders. `None` allows everything if the process is `trusting`, else nothing.
    pub fn new(trusting: bool, env: Option<Vec<String>>, paths: Option<Vec<PathBuf>>) -> Self {
        fn decide<T>(asked: Option<Vec<T>>, trusting: bool) -> Allowed<T> {
            match asked {
                Some(asked) => Allowed::Only(asked),
                None if trusting => Allowed::All,
                None => Allowed::Only(Vec::new()),
            }
        }
        Self { env: decide(env, trusting), paths: decide(paths, trusting) }
    }

    /// Checks every reference and path in the options of these tables. `process` is `driver` or `executor`, for the
    /// error.
    pub fn check(&self, sources: &[SourceTable], sinks: &[SinkTable], process: &str) -> Result<(), ConnectorError> {
        let sources = sources.iter().map(|source| (&source.name, &source.connector));
        let sinks = sinks.iter().map(|sink| (&sink.name, &sink.connector));
        sources.chain(sinks).try_for_each(|(table, connector)| self.check_options(table, connector, process))
    }

    /// Checks every reference and path in the options of a lookup table. Only the driver reads it.
    pub fn check_snapshot(&self, table: &SnapshotTable) -> Result<(), ConnectorError> {
        self.check_options(&table.name, &table.connector, "driver")
    }

    fn check_options(&self, table: &str, connector: &ConnectorOptions, process: &str) -> Result<(), ConnectorError> {
        for (option, value, kind) in connector.values.texts() {
            let checked = self.check_value(&option, value, kind == OptionKind::Path);
            checked.map_err(|reason| ConnectorError::Config(reason.text(table, process)))?;
        }
        Ok(())
    }

    fn check_value(&self, option: &str, value: &str, is_path: bool) -> Result<(), Refusal> {
        self.check_references(option, value)?;
        if !is_path || self.paths == Allowed::All {
            return Ok(());
        }
        // The references were just checked. One that cannot be resolved is an error when the file is opened.
        let Ok(path) = references::resolve(value, &mut Vec::new()) else { return Ok(()) };
        // The error shows the path as written, since a resolved reference may be secret.
        self.check_path(option, &path)
            .map_err(|_| Refusal::Path { option: option.to_string(), path: value.to_string() })
    }

    fn check_references(&self, option: &str, value: &str) -> Result<(), Refusal> {
        for (kind, name) in references::references(value) {
            match (kind, &self.env) {
                ("env", Allowed::Only(names)) if !names.iter().any(|allowed| allowed == name) => {
                    return Err(Refusal::Env { option: option.to_string(), name: name.to_string() });
                }
                ("file", _) => self.check_path(option, name)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks a file, or a folder with its content.
    fn check_path(&self, option: &str, path: &str) -> Result<(), Refusal> {
        let Allowed::Only(folders) = &self.paths else { return Ok(()) };
        let folders: Vec<PathBuf> = folders.iter().map(|folder| resolved(folder)).collect();
        let refusal = |path: &Path| Refusal::Path { option: option.to_string(), path: path.display().to_string() };
        let mut open = vec![PathBuf::from(path)];
        let mut seen = BTreeSet::new();
        while let Some(path) = open.pop() {
            let real = resolved(&path);
            // Links can form a cycle.
            if !seen.insert(real.clone()) {
                continue;
            }
            let leads_up = real.components().any(|component| component == Component::ParentDir);
            if leads_up || !folders.iter().any(|folder| real.starts_with(folder)) {
                return Err(refusal(&path));
            }
            if real.is_dir() {
                let entries = std::fs::read_dir(&real).map_err(|_| refusal(&path))?;
                open.extend(entries.flatten().filter(leads_elsewhere).map(|entry| entry.path()));
            }
        }
        Ok(())
    }
}

/// Returns whether an entry must be checked, too: plain files of an allowed folder are allowed, folders and links may
/// lead elsewhere.
fn leads_elsewhere(entry: &std::fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| !kind.is_file())
}

/// Resolves a path, links included; if it does not exist, resolves the part that does.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path,
    }
}

enum Refusal {
    Env { option: String, name: String },
    Path { option: String, path: String },
}

impl Refusal {
    fn text(&self, table: &str, process: &str) -> String {
        match self {
            Self::Env { option, name } => format!(
                "table '{table}': option '{option}' refers to the environment variable {name}, which this {process} does not \
                 let scripts read; start it with --allow-env {name}, or refer to one that is allowed"
            ),
            Self::Path { option, path } => format!(
                "table '{table}': option '{option}' leads to {path}, which is in no folder that this {process} lets scripts \
                 reach; start it with --allow-path FOLDER, or move the files into a folder that is allowed"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_planner::CompiledQuery;

    fn only(names: &[&str], folders: &[&Path]) -> AccessPolicy {
        let names = names.iter().map(|name| (*name).to_string()).collect();
        AccessPolicy::new(true, Some(names), Some(folders.iter().map(|folder| folder.to_path_buf()).collect()))
    }

    fn script(options: &str) -> CompiledQuery {
        highwater_planner::compile(&format!(
            "CREATE TABLE a (x BIGINT) WITH ('connector' = 'kafka', 'topic' = 'a', 'format' = 'json',
               'bootstrap.servers' = 'h:1', {options});
             CREATE TABLE b (x BIGINT) WITH ('connector' = 'console');
             INSERT INTO b SELECT x FROM a;"
        ))
        .unwrap()
    }

    fn check(policy: &AccessPolicy, script: &CompiledQuery) -> Result<(), ConnectorError> {
        policy.check(&script.sources, &script.sinks, "driver")
    }

    fn refusal(policy: &AccessPolicy, options: &str) -> String {
        check(policy, &script(options)).unwrap_err().to_string()
    }

    #[test]
    fn nothing_is_allowed_where_strangers_submit() {
        let strict = AccessPolicy::new(false, None, None);
        assert!(refusal(&strict, "'kafka.sasl.password' = '${env:HOME}'").contains("--allow-env HOME"));
        assert!(refusal(&strict, "'kafka.ssl.ca.location' = '/etc/passwd'").contains("--allow-path"));
        assert!(refusal(&strict, "'kafka.sasl.password' = '${file:/etc/passwd}'").contains("/etc/passwd"));
        let lent = AccessPolicy::new(false, Some(vec!["HOME".into()]), None);
        let error = refusal(&lent, "'kafka.ssl.ca.location' = '${env:HOME}/ca.pem'");
        assert!(error.contains("leads to ${env:HOME}/ca.pem"), "{error}");
        assert!(check(&strict, &script("'kafka.sasl.password' = 'x'")).is_ok());
        let all = AccessPolicy::new(true, None, None);
        assert_eq!(all, AccessPolicy::ALL);
        assert!(check(&all, &script("'kafka.sasl.password' = '${env:HOME}'")).is_ok());
    }

    #[test]
    fn names_and_folders_are_allowed_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "x").unwrap();
        let policy = only(&["PW"], &[dir.path()]);
        let inside = format!("'kafka.sasl.password' = '${{env:PW}}${{file:{}}}'", file.display());
        assert!(check(&policy, &script(&inside)).is_ok());
        assert!(refusal(&policy, "'kafka.sasl.password' = '${env:PW2}'").contains("variable PW2"));
    }

    #[test]
    fn neither_dots_nor_links_lead_out_of_a_folder() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = outside.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        std::os::unix::fs::symlink(&secret, inside.path().join("link")).unwrap();
        let policy = only(&[], &[inside.path()]);
        let check = |path: String| policy.check_path("path", &path).is_ok();
        let own = inside.path().display().to_string();
        let up = outside.path().file_name().unwrap().to_string_lossy().into_owned();
        assert!(!check(format!("{own}/link")));
        assert!(!check(format!("{own}/../{up}/secret")));
        assert!(!check(format!("{own}/../{up}/is-not-there")));
        assert!(check(format!("{own}/comes-later")));
        std::os::unix::fs::symlink(outside.path(), inside.path().join("folder")).unwrap();
        assert!(!check(format!("{own}/folder/comes-later")));
        std::fs::remove_file(inside.path().join("folder")).unwrap();
        // A folder is refused if anything in it is.
        assert!(!check(own.clone()));
        std::fs::remove_file(inside.path().join("link")).unwrap();
        std::os::unix::fs::symlink(".", inside.path().join("link")).unwrap();
        assert!(check(own));
    }
}
