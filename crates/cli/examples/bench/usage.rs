//! CPU time and memory of processes, from /proc.

use highwater_testkit::Highwater;
use std::process::Command;

/// CPU seconds (user and system) that a process has used.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the command may contain spaces; the fields after its closing bracket do not.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Peak resident memory, MiB.
pub fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// The Kafka broker: the java process below this one.
pub fn broker_pid() -> Option<u32> {
    let found = Command::new("pgrep").args(["-n", "-f", "kafka.Kafka"]).output().ok()?;
    String::from_utf8_lossy(&found.stdout).trim().parse().ok()
}

/// Name, CPU seconds and peak MiB of each process of a cluster.
pub fn of(cluster: &Highwater) -> Vec<(String, f64, u64)> {
    cluster.processes().into_iter().map(|(name, pid)| (name, cpu_seconds(pid), peak_mib(pid))).collect()
}
