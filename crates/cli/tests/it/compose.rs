//! `docker-compose.yml`: read by Debian's docker-compose, its command lines by our own parser.

use clap::Parser;
use highwater::cli::Cli;
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
        if service["image"] != "highwater" {
            continue;
        }
        let words = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_string()).collect()
        };
        let args = words(&service["command"]);
        let line = std::iter::once("highwater".to_string()).chain(args.iter().cloned());
        Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(test) = service["healthcheck"]["test"].as_array() {
            let line = test.iter().skip(1).map(|word| word.as_str().unwrap());
            Cli::try_parse_from(line).unwrap_or_else(|error| panic!("health check of {name}: {error}"));
        }
        commands.push(args[0].clone());
    }
    commands.sort();
    assert_eq!(commands, ["driver", "executor", "executor", "executor", "submit"]);
}
