//! A small root folder with a few real programs in it, entered by chroot: what is tried here touches nothing of the
//! machine's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::{real, succeeds, support};

const PROGRAMS: [&str; 4] = ["bash", "cat", "grep", "sleep"];

/// A double free in a program that knows nothing of testudo, for the root to run.
const DOUBLE_FREE: &str = "#include <stdlib.h>
int main(void) { void *volatile p = malloc(24); free(p); for (int i = 0; i < 20; i++) free(malloc(24 + 16 * i)); free(p); return 0; }";

pub struct Root {
    folder: TempDir,
}

impl Root {
    /// Programs and the libraries that they need; nothing where this user may not change roots.
    pub fn new() -> Option<Self> {
        // SAFETY: reads a number.
        if unsafe { libc::geteuid() } != 0 {
            real::say_skipped("only root can enter another root");
            return None;
        }
        let root = Self { folder: real::folder() };
        // In a container root may not mount.
        fs::create_dir(root.path().join("proc")).expect("a folder");
        let probe = ["--mount", "--", "/bin/sh", "-c", "mount -t proc proc \"$0/proc\""];
        if !real::to_the_end(Command::new("unshare").args(probe).arg(root.path())).status.success() {
            real::say_skipped("root may not mount anything here");
            return None;
        }
        for place in ["etc", "proc", "tmp", "usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib64"] {
            fs::create_dir_all(root.path().join(place)).expect("a folder");
        }
        for place in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{place}"), root.path().join(place)).expect("a link");
        }
        for program in PROGRAMS {
            let file = real::find(program).unwrap_or_else(|| panic!("{program} is not installed"));
            root.copy_with_libraries(&file);
        }
        let source = root.path().join("tmp/double_free.c");
        fs::write(&source, DOUBLE_FREE).expect("a source");
        let program = root.path().join("usr/bin/double_free");
        succeeds(Command::new("gcc").args(["-O0", "-w"]).arg(&source).arg("-o").arg(&program));
        Some(root)
    }

    /// The same, with libtestudo.so where the Debian package puts it.
    pub fn with_library() -> Option<Self> {
        let root = Self::new()?;
        let place = root.path().join("usr/lib/x86_64-linux-gnu/libtestudo.so");
        fs::copy(support::libtestudo(), place).expect("a copy");
        root.copy_libraries_of(support::libtestudo());
        Some(root)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn copy_with_libraries(&self, program: &Path) {
        let name = program.file_name().expect("a name");
        real::copy(program, &self.path().join("usr/bin").join(name));
        self.copy_libraries_of(program);
    }

    /// Copies the shared libraries that a program or library of the system asks for.
    pub fn copy_libraries_of(&self, file: &Path) {
        let said = succeeds(Command::new("ldd").arg(file)).out();
        for library in said.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = Path::new(library);
            let place = self.path().join(library.strip_prefix("/").expect("absolute"));
            fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
            real::copy(library, &place);
        }
    }

    /// Runs a program inside, with `/proc` and nothing in its environment but what is given.
    pub fn run(&self, environment: &[&str], words: &[&str]) -> real::Ended {
        // In a mount namespace of its own: it and the /proc in it are gone when the program has ended.
        let script = "mount -t proc proc \"$0/proc\" && root=$0 && exec /usr/sbin/chroot \"$root\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "/bin/sh", "-c", script]).arg(self.path());
        // Set inside, so that they reach only what runs inside.
        let set: String = environment.iter().map(|pair| format!("export {pair}; ")).collect();
        command.args(["/bin/bash", "-c", &format!("{set}exec \"$@\""), "bash"]).args(words);
        real::to_the_end(command.env_clear().env("PATH", "/usr/bin:/bin"))
    }

    /// Whether a program in this environment has the library in it.
    pub fn loads_the_library(&self, environment: &[&str]) -> bool {
        let ended = self.run(environment, &["cat", "/proc/self/maps"]);
        assert!(ended.status.success() && ended.err().is_empty(), "{ended:?}");
        ended.out().contains("/usr/lib/x86_64-linux-gnu/libtestudo.so")
    }

    /// Whether a program that runs with more rights than its caller has the library in it.
    pub fn set_user_id_program_loads_the_library(&self) -> bool {
        const NOBODY: &str = "65534:65534";
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions can be set");
        };
        let program = self.path().join("usr/bin/set_user_id_cat");
        real::copy(&self.path().join("usr/bin/cat"), &program);
        mode(&program, 0o4755);
        // Others may enter.
        mode(self.path(), 0o755);
        let script =
            "mount -t proc proc \"$0/proc\" && exec chroot --userspec=\"$1\" \"$0\" set_user_id_cat /proc/self/maps";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--", "/bin/sh", "-c", script]).arg(self.path()).arg(NOBODY);
        let ended = real::to_the_end(command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
        assert!(ended.status.success(), "{ended:?}");
        ended.err().is_empty() && ended.out().contains("/usr/lib/x86_64-linux-gnu/libtestudo.so")
    }

    /// Claims that programs in this environment are protected, and fine, and that without it they are not.
    pub fn is_protected_by(&self, environment: &[&str]) {
        assert!(self.loads_the_library(environment), "{environment:?}");
        let ended = self.run(environment, &["double_free"]);
        assert!(ended.err().starts_with("testudo: double free at 0x"), "{ended:?}");
    }
}
