//! What the control groups of the process allow it, of memory and of processor time: in a container the machine has more than
//! that. Read once, at start, without allocating.
//!
//! Version 1 (one tree for each controller) and version 2 (one tree for all). Limits hold for all groups below, so each
//! group up to the root is asked; inside a container only the root may be visible.

use super::file;
use core::ffi::CStr;

/// What a process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Bytes of memory; `usize::MAX` when there is no limit.
    pub(crate) memory: usize,
    /// Processors' worth of time, rounded up; `usize::MAX` when there is no quota.
    pub(crate) processors: usize,
}

const EVERYTHING: Allowed = Allowed { memory: usize::MAX, processors: usize::MAX };

/// The longest path that is asked for.
const PATH: usize = 512;

/// What the kernel says.
pub(crate) fn allowed() -> Allowed {
    let mut text = [0; 2048];
    match file::read(c"/proc/self/cgroup", &mut text) {
        Some(text) => allowed_by(text, |path, out| file::read(path, out).map(<[u8]>::len)),
        None => EVERYTHING,
    }
}

/// What the files of the groups in `/proc/self/cgroup` say, which `read` reads.
fn allowed_by(groups: &[u8], read: impl Fn(&CStr, &mut [u8]) -> Option<usize>) -> Allowed {
    let mut allowed = EVERYTHING;
    // Which controllers version 1 has. Asking the kernel for files that do not exist takes it four times as long as reading one.
    let (mut memory_in_1, mut processors_in_1) = (false, false);
    for line in groups.split(|&byte| byte == b'\n') {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let has = |name: &[u8]| controllers.split(|&byte| byte == b',').any(|controller| controller == name);
        if controllers.is_empty() {
            // The last line. A controller is in one version only.
            for_each_group(b"/sys/fs/cgroup", group, |folder| {
                if !memory_in_1 {
                    allowed.memory = allowed.memory.min(number(&read, folder, b"/memory.max").unwrap_or(usize::MAX));
                }
                if !processors_in_1 {
                    allowed.processors = allowed.processors.min(quota(&read, folder).unwrap_or(usize::MAX));
                }
            });
            continue;
        }
        // One tree may have both.
        if has(b"memory") {
            memory_in_1 = true;
            for_each_group(b"/sys/fs/cgroup/memory", group, |folder| {
                // Without a limit it says the largest number of pages that there could be.
                let limit = number(&read, folder, b"/memory.limit_in_bytes").filter(|&limit| limit < 1 << 60);
                allowed.memory = allowed.memory.min(limit.unwrap_or(usize::MAX));
            });
        }
        if has(b"cpu") {
            processors_in_1 = true;
            for_each_group(b"/sys/fs/cgroup/cpu", group, |folder| {
                // Without a quota it says -1, and the period need not be read.
                if let Some(quota) = number(&read, folder, b"/cpu.cfs_quota_us")
                    && let Some(period) = number(&read, folder, b"/cpu.cfs_period_us").filter(|&period| period != 0)
                {
                    allowed.processors = allowed.processors.min(quota.div_ceil(period).max(1));
                }
            });
        }
    }
    allowed
}

/// Calls `visit` with the folder of a group, and with those of the groups above it.
fn for_each_group(root: &[u8], group: &[u8], mut visit: impl FnMut(&[&[u8]; 2])) {
    let mut group = group;
    loop {
        visit(&[root, if group == b"/" { b"" } else { group }]);
        match group.iter().rposition(|&byte| byte == b'/') {
            Some(end) if group.len() > 1 => group = group.get(..end).unwrap_or_default(),
            _ => break,
        }
    }
}

/// What a file of a group says, as far as it fits.
fn read_file<'a>(
    read: &impl Fn(&CStr, &mut [u8]) -> Option<usize>,
    folder: &[&[u8]; 2],
    name: &[u8],
    out: &'a mut [u8; 64],
) -> Option<&'a str> {
    let mut path = [0; PATH];
    let mut length = 0;
    for part in [folder[0], folder[1], name] {
        path.get_mut(length..length + part.len())?.copy_from_slice(part);
        length += part.len();
    }
    // Its last byte must stay zero.
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    let length = read(path, out)?;
    core::str::from_utf8(out.get(..length)?).ok().map(str::trim)
}

fn number(read: &impl Fn(&CStr, &mut [u8]) -> Option<usize>, folder: &[&[u8]; 2], name: &[u8]) -> Option<usize> {
    read_file(read, folder, name, &mut [0; 64])?.parse().ok()
}

