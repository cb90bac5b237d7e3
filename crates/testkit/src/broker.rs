//! One Apache Kafka broker process: broker and controller in one, with its data in a folder.
//!
//! Owns: the process and its process group. Invariant: the broker dies with the test process even if that is killed: a
//! shell holds the reading end of a pipe, and kills the broker when the writing end is closed.

use crate::wait::wait_until;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// `$1` is the script, `$2` the configuration, `$3` the data folder. Removes the data only after the test process is
/// gone.
const WATCHED: &str = r#"
exec 3<&0
"$1" broker "$2" </dev/null 3<&- &
broker=$!
{ cat <&3 >/dev/null; kill -9 $broker; rm -rf "$3"; rmdir "$(dirname "$3")"; } 2>/dev/null &
exec 3<&-
wait $broker
"#;

/// A broker that runs, or can be restarted with the same data.
pub struct Broker {
    pub id: i32,
    pub port: u16,
    dir: PathBuf,
    child: Option<Child>,
}

/// The script that fetches and runs Apache Kafka.
fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kafka.sh")
}

/// Downloads the jars if they are missing; the first call on a machine takes a while.
pub fn ensure_installed() {
    let output = Command::new(script()).arg("jars").output().expect("scripts/kafka.sh can be run");
    assert!(output.status.success(), "Apache Kafka is not available: {}", String::from_utf8_lossy(&output.stderr));
}

impl Broker {
    /// A broker in `dir`, not started. `own` are the properties that differ from the common ones.
    pub fn new(id: i32, port: u16, dir: PathBuf, own: &str) -> Self {
        std::fs::create_dir_all(&dir).expect("the broker's folder can be made");
        let common = script().with_file_name("kafka").join("server.properties");
        let common = std::fs::read_to_string(&common).expect("scripts/kafka/server.properties is there");
        let text = format!("{common}\nnode.id={id}\nlog.dirs={}\n{own}\n", dir.join("logs").display());
        std::fs::write(dir.join("server.properties"), text).expect("the broker's configuration can be written");
        Self { id, port, dir, child: None }
    }

    /// Starts the process, without waiting for it to serve.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "broker {} runs already", self.id);
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log can be opened");
        let child = Command::new("sh")
            .args(["-c", WATCHED, "sh"])
            .arg(script())
            .arg(self.dir.join("server.properties"))
            .arg(&self.dir)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("the log can be shared"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("sh can be run");
        self.child = Some(child);
    }

    /// Kills it with SIGKILL. Returns when the process is gone. Does nothing if it does not run.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let group = Pid::from_raw(child.id().cast_signed());
        // Fails only if the whole group has ended already.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait();
        let port = self.port;
        wait_until("the broker's port to be free", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
        });
    }

    /// Stops the process without ending it (SIGSTOP): a broker that hangs.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Resumes a frozen process (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Panics with the broker's log if its process ended by itself.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
            panic!("broker {} ended ({status}); its log:\n{}", self.id, self.log());
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the broker runs");
        killpg(Pid::from_raw(child.id().cast_signed()), signal).expect("the broker can be signalled");
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("broker.log")
    }

    /// Appends a line to the broker's log, which explains what follows there.
    pub fn note(&self, text: &str) {
        if let Ok(mut log) = File::options().append(true).open(self.log_path()) {
            let _ = writeln!(log, "--- {text}");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
