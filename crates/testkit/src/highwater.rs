//! A Highwater cluster as processes, controlled through its command line only.
//!
//! Owns: one driver and its executors (killed when dropped), and waiting for what they do. Does not own: Kafka
//! (`cluster`). The binary is the one built with the test: `target/<profile>/highwater`.

use crate::ports::free_port;
use crate::process::Process;
use crate::wait::wait_for;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Longest wait for anything that must happen.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Environment variables of a process.
pub type Environment<'a> = &'a [(&'a str, String)];

/// One driver, its data folder, and executors by number.
pub struct Highwater {
    /// Everything the cluster writes.
    dir: TempDir,
    /// URL of the driver.
    pub url: String,
    /// HOST:PORT of the driver's HTTP endpoints.
    pub http: String,
    /// Environment of client commands.
    pub environment: Vec<(&'static str, String)>,
    grpc: String,
    driver: Option<Process>,
    executors: Vec<Option<Process>>,
    /// Number of driver processes started, for the names of their logs.
    drivers: usize,
}

/// The binary under test: tests are in `target/<profile>/deps`, examples in `target/<profile>/examples`.
pub fn binary() -> PathBuf {
    let mut path = std::env::current_exe().expect("a process knows its file");
    path.pop();
    path.pop();
    path.join("highwater")
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

impl Highwater {
    /// Starts a driver, waits until it answers, and starts `executors` executors.
    pub fn start(executors: usize) -> Self {
        let mut cluster = Self::stopped();
        cluster.start_driver(&[]);
        for _ in 0..executors {
            cluster.add_executor(&[]);
        }
        cluster.ok(&["ls"]);
        cluster
    }

    /// A cluster whose driver is not started yet.
    pub fn stopped() -> Self {
        let grpc = free_address();
        Self {
            dir: tempfile::tempdir().expect("a folder can be made"),
            url: format!("http://{grpc}"),
            http: free_address(),
            environment: Vec::new(),
            grpc,
            driver: None,
            executors: Vec::new(),
            drivers: 0,
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path().join("driver")
    }

    /// `command` is a program and its arguments.
    fn spawn(&self, name: &str, command: &[&str], environment: Environment<'_>) -> Process {
        let log = std::env::var("HIGHWATER_TEST_LOG").unwrap_or_else(|_| "info,rdkafka=off,librdkafka=off".into());
        let mut env: Vec<(&str, &str)> = vec![("RUST_LOG", &log)];
        env.extend(environment.iter().map(|(key, value)| (*key, value.as_str())));
        let (program, args) = command.split_first().expect("a command has a program");
        Process::spawn(program, args, &env, self.path(), name)
    }

    /// Starts the driver on the addresses and the folder of the one before.
    pub fn start_driver(&mut self, environment: Environment<'_>) {
        self.start_driver_with(environment, &[]);
    }

    /// Starts the driver with more arguments.
    pub fn start_driver_with(&mut self, environment: Environment<'_>, more: &[&str]) {
        self.start_driver_under(&[], environment, more);
    }

    /// Starts the driver through `wrapper` (a program and its arguments), which must `exec` it.
    pub fn start_driver_under(&mut self, wrapper: &[&str], environment: Environment<'_>, more: &[&str]) {
        let data = self.data_dir();
        let data = data.to_str().expect("a folder's name is text");
        let name = format!("driver-{}", self.drivers);
        self.drivers += 1;
        let binary = binary();
        let binary = binary.to_str().expect("a file's name is text");
        let mut args = wrapper.to_vec();
        args.extend([binary, "driver", "--listen", &self.grpc, "--http", &self.http, "--data-dir", data]);
        args.extend(more);
        self.driver = Some(self.spawn(&name, &args, environment));
    }

    /// Starts another executor. Returns its number.
    pub fn add_executor(&mut self, environment: Environment<'_>) -> usize {
        self.add_executor_with(environment, &["--slots", "1"])
    }

    /// Starts another executor with more arguments. Returns its number.
    pub fn add_executor_with(&mut self, environment: Environment<'_>, more: &[&str]) -> usize {
        let number = self.executors.len();
        let binary = binary();
        let mut args = vec![binary.to_str().expect("a file's name is text"), "executor", "--driver", &self.url];
        args.extend(more);
        let process = self.spawn(&format!("executor-{number}"), &args, environment);
        self.executors.push(Some(process));
        number
    }

    #[track_caller]
    pub fn driver(&mut self) -> &mut Process {
        self.driver.as_mut().expect("the driver was not killed")
    }

    #[track_caller]
    pub fn executor(&mut self, number: usize) -> &mut Process {
        self.executors[number].as_mut().expect("the executor was not killed")
    }

    /// SIGKILL.
    pub fn kill_driver(&mut self) {
        self.driver = None;
    }

    /// SIGKILL.
    pub fn kill_executor(&mut self, number: usize) {
        self.executors[number] = None;
    }

    /// Process ids, the driver's first.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let driver = self.driver.iter().map(|process| ("driver".to_string(), process.id()));
        let executors = self.executors.iter().enumerate();
        let executors = executors.filter_map(|(n, process)| Some((format!("executor {n}"), process.as_ref()?.id())));
        driver.chain(executors).collect()
    }

    /// Returns a client command, ready to run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).env("HIGHWATER_DRIVER", &self.url).current_dir(self.path()).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs a client command to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs; build it with `cargo build --bin highwater`")
    }

    /// Runs a client command that must succeed. Returns its stdout.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{}` failed: {stderr}\n{}", args.join(" "), self.logs());
        String::from_utf8(output.stdout).expect("stdout is text")
    }

    /// Runs a client command with `--json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let text = self.ok(&args);
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("`{args:?}` printed {text:?}: {error}"))
    }

    /// Stores the script as a file. Returns its path.
    pub fn file(&self, name: &str, sql: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, sql).expect("a file can be written");
        path.to_str().expect("a file's name is text").to_string()
    }

    /// Submits the script under `name`.
    #[track_caller]
    pub fn submit(&self, name: &str, sql: &str) {
        let file = self.file(&format!("{name}.sql"), sql);
        self.ok(&["submit", &file]);
    }

    #[track_caller]
    pub fn status(&self, name: &str) -> Value {
        self.json(&["status", name])
    }

    /// The committed batches that the driver remembers, oldest first.
    #[track_caller]
    pub fn progress(&self, name: &str) -> Vec<Value> {
        let lines = self.ok(&["progress", name, "--last", "100000", "--json"]);
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        lines.lines().filter(|line| !line.is_empty()).map(parse).collect()
    }

    /// The last lines of all processes' logs.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let named = self.executors.iter().enumerate().filter_map(|(n, p)| Some((format!("executor-{n}"), p.as_ref()?)));
        for (name, process) in self.driver.iter().map(|process| ("driver".to_string(), process)).chain(named) {
            let log = process.stderr();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            all.push_str(&format!("--- {name}\n"));
            all.extend(tail.into_iter().rev().flat_map(|line| [line, "\n"]));
        }
        all
    }

    /// Waits until `probe` returns a value; panics with the logs at the deadline.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let end = std::time::Instant::now() + DEADLINE;
        wait_for(what, DEADLINE + Duration::from_secs(10), || {
            let found = probe();
            assert!(found.is_some() || std::time::Instant::now() < end, "timed out: {what}\n{}", self.logs());
            found
        })
    }

    /// Waits until the query's state is one of `states`. Returns its status.
    #[track_caller]
    pub fn wait_state(&self, name: &str, states: &[&str]) -> Value {
        self.wait(&format!("{name} to be {states:?}"), || {
            let output = self.run(&["status", name, "--json"]);
            if !output.status.success() {
                return None;
            }
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let state = status["state"].as_str()?;
            assert!(state != "failed" || states.contains(&"failed"), "{name} failed: {status}\n{}", self.logs());
            states.contains(&state).then_some(status)
        })
    }

    /// Waits until the query has committed everything its topics hold.
    #[track_caller]
    pub fn wait_caught_up(&self, name: &str) {
        self.wait(&format!("{name} to catch up"), || {
            let output = self.run(&["lag", name, "--json"]);
            let lag: Value = serde_json::from_slice(&output.stdout).ok()?;
            if lag["totalLag"].as_i64() == Some(0) {
                return Some(());
            }
            let status: Value = serde_json::from_slice(&self.run(&["status", name, "--json"]).stdout).ok()?;
            assert_ne!(status["state"], "failed", "{name} failed: {status}\n{}", self.logs());
            None
        });
    }
}