/// `cpu.max`: microseconds of processor time in a period, and the period.
fn quota(read: &impl Fn(&CStr, &mut [u8]) -> Option<usize>, folder: &[&[u8]; 2]) -> Option<usize> {
    let mut text = [0; 64];
    let (quota, period) = read_file(read, folder, b"/cpu.max", &mut text)?.split_once(' ')?;
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    (period != 0).then(|| quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::{Allowed, EVERYTHING, allowed_by};
    use core::cell::RefCell;

    /// What is allowed where these files are.
    fn with(groups: &str, files: &[(&str, &str)]) -> Allowed {
        allowed_by(groups.as_bytes(), |path, out| {
            let path = path.to_str().expect("text");
            let (_, text) = files.iter().find(|(name, _)| *name == path)?;
            out[..text.len()].copy_from_slice(text.as_bytes());
            Some(text.len())
        })
    }

    #[test]
    fn version_2_limits_hold_at_every_level() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "104857600\n"),
            ("/sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/cpu.max", "max 100000\n"),
        ];
        assert_eq!(with("0::/a/b\n", &files), Allowed { memory: 100 << 20, processors: 2 });
        // Inside a container the group's own folder is the root.
        let inside = [("/sys/fs/cgroup/memory.max", "4096\n"), ("/sys/fs/cgroup/cpu.max", "1000 100000\n")];
        for group in ["0::/", "0::/not/visible\n"] {
            assert_eq!(with(group, &inside), Allowed { memory: 4096, processors: 1 });
        }
    }

    #[test]
    fn version_1_has_a_tree_for_each_controller() {
        let groups = "4:memory:/x\n2:cpu,cpuacct:/y\n1:name=systemd:/\n0::/\n";
        let files = [
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n"),
            ("/sys/fs/cgroup/cpu/y/cpu.cfs_quota_us", "400000\n"),
            ("/sys/fs/cgroup/cpu/y/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(with(groups, &files), Allowed { memory: 1 << 20, processors: 4 });
        // Or one for both.
        let files = [
            ("/sys/fs/cgroup/memory/z/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/cpu/z/cpu.cfs_quota_us", "100000\n"),
            ("/sys/fs/cgroup/cpu/z/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(with("3:cpu,memory:/z\n", &files), Allowed { memory: 4096, processors: 1 });
    }

    #[test]
    fn version_2_is_asked_about_the_controllers_that_version_1_does_not_have() {
        let files = [("/sys/fs/cgroup/memory.max", "4096\n"), ("/sys/fs/cgroup/cpu.max", "100000 100000\n")];
        let everything = usize::MAX;
        for (groups, memory, processors) in [
            ("4:memory:/\n2:cpu,cpuacct:/\n0::/\n", everything, everything),
            ("4:memory:/\n0::/\n", everything, 1),
            ("2:cpu:/\n0::/\n", 4096, everything),
            ("1:name=systemd:/\n0::/\n", 4096, 1),
        ] {
            assert_eq!(with(groups, &files), Allowed { memory, processors }, "{groups}");
        }
    }

    #[test]
    fn files_of_version_2_are_not_asked_for_where_version_1_has_both_controllers() {
        allowed_by(b"4:memory:/\n2:cpu:/\n0::/\n", |path, _| {
            let path = path.to_str().expect("text");
            assert!(!path.ends_with(".max"), "{path}");
            None
        });
    }

    /// Each file that is asked for takes microseconds of every start.
    #[test]
    fn the_files_of_each_group_up_to_the_root_are_asked_for_once() {
        for (groups, folders) in [("0::/a/b", &["/a/b", "/a", ""][..]), ("0::/a", &["/a", ""]), ("0::/", &[""])] {
            let asked = RefCell::new(Vec::new());
            allowed_by(groups.as_bytes(), |path, _| {
                asked.borrow_mut().push(path.to_str().expect("text").to_owned());
                None
            });
            let files = |folder: &&str| ["memory.max", "cpu.max"].map(|name| format!("/sys/fs/cgroup{folder}/{name}"));
            assert_eq!(asked.into_inner(), folders.iter().flat_map(files).collect::<Vec<_>>(), "{groups}");
        }
    }

    #[test]
    fn what_version_1_says_without_a_limit_is_none_whatever_the_size_of_a_page() {
        for (number, limit) in [(u64::MAX >> 1 & !0xffff, usize::MAX), (1 << 60, usize::MAX), (1 << 59, 1 << 59)] {
            let files = [("/sys/fs/cgroup/memory/memory.limit_in_bytes", &*number.to_string())];
            assert_eq!(with("4:memory:/\n", &files).memory, limit, "{number}");
        }
    }

    #[test]
    fn nonsense_limits_nothing() {
        let long = format!("0::/{}", "x".repeat(1000));
        for groups in ["", "\n", "0", "0:", "0::", "::", &long, "4:memory", "4:memory:\n"] {
            assert_eq!(with(groups, &[("/sys/fs/cgroup/memory.max", "a lot")]), EVERYTHING, "{groups}");
        }
    }
}
