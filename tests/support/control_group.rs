//! A real control group with a limit, for programs that are to find one.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group that is removed again. Nothing but what is put into it notices that it is there.
pub struct ControlGroup(PathBuf);

/// Where groups are made, and which of their files hold which values.
type Place<'a> = (&'a str, &'a [(&'a str, String)]);

impl ControlGroup {
    /// One that may have so many MiB. `None` where none can be made.
    pub fn with_memory(megabytes: u64) -> Option<Self> {
        let bytes = (megabytes << 20).to_string();
        Self::make(&[
            ("/sys/fs/cgroup/memory", &[("memory.limit_in_bytes", bytes.clone())]),
            ("/sys/fs/cgroup", &[("memory.max", bytes)]),
        ])
    }

    /// One that may have so many processors' worth of time. `None` where none can be made.
    pub fn with_processors(count: u64) -> Option<Self> {
        const PERIOD: u64 = 100_000;
        let quota = count * PERIOD;
        Self::make(&[
            (
                "/sys/fs/cgroup/cpu",
                &[("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota.to_string())],
            ),
            ("/sys/fs/cgroup", &[("cpu.max", format!("{quota} {PERIOD}"))]),
        ])
    }

    fn make(places: &[Place<'_>]) -> Option<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("testudo-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        places.iter().find_map(|(parent, files)| {
            let parent = Path::new(parent);
            let path = parent.join(&name);
            if !parent.join("cgroup.procs").exists() || fs::create_dir(&path).is_err() {
                return None;
            }
            let group = Self(path);
            files.iter().all(|(file, value)| fs::write(group.0.join(file), value).is_ok()).then_some(group)
        })
    }

    /// The file that says how many bytes of memory are in use.
    #[allow(dead_code, reason = "not all test binaries ask")]
    pub fn memory_in_use(&self) -> PathBuf {
        ["memory.usage_in_bytes", "memory.current"]
            .map(|file| self.0.join(file))
            .into_iter()
            .find(|file| file.exists())
            .expect("a group of the memory controller")
    }

    /// Has `command` run in it.
    ///
    /// # Panics
    /// When the group's list of processes cannot be opened.
    pub fn enclose<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let processes = File::options().write(true).open(self.0.join("cgroup.procs")).expect("the group's processes");
        // SAFETY: between fork and exec only `write` is called, which is async-signal-safe; zero stands for the caller.
        unsafe { command.pre_exec(move || (&processes).write_all(b"0")) }
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
