//! A child process of a test: its output, and ways to stop or disturb it.
//!
//! Invariant: it is killed and reaped when dropped.

use crate::wait::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running or ended child process.
pub struct Process {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `program`; its output is appended to `NAME.stdout` and `NAME.stderr` in `dir`.
    #[track_caller]
    pub fn spawn<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
        dir: &Path,
        name: &str,
    ) -> Self {
        let (stdout, stderr) = (dir.join(format!("{name}.stdout")), dir.join(format!("{name}.stderr")));
        let open = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let child = Command::new(program.as_ref())
            .args(args)
            .envs(environment.iter().copied())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(open(&stdout))
            .stderr(open(&stderr))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.as_ref().display()));
        Self { child, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        std::fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Kills it with SIGKILL. Returns when the process is gone.
    pub fn kill(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, with SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Stops it with SIGSTOP: it hangs, and its connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Resumes it with SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().cast_signed());
        kill(id, signal).unwrap_or_else(|error| panic!("cannot send {signal} to {id}: {error}"));
    }

    /// Returns how it ended; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be looked at")
    }

    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    /// Waits for its end; panics with its stderr if the deadline passes.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("process {} to end", self.child.id());
        let end = std::time::Instant::now() + deadline;
        wait_for(&what, deadline + Duration::from_secs(1), || {
            let status = self.exit_status();
            assert!(
                status.is_some() || std::time::Instant::now() < end,
                "{what}: not within {deadline:?}\n{}",
                self.stderr()
            );
            status
        })
    }

    /// Waits until its stderr contains `text`; panics at the deadline, or if the process ends before.
    #[track_caller]
    pub fn wait_stderr(&mut self, text: &str, deadline: Duration) {
        wait_for(&format!("{text:?} on stderr"), deadline, || {
            let running = self.is_running();
            let seen = self.stderr().contains(text);
            assert!(seen || running, "the process ended without {text:?} on stderr:\n{}", self.stderr());
            seen.then_some(())
        });
    }

    /// Resident memory in bytes; `None` if it has ended.
    pub fn memory_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
