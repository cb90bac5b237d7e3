//! A cluster that a command starts for itself: one driver and some executors, each a process, as in production.
//!
//! Owns: starting, killing and ending the processes. Does not own: what they are used for (`demo`, `bench`).
//! Invariant: none of them outlives the command, however it ends (each watches a pipe that this process holds).

use crate::failure::Failure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long processes may take to end after they are asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// One process of the cluster.
struct Process {
    label: String,
    child: Child,
    log: PathBuf,
}

/// The processes; dropping this kills those that are left.
pub struct Cluster {
    pub driver_url: String,
    /// Slots of each executor; `None`: one per core.
    slots: Option<u32>,
    folder: PathBuf,
    driver: Process,
    executors: Vec<Process>,
    started: usize,
}

impl Cluster {
    /// Starts a driver and `executors` executors of `slots` slots with their files under `folder`.
    pub fn start(folder: &Path, executors: usize, slots: Option<u32>) -> Result<Self, Failure> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let data = folder.join("driver").display().to_string();
        let args = ["driver", "--listen", &address, "--http", "127.0.0.1:0", "--data-dir", &data];
        let driver = spawn("driver", &args, folder)?;
        let driver_url = format!("http://{address}");
        let folder = folder.to_path_buf();
        let mut cluster = Self { driver_url, slots, folder, driver, executors: Vec::new(), started: 0 };
        for _ in 0..executors {
            cluster.add_executor()?;
        }
        Ok(cluster)
    }

    /// Starts one more executor. Returns its name.
    pub fn add_executor(&mut self) -> Result<String, Failure> {
        self.started += 1;
        let label = format!("executor {}", self.started);
        let slots = self.slots.map(|slots| slots.to_string());
        let mut args = vec!["executor", "--driver", &self.driver_url];
        args.extend(slots.iter().flat_map(|slots| ["--slots", slots]));
        let process = spawn(&label, &args, &self.folder)?;
        let named = format!("{label} (process {})", process.child.id());
        self.executors.push(process);
        Ok(named)
    }

    /// Kills the oldest executor with SIGKILL, as the out-of-memory killer would. Returns its name; `None` if there is
    /// none.
    pub fn kill_executor(&mut self) -> Option<String> {
        if self.executors.is_empty() {
            return None;
        }
        let mut process = self.executors.remove(0);
        let named = format!("{} (process {})", process.label, process.child.id());
        // Both fail only if it is dead already.
        let _ = process.child.kill();
        let _ = process.child.wait();
        Some(named)
    }

    /// Returns an error with the end of its log if a process ended by itself.
    pub fn check(&mut self) -> Result<(), Failure> {
        for process in std::iter::once(&mut self.driver).chain(&mut self.executors) {
            if let Some(status) = process.child.try_wait()? {
                let log = std::fs::read_to_string(&process.log).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(8)..].join("\n");
                return Err(Failure::failed(format!(
                    "the {} that this command started ended with {status}:\n{tail}",
                    process.label
                )));
            }
        }
        Ok(())
    }

    /// Asks all processes to end, and kills those that do not.
    pub fn stop(&mut self) {
        self.each(|process| {
            if let Ok(id) = i32::try_from(process.child.id()) {
                // It may have ended already.
                let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            }
        });
        let deadline = Instant::now() + PATIENCE;
        self.each(|process| {
            while matches!(process.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.child.kill();
            let _ = process.child.wait();
        });
    }

    fn each(&mut self, mut act: impl FnMut(&mut Process)) {
        // Executors first: without a driver they would retry.
        self.executors.iter_mut().for_each(&mut act);
        act(&mut self.driver);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.each(|process| {
            // Fails if the process has ended; then it was waited for already.
            let _ = process.child.kill();
            let _ = process.child.wait();
        });
    }
}

fn spawn(label: &str, args: &[&str], folder: &Path) -> Result<Process, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot start a {label} for this command: {error}"));
    let binary = std::env::current_exe().map_err(failed)?;
    let log = folder.join(format!("{}.log", label.replace(' ', "-")));
    let child = Command::new(binary)
        .args(args)
        .arg("--exit-with-parent")
        .env_remove("HIGHWATER_DRIVER")
        .env_remove("HIGHWATER_CONFIG")
        .env_remove("HIGHWATER_TLS_CA")
        .env_remove("HIGHWATER_TOKEN")
        .env("RUST_LOG", "warn")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(File::create(&log).map_err(failed)?)
        // ^C is for this command, which then ends its processes in order.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    Ok(Process { label: label.to_string(), child, log })
}

/// A port that is free now.
fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
