//! `limits.state_memory`: a number of bytes, none, or a share of what the control group allows the process.

use std::path::Path;

/// How much memory the state's tables may be reckoned to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateMemory {
    /// Half of the control group's limit; no limit where that has none.
    Auto,
    /// No limit.
    None,
    /// So many bytes.
    Bytes(u64),
}

/// At least so much: less holds no state worth having.
const LEAST: u64 = 1 << 20;
/// Version 1 says "no limit" by the greatest number of whole pages; nobody has this much.
const UNLIMITED: u64 = 1 << 60;

/// Reads `auto`, `none` or a whole number with `KiB`, `MiB`, `GiB` or `TiB`; at least 1 MiB. `None` when it is something else.
pub(super) fn parse(text: &str) -> Option<StateMemory> {
    match text {
        "auto" => return Some(StateMemory::Auto),
        "none" => return Some(StateMemory::None),
        _ => {}
    }
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (number, bits) = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)))?;
    let whole = number.bytes().all(|b| b.is_ascii_digit());
    let bytes = number.parse::<u64>().ok().filter(|_| whole)?.checked_mul(1 << bits)?;
    (LEAST..UNLIMITED).contains(&bytes).then_some(StateMemory::Bytes(bytes))
}

impl StateMemory {
    /// In bytes; `None` is no limit.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        match self {
            StateMemory::Auto => control_group(Path::new("/")).map(|limit| (limit / 2).max(LEAST)),
            StateMemory::None => None,
            StateMemory::Bytes(bytes) => Some(bytes),
        }
    }
}

/// The least memory limit of the process' control group and those above it, version 2 or 1, in the file system at `root`.
fn control_group(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        // In a container the path may be the host's, which is not there: then the mount itself is the group.
        let above = Path::new(path.trim_start_matches('/')).ancestors().map(|group| root.join(mount).join(group).join(file));
        above.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()).min()
    });
    limits.min().filter(|limit| *limit < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_with_a_unit() {
        assert_eq!(parse("auto"), Some(StateMemory::Auto));
        assert_eq!(parse("none"), Some(StateMemory::None));
        assert_eq!(parse("512MiB"), Some(StateMemory::Bytes(512 << 20)));
        assert_eq!(parse("2TiB"), Some(StateMemory::Bytes(2 << 40)));
        for text in ["", "4", "4GB", "4 GiB", "1.5GiB", "-1GiB", "+1GiB", "GiB", "512KiB", "2000000TiB", "99999999999999999999MiB", "Auto"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_control_groups_limit_is_found_in_both_versions() {
        let limit = |files: &[(&str, &str)]| {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            control_group(root.path())
        };
        assert_eq!(limit(&[]), None);
        let two = ("proc/self/cgroup", "0::/a/b\n");
        assert_eq!(limit(&[two, ("sys/fs/cgroup/a/b/memory.max", "4096\n"), ("sys/fs/cgroup/a/memory.max", "max\n")]), Some(4096));
        assert_eq!(limit(&[two, ("sys/fs/cgroup/a/b/memory.max", "4096\n"), ("sys/fs/cgroup/a/memory.max", "1024\n")]), Some(1024));
        assert_eq!(limit(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "7\n")]), Some(7));
        assert_eq!(limit(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")]), None);
        let one = ("proc/self/cgroup", "11:cpu:/x\n5:memory:/docker/abc\n");
        assert_eq!(
            limit(&[one, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n")]),
            Some(8192),
            "a container sees its own as the root"
        );
        assert_eq!(limit(&[one, ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n")]), None);
    }
}
