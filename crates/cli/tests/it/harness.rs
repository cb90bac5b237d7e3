//! A real cluster for tests: one driver and executors as processes, driven through the command line only.
//!
//! Owns: the processes (killed on drop) and waiting with deadlines. Does not own: Kafka (testkit).

use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// One driver, its data folder, and executors by number.
pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub url: String,
    grpc: String,
    http: String,
    driver: Option<Proc>,
    executors: Vec<Option<Proc>>,
}

/// A child process whose output goes to a file; killed when dropped.
pub struct Proc {
    child: Child,
    log: PathBuf,
}

impl Proc {
    fn spawn(log: PathBuf, args: &[&str], env: &[(&str, String)]) -> Self {
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(args).env("RUST_LOG", "info").stdin(Stdio::null());
        command.stdout(out.try_clone().unwrap()).stderr(out);
        for (key, value) in env {
            command.env(key, value);
        }
        Self { child: command.spawn().unwrap(), log }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Cluster {
    /// A driver and `executors` executors, all ready.
    pub fn start(executors: usize) -> Self {
        let mut cluster = Self::without_executors(&[]);
        for _ in 0..executors {
            cluster.add_executor(&[]);
        }
        cluster
    }

    pub fn without_executors(env: &[(&str, String)]) -> Self {
        let grpc = free_address();
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            url: format!("http://{grpc}"),
            grpc,
            http: free_address(),
            driver: None,
            executors: Vec::new(),
        };
        cluster.start_driver(env);
        cluster
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path().join("driver")
    }

    pub fn start_driver(&mut self, env: &[(&str, String)]) {
        let data = self.data_dir();
        let args =
            ["driver", "--listen", &self.grpc, "--http", &self.http, "--data-dir", data.to_str().unwrap()];
        self.driver = Some(Proc::spawn(self.path().join("driver.log"), &args, env));
    }

    /// Starts another executor; returns its number.
    pub fn add_executor(&mut self, env: &[(&str, String)]) -> usize {
        let number = self.executors.len();
        let log = self.path().join(format!("executor-{number}.log"));
        let proc = Proc::spawn(log, &["executor", "--driver", &self.url, "--slots", "1"], env);
        self.executors.push(Some(proc));
        number
    }

    pub fn driver(&mut self) -> &mut Proc {
        self.driver.as_mut().unwrap()
    }

    pub fn executor(&mut self, number: usize) -> &mut Proc {
        self.executors[number].as_mut().unwrap()
    }

    pub fn kill_driver(&mut self) {
        self.driver = None;
    }

    pub fn kill_executor(&mut self, number: usize) {
        self.executors[number] = None;
    }

    /// Runs a client command to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_highwater"))
            .args(args)
            .env("HIGHWATER_DRIVER", &self.url)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a client command that must succeed; its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{}` failed: {stderr}\n{}", args.join(" "), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let text = self.ok(&args);
        serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("`{args:?}` gave {text:?}: {error}"))
    }

    /// Stores the script in a file and submits it under `name`.
    pub fn submit(&self, name: &str, sql: &str) {
        let file = self.path().join(format!("{name}.sql"));
        std::fs::write(&file, sql).unwrap();
        self.ok(&["submit", file.to_str().unwrap()]);
    }

    pub fn status(&self, name: &str) -> Value {
        self.json(&["status", name])
    }

    /// The committed batches the driver remembers, oldest first.
    pub fn progress(&self, name: &str) -> Vec<Value> {
        let lines = self.ok(&["progress", name, "--last", "1000", "--json"]);
        lines.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn logs(&self) -> String {
        let mut all = String::new();
        let procs = self.driver.iter().chain(self.executors.iter().flatten());
        for proc in procs {
            let log = proc.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            all.push_str(&format!("--- {}\n", proc.log.display()));
            all.extend(tail.into_iter().rev().flat_map(|line| [line, "\n"]));
        }
        all
    }

    /// Waits until `condition` gives a value; panics with the logs at the deadline.
    pub fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(start.elapsed() < DEADLINE, "timed out waiting for {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the query's state is one of `states`; the status then.
    pub fn wait_state(&self, name: &str, states: &[&str]) -> Value {
        let mut last = Value::Null;
        let start = Instant::now();
        loop {
            let output = self.run(&["status", name, "--json"]);
            if output.status.success() {
                last = serde_json::from_slice(&output.stdout).unwrap();
                if states.contains(&last["state"].as_str().unwrap()) {
                    return last;
                }
            }
            assert!(start.elapsed() < DEADLINE, "{name} is not {states:?} but {last}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the query has committed everything its topics hold.
    pub fn wait_caught_up(&self, name: &str) {
        self.wait(&format!("{name} to catch up"), || {
            let output = self.run(&["lag", name, "--json"]);
            let lag: Value = serde_json::from_slice(&output.stdout).ok()?;
            (lag["totalLag"].as_i64() == Some(0)).then_some(())
        });
    }
}
