//! What the machine has.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// Assumed where the system does not say, in bytes.
const MEMORY_BYTES_UNKNOWN: u64 = 8 << 30;

/// The least of the machine's memory and the limits of the container and the process, in bytes.
pub(super) fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_bytes(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter();
    let limits = limits.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits
        .chain(machine)
        .chain(of_mappings(getrlimit(Resource::As).current))
        .filter(|bytes| *bytes > 0)
        .min()
        .unwrap_or(MEMORY_BYTES_UNKNOWN)
}

/// Where the limits of a process are that is in these control groups: of each group and those around it, such as a job
/// of a batch system within a container. `groups` are lines of Linux: `0::/slice/service`, or `4:memory:/job` in
/// version 1.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines().chain(["0::/", "0:memory:/"]) {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, names) = match controllers {
            // Beyond `high` a group is slowed down until it gives memory back.
            "" => ("/sys/fs/cgroup", &["memory.max", "memory.high"][..]),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"][..])
            }
            _ => continue,
        };
        let around = Path::new(group.trim_start_matches('/')).ancestors();
        let around = around.map(|group| Path::new(root).join(group));
        files.extend(around.flat_map(|group| names.iter().map(move |name| group.join(name))));
    }
    files
}

/// What data may take where a process may map no more than `limit` (`ulimit -v`, the batch system's `h_vmem`): code,
/// stacks and what the allocator keeps for each thread take of that, too.
fn of_mappings(limit: Option<u64>) -> Option<u64> {
    limit.map(|bytes| bytes / 2)
}

/// The total in the words of Linux: `MemTotal:       16384000 kB`.
fn total_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_and_nonsense_is_not() {
        assert_eq!(total_bytes("MemFree: 1 kB\nMemTotal:   2048 kB\n"), Some(2 << 20));
        assert_eq!(total_bytes("MemTotal: 99999999999999999999 kB"), None);
        assert_eq!(total_bytes(""), None);
        assert!(memory_bytes() > 0);
    }

    #[test]
    fn half_of_what_may_be_mapped_is_for_data() {
        assert_eq!(of_mappings(Some(4 << 30)), Some(2 << 30));
        assert_eq!(of_mappings(None), None);
    }

    #[test]
    fn limits_of_all_groups_around_a_process_are_looked_at() {
        let files = |groups| -> Vec<String> {
            let files = limit_files(groups).into_iter();
            files.map(|path| path.display().to_string()).collect()
        };
        let outermost = [
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory.high",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        assert_eq!(files(""), outermost);
        assert_eq!(files("12:cpu:/a\nnonsense\n"), outermost);
        assert_eq!(
            files("0::/slurm/job_7\n")[..6],
            [
                "/sys/fs/cgroup/slurm/job_7/memory.max",
                "/sys/fs/cgroup/slurm/job_7/memory.high",
                "/sys/fs/cgroup/slurm/memory.max",
                "/sys/fs/cgroup/slurm/memory.high",
                "/sys/fs/cgroup/memory.max",
                "/sys/fs/cgroup/memory.high"
            ]
        );
        let first = "/sys/fs/cgroup/memory/batch/memory.limit_in_bytes";
        assert_eq!(files("4:cpu,memory:/batch")[0], first);
    }
}
