//! `testudo version`: what a report of a problem has to say about the place where it happened.

use crate::options::{print, print_json};
use crate::{Refusal, library};
use serde::Serialize;
use std::fs;
use std::process::ExitCode;

/// Versions, and what CPU and kernel offer.
#[derive(Debug, Serialize)]
pub struct Version {
    /// This command's version.
    pub command: &'static str,
    /// Path of the library, or why there is none.
    pub library: String,
    /// Version of the library; the command refuses any other than its own.
    pub library_version: Option<&'static str>,
    /// Name and release of the kernel.
    pub kernel: String,
    pub architecture: &'static str,
    /// Whether header checksums use the CPU's CRC32 instruction; there is a slower way without it.
    pub crc32_instruction: bool,
    /// Whether the kernel guards single pages of a mapping (MADV_GUARD_INSTALL, from Linux 6.13 on); without it guards
    /// are mappings of their own.
    pub guard_install: bool,
    /// How many mappings a process may have (vm.max_map_count).
    pub max_map_count: Option<u64>,
    /// vm.overcommit_memory: 0 heuristic, 1 always, 2 never.
    pub overcommit_memory: Option<u64>,
    /// Transparent huge pages: always, madvise or never.
    pub transparent_huge_pages: Option<String>,
}

impl Version {
    /// What is found here.
    ///
    /// # Errors
    /// None; a missing library is part of the answer.
    pub fn here() -> Result<Self, Refusal> {
        let (library, library_version) = match library::find() {
            Ok(library) => (library.path.display().to_string(), Some(library::VERSION)),
            Err(refusal) => (format!("none: {}", refusal.message), None),
        };
        let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let number = |path: &str| read(path).and_then(|text| text.parse().ok());
        Ok(Self {
            command: library::VERSION,
            library,
            library_version,
            kernel: format!(
                "Linux {}",
                read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown release".to_owned())
            ),
            architecture: std::env::consts::ARCH,
            crc32_instruction: has_crc32(),
            guard_install: has_guard_install(),
            max_map_count: number("/proc/sys/vm/max_map_count"),
            overcommit_memory: number("/proc/sys/vm/overcommit_memory"),
            transparent_huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
        })
    }

    fn text(&self) -> String {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let number = |number: Option<u64>| number.map_or("unknown".to_owned(), |number| number.to_string());
        let rows = [
            ("testudo", self.command.to_owned()),
            ("library", self.library.clone()),
            ("library version", self.library_version.unwrap_or("none").to_owned()),
            ("kernel", self.kernel.clone()),
            ("processor", format!("{}, CRC32 instruction: {}", self.architecture, yes(self.crc32_instruction))),
            ("guards without a mapping", format!("{} (MADV_GUARD_INSTALL, Linux 6.13)", yes(self.guard_install))),
            ("vm.max_map_count", number(self.max_map_count)),
            ("vm.overcommit_memory", number(self.overcommit_memory)),
            ("transparent huge pages", self.transparent_huge_pages.clone().unwrap_or("unknown".to_owned())),
        ];
        rows.iter().map(|(name, value)| format!("{name:<26}{value}\n")).collect()
    }
}

/// Shows it.
///
/// # Errors
/// When standard output cannot be written to.
pub fn show(json: bool) -> Result<ExitCode, Refusal> {
    let version = Version::here()?;
    if json {
        print_json(&version)?
    } else {
        print(&version.text())?
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(target_arch = "x86_64")]
fn has_crc32() -> bool {
    std::arch::is_x86_feature_detected!("sse4.2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_crc32() -> bool {
    false
}

/// Tries it on a page of its own.
fn has_guard_install() -> bool {
    const MADV_GUARD_INSTALL: i32 = 102;
    const PAGE: usize = 4096;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping wherever the kernel likes, which nobody else knows of and which is given back whole.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return false;
        }
        let works = libc::madvise(page, PAGE, MADV_GUARD_INSTALL) == 0;
        libc::munmap(page, PAGE);
        works
    }
}
