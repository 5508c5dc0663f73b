//! `testudo install`: puts everything to its usual place below a prefix.

use crate::generate::{SHELLS, completion, man_pages};
use crate::options::print;
use crate::{Refusal, library};
use clap_complete::Shell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

/// `testudo.h`.
pub const HEADER: &str = include_str!("../../include/testudo.h");

/// What pkg-config reads.
pub fn pkg_config(prefix: &str, library_folder: &str) -> String {
    format!(
        "prefix={prefix}\n\
         libdir={library_folder}\n\
         includedir=${{prefix}}/include\n\
         \n\
         Name: testudo\n\
         Description: A hardened memory allocator\n\
         Version: {}\n\
         Libs: -L${{libdir}} -ltestudo\n\
         Cflags: -I${{includedir}}\n",
        library::VERSION
    )
}

const fn shell_folder(shell: Shell) -> &'static str {
    match shell {
        Shell::Zsh => "share/zsh/site-functions",
        Shell::Fish => "share/fish/vendor_completions.d",
        _ => "share/bash-completion/completions",
    }
}

/// Installs, and prints each file.
///
/// # Errors
/// When there is no library, the loader could not preload it from there, or a file cannot be written.
pub fn install(prefix: &Path) -> Result<ExitCode, Refusal> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let library = library::find()?;
    let command = std::env::current_exe().map_err(|error| error.to_string())?;
    let prefix = std::path::absolute(prefix).map_err(|error| format!("{}: {error}", prefix.display()))?;
    library::can_be_preloaded(&prefix)?;
    put(&prefix, "bin/testudo", &read(&command)?, 0o755)?;
    put(&prefix, "lib/libtestudo.so", &read(&library.path)?, 0o644)?;
    put(&prefix, "include/testudo.h", HEADER.as_bytes(), 0o644)?;
    let pc = pkg_config(&prefix.display().to_string(), "${prefix}/lib");
    put(&prefix, "lib/pkgconfig/testudo.pc", pc.as_bytes(), 0o644)?;
    for (name, page) in man_pages().map_err(|error| error.to_string())? {
        let section = name.rsplit('.').next().unwrap_or("1");
        put(&prefix, &format!("share/man/man{section}/{name}"), &page, 0o644)?;
    }
    for (shell, name) in SHELLS {
        put(&prefix, &format!("{}/{name}", shell_folder(shell)), &completion(shell), 0o644)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes under a name of its own first: the file that is replaced may be loaded into running programs, which must keep
/// the one they have.
fn put(prefix: &Path, place: &str, bytes: &[u8], mode: u32) -> Result<(), String> {
    let path = prefix.join(place);
    let write = || {
        let folder = path.parent().unwrap_or(prefix);
        fs::create_dir_all(folder)?;
        let fresh = folder.join(format!(".testudo-{}", std::process::id()));
        let placed = fs::write(&fresh, bytes)
            .and_then(|()| fs::set_permissions(&fresh, Permissions::from_mode(mode)))
            .and_then(|()| fs::rename(&fresh, &path));
        if placed.is_err() {
            // Half of a file is of use to nobody.
            let _ = fs::remove_file(&fresh);
        }
        placed
    };
    write().map_err(|error| format!("{}: {error}", path.display()))?;
    print(&format!("{}\n", path.display()))
}
