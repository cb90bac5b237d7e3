//! Driver and executors of the release build, as processes.

use crate::usage::{cpu_seconds, peak_mib};
use highwater_testkit::{Process, wait_for};
use serde_json::Value;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

pub const DEADLINE: Duration = Duration::from_secs(600);

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub url: String,
    pub driver: Process,
    pub executors: Vec<Process>,
}

/// The binary next to this one: `target/release/examples/bench` and `target/release/highwater`.
pub fn binary() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("highwater")
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Cluster {
    pub fn start(executors: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (grpc, http) = (free_address(), free_address());
        let url = format!("http://{grpc}");
        let data = dir.path().join("driver");
        let args = ["driver", "--listen", &grpc, "--http", &http, "--data-dir", data.to_str().unwrap()];
        let env = [("RUST_LOG", "warn")];
        let driver = Process::spawn(binary(), args, &env, dir.path(), "driver");
        let executors = (0..executors)
            .map(|number| {
                let args = ["executor", "--driver", &url];
                Process::spawn(binary(), args, &env, dir.path(), &format!("executor-{number}"))
            })
            .collect::<Vec<_>>();
        let cluster = Self { dir, url, driver, executors };
        cluster.client(&["ls"]);
        cluster
    }

    pub fn client(&self, args: &[&str]) -> String {
        let output =
            Command::new(binary()).args(args).env("HIGHWATER_DRIVER", &self.url).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}\n{}", self.driver.stderr());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn submit(&self, name: &str, sql: &str) {
        let file = self.dir.path().join(format!("{name}.sql"));
        std::fs::write(&file, sql).unwrap();
        self.client(&["submit", file.to_str().unwrap()]);
    }

    pub fn status(&self, name: &str) -> Value {
        serde_json::from_str(&self.client(&["status", name, "--json"])).unwrap()
    }

    pub fn wait_finished(&self, name: &str) {
        wait_for("the query to finish", DEADLINE, || {
            let status = self.status(name);
            assert_ne!(status["state"], "failed", "{status}");
            (status["state"] == "finished").then_some(())
        });
    }

    pub fn progress(&self, name: &str) -> Vec<Value> {
        let lines = self.client(&["progress", name, "--last", "100000", "--json"]);
        lines.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Name, CPU seconds and peak MiB of each process.
    pub fn usage(&self) -> Vec<(String, f64, u64)> {
        let of = |name: String, process: &Process| (name, cpu_seconds(process.id()), peak_mib(process.id()));
        let mut all = vec![of("driver".into(), &self.driver)];
        all.extend(self.executors.iter().enumerate().map(|(number, process)| of(format!("executor {number}"), process)));
        all
    }
}
