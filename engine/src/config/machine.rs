//! What the machine has.

use std::fs;

/// Assumed where the system does not say, in bytes.
const MEMORY_BYTES_UNKNOWN: u64 = 8 << 30;

/// The least of the machine's memory and the limits of the container it runs in, in bytes.
pub(super) fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_bytes(&text));
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limits = limits
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    limits
        .chain(machine)
        .filter(|bytes| *bytes > 0)
        .min()
        .unwrap_or(MEMORY_BYTES_UNKNOWN)
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
}
