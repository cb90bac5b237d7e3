//! `docker-compose.yml`: parsed by Debian's docker-compose, and its command lines by Highwater's own parser.

use clap::Parser;
use highwater::cli::Cli;
use highwater_testkit::Highwater;
use highwater_testkit::highwater::{DEADLINE, binary};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker-compose.yml")
}

#[test]
fn docker_compose_accepts_the_file() {
    let output = Command::new("docker-compose").arg("-f").arg(file()).args(["config", "-q"]).output();
    let output = output.expect("docker-compose runs; `make setup` installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_service_of_ours_has_a_command_line_that_parses() {
    let text = std::fs::read_to_string(file()).unwrap();
    let compose: Value = serde_yaml_ng::from_str(&text).unwrap();
    let mut commands = Vec::new();
    for (name, service) in compose["services"].as_object().unwrap() {
        // The service without a Highwater command creates the certificates.
        if service["image"] != "highwater" || service["command"].is_null() {
            continue;
        }
        let words = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_string()).collect()
        };
        let args = words(&service["command"]);
        let line = std::iter::once("highwater".to_string()).chain(args.iter().cloned());
        Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(test) = service["healthcheck"]["test"].as_array() {
            let line: Vec<&str> = test.iter().map(|word| word.as_str().unwrap()).collect();
            assert_eq!(line[..3], ["CMD", "sh", "/compose/as.sh"], "health check of {name}");
            // The script's first argument is the role; the parser takes it for the program's name.
            let line = &line[3..];
            Cli::try_parse_from(line).unwrap_or_else(|error| panic!("health check of {name}: {error}"));
        }
        commands.push(args[0].clone());
    }
    commands.sort();
    assert_eq!(commands, ["driver", "executor", "executor", "executor", "submit"]);
}

/// Every `--flag=/folder/…` of a service's command, with the folders below `root`.
fn below(root: &Path, service: &Value, flags: &[&str]) -> Vec<String> {
    let words = service["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let wanted = words.filter(|word| flags.iter().any(|flag| word.starts_with(&format!("{flag}=/"))));
    wanted.map(|word| word.replacen("=/", &format!("={}/", root.display()), 1)).collect()
}

#[test]
fn its_certificates_and_tokens_secure_a_cluster() {
    let text = std::fs::read_to_string(file()).unwrap();
    let compose: Value = serde_yaml_ng::from_str(&text).unwrap();
    let scripts = file().with_file_name("deploy").join("compose");
    let mut cluster = Highwater::stopped();
    let root = cluster.path().to_path_buf();
    for folder in ["ca", "driver", "executors", "clients"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    // Twice, since existing files must stay.
    for _ in 0..2 {
        let made = Command::new("bash").arg(scripts.join("certificates.sh")).arg(&root).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let services = &compose["services"];
    let flags = below(&root, &services["driver"], &["--tls-cert", "--tls-key", "--tls-client-ca", "--tokens"]);
    assert_eq!(flags.len(), 4, "{flags:?}");
    cluster.start_driver_with(&[], &flags.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.url = cluster.url.replace("http://", "https://");
    let flags = below(&root, &services["executor-1"], &["--tls-ca", "--tls-cert", "--tls-key"]);
    assert_eq!(flags.len(), 3, "{flags:?}");
    let executor = cluster.add_executor_with(&[], &flags.iter().map(String::as_str).collect::<Vec<_>>());
    cluster.executor(executor).wait_stderr("joined the driver", DEADLINE);
    let folder = binary().parent().unwrap().display().to_string();
    for role in ["viewer", "operator", "admin"] {
        let mut command = Command::new("sh");
        command.arg(scripts.join("as.sh")).args([role, "drop", "nosuch", "--driver", &cluster.url]);
        command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap()));
        command.env("HIGHWATER_CLIENTS", root.join("clients")).env("HIGHWATER_TLS_CA", root.join("clients/ca.pem"));
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{role}: {stderr}");
        assert_eq!(stderr.contains("no query named"), role == "admin", "{role}: {stderr}");
    }
}
