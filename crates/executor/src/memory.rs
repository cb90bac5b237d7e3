//! How much memory the machine, or the container of this process, has.
//!
//! Owns: finding that out. Does not own: counting what queries take (`dataflow::state`).

use std::path::Path;

/// Divisor of the memory for the default limit of one query, which `--query-memory` overrides: half of it.
const QUERY_SHARE: u64 = 2;

/// The default memory limit of one query, bytes; no limit if the system does not report its memory.
pub fn query_limit() -> u64 {
    total(Path::new("/")).map_or(u64::MAX, |total| total / QUERY_SHARE)
}

/// The minimum of the machine's memory and the limits of the process' control groups, bytes; `None` if unknown.
fn total(root: &Path) -> Option<u64> {
    let machine = read(root, "proc/meminfo").and_then(|text| meminfo(&text));
    let group = read(root, "proc/self/cgroup").unwrap_or_default();
    let mut paths = vec!["sys/fs/cgroup/memory.max".to_string(), "sys/fs/cgroup/memory/memory.limit_in_bytes".into()];
    // In a container the group's own folder is the mount itself; outside, the group and its parents are below the
    // mount.
    let own = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let parents = own.match_indices('/').skip(1).map(|(end, _)| &own[..end]).chain([own]);
    paths.extend(parents.map(|group| format!("sys/fs/cgroup{}/memory.max", group.trim_end_matches('/'))));
    let limits = paths.iter().filter_map(|path| read(root, path)?.trim().parse().ok());
    limits.chain(machine).min()
}

fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

/// `MemTotal:       24643600 kB`.
fn meminfo(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total_of(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        total(root.path())
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         10 kB\n");

    #[test]
    fn the_smallest_limit_of_machine_and_groups_counts() {
        assert_eq!(total_of(&[]), None);
        assert_eq!(total_of(&[MACHINE]), Some(1_024_000));
        assert_eq!(total_of(&[MACHINE, ("sys/fs/cgroup/memory.max", "max\n")]), Some(1_024_000));
        assert_eq!(total_of(&[MACHINE, ("sys/fs/cgroup/memory.max", "5000\n")]), Some(5_000));
        let first = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(total_of(&[MACHINE, first]), Some(1_024_000));
    }

    #[test]
    fn a_group_is_limited_by_its_parents() {
        let group = ("proc/self/cgroup", "0::/system.slice/highwater.service\n");
        let own = ("sys/fs/cgroup/system.slice/highwater.service/memory.max", "max\n");
        let above = ("sys/fs/cgroup/system.slice/memory.max", "7000\n");
        assert_eq!(total_of(&[MACHINE, group, own, above]), Some(7_000));
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(query_limit() > 1 << 20);
    }
}
