//! Every way of installing that docs/install.md describes, tried in folders and roots of their own.

#[path = "support/real.rs"]
#[allow(dead_code, reason = "each test binary uses its part of it")]
mod real;
#[path = "install/root.rs"]
mod root;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

fn packaging(name: &str) -> PathBuf {
    support::root().join("packaging").join(name)
}

fn succeeds(command: &mut Command) -> real::Ended {
    let ended = real::to_the_end(command);
    assert!(ended.status.success(), "{command:?}: {ended:?}");
    ended
}

/// The files below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let ended = succeeds(Command::new("find").arg(folder).args(["-type", "f", "-printf", "%P\n"]));
    ended.out().lines().map(str::to_owned).collect()
}

/// Man pages that both bring, which Debian's policy wants compressed.
const MAN_PAGES: [&str; 4] = [
    "share/man/man1/testudo.1",
    "share/man/man1/testudo-run.1",
    "share/man/man1/testudo-check.1",
    "share/man/man7/libtestudo.7",
];

/// What else both the package and `testudo install` bring, below their prefix.
const EVERYWHERE: [&str; 4] = [
    "bin/testudo",
    "include/testudo.h",
    "share/bash-completion/completions/testudo",
    "share/fish/vendor_completions.d/testudo.fish",
];

/// Compiles a program against what pkg-config says and runs it: it prints the library's version.
fn links_by_pkg_config(prefix: &Path, library_folder: &Path, define_prefix: bool) {
    if !real::installed(&["pkg-config"]) {
        return;
    }
    let mut ask = Command::new("pkg-config");
    ask.env("PKG_CONFIG_PATH", library_folder.join("pkgconfig")).args(["--cflags", "--libs", "testudo"]);
    if define_prefix {
        ask.arg(format!("--define-variable=prefix={}", prefix.display()));
    }
    let flags = succeeds(&mut ask).out();
    let folder = real::folder();
    let source = folder.path().join("program.c");
    fs::write(
        &source,
        "#include <testudo.h>\n#include <stdio.h>\nint main(void) { return puts(testudo_version()) < 0; }\n",
    )
    .expect("a source");
    let program = folder.path().join("program");
    succeeds(Command::new("gcc").arg(&source).arg("-o").arg(&program).args(flags.split_whitespace()));
    let ended = succeeds(Command::new(&program).env("LD_LIBRARY_PATH", library_folder));
    assert_eq!(ended.out().trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn install_puts_everything_below_the_prefix_and_prints_each_file() {
    let folder = real::folder();
    let prefix = folder.path().join("prefix");
    let command = support::libtestudo().with_file_name("testudo");
    let said = succeeds(Command::new(&command).args(["install", "--prefix"]).arg(&prefix)).out();
    let there = files(&prefix);
    for file in EVERYWHERE.iter().chain(&MAN_PAGES).chain(&["lib/libtestudo.so", "lib/pkgconfig/testudo.pc"]) {
        assert!(there.contains(*file), "{file}: {there:?}");
    }
    let printed: BTreeSet<String> = said
        .lines()
        .map(|line| line.strip_prefix(&format!("{}/", prefix.display())).unwrap_or(line).to_owned())
        .collect();
    assert_eq!(printed, there);

    let installed = prefix.join("bin/testudo");
    let maps = succeeds(Command::new(&installed).args(["run", "--", "cat", "/proc/self/maps"])).out();
    assert!(maps.contains(&prefix.join("lib/libtestudo.so").display().to_string()), "{maps}");
    links_by_pkg_config(&prefix, &prefix.join("lib"), false);
    // Again, over a library that may be in use.
    succeeds(Command::new(&installed).args(["install", "--prefix"]).arg(&prefix));
    assert_eq!(files(&prefix), there, "something was left over");
}

#[test]
fn nothing_is_installed_where_the_loader_could_not_preload_it_from() {
    let folder = real::folder();
    let prefix = folder.path().join("a folder");
    let command = support::libtestudo().with_file_name("testudo");
    let ended = real::to_the_end(Command::new(&command).args(["install", "--prefix"]).arg(&prefix));
    assert_eq!(ended.status.code(), Some(126), "{ended:?}");
    assert!(ended.err().contains("a space or a colon") && !prefix.exists(), "{ended:?}");
}

#[test]
fn a_file_that_cannot_be_put_to_its_place_leaves_nothing_behind() {
    let folder = real::folder();
    // A folder of the file's name, which no file can replace.
    fs::create_dir_all(folder.path().join("bin/testudo")).expect("a folder");
    let command = support::libtestudo().with_file_name("testudo");
    let ended = real::to_the_end(Command::new(&command).args(["install", "--prefix"]).arg(folder.path()));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.err().contains("bin/testudo"), "{ended:?}");
    assert_eq!(files(folder.path()), BTreeSet::new());
}

/// Unpacks the Debian package; nothing where cargo-deb is not installed.
fn unpacked() -> Option<TempDir> {
    let tools = support::root().join("target/tools/bin");
    let path =
        std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&std::env::var_os("PATH")?))).ok()?;
    let found = std::env::split_paths(&path).any(|folder| folder.join("cargo-deb").is_file());
    if !found || !real::installed(&["dpkg-deb"]) {
        assert!(!real::in_ci(), "cargo-deb is not installed");
        real::say_skipped("cargo-deb is not installed");
        return None;
    }
    let folder = real::folder();
    // Built first, and not by two tests at the same time.
    support::libtestudo();
    let package = succeeds(
        Command::new(packaging("build-deb")).arg("--output").arg(folder.path().join("testudo.deb")).env("PATH", path),
    );
    assert!(package.out().trim().ends_with("testudo.deb"), "{package:?}");
    succeeds(Command::new("dpkg-deb").arg("-x").args([folder.path().join("testudo.deb"), folder.path().join("root")]));
    Some(folder)
}

/// Removing the package says what comes of it where `/etc/ld.so.preload` names the library, and nothing elsewhere.
fn warns_who_removes_it(package: &Path) {
    let Some(root) = root::Root::new() else { return };
    succeeds(Command::new("dpkg-deb").arg("-e").arg(package).arg(root.path().join("control")));
    let says = |step: &str| {
        let ended = root.run(&[], &["/bin/bash", "/control/prerm", step]);
        assert!(ended.status.success(), "{ended:?}");
        ended.err()
    };
    assert_eq!(says("remove"), "");
    let file = root.path().join("etc/ld.so.preload");
    fs::write(&file, "libanother.so\n/usr/lib/x86_64-linux-gnu/libtestudo.so\n").expect("a file");
    let warnings = |text: &str| text.lines().filter(|line| line.starts_with("testudo: ")).count();
    assert_eq!(warnings(&says("remove")), 3);
    assert_eq!(warnings(&says("upgrade")), 0);
    fs::write(&file, "libtestudo.so.of-another\n").expect("a file");
    assert_eq!(warnings(&says("remove")), 0);
}

/// One test for all that can be said of the package, because building it takes long.
#[test]
fn the_debian_package_brings_everything_and_works_from_where_it_is_unpacked() {
    let Some(folder) = unpacked() else { return };
    let usr = folder.path().join("root/usr");
    let there = files(&usr);
    let library = usr.join("lib/x86_64-linux-gnu");
    for file in EVERYWHERE.iter().chain(&[
        "lib/x86_64-linux-gnu/libtestudo.so",
        "lib/x86_64-linux-gnu/pkgconfig/testudo.pc",
        "share/zsh/vendor-completions/_testudo",
        "share/doc/testudo/copyright",
        "share/doc/testudo/SECURITY.md",
        "share/doc/testudo/changelog.gz",
        "share/doc/testudo/changelog.Debian.gz",
        "share/doc/testudo/examples/testudo.service.d.conf",
        "share/doc/testudo/examples/ld.so.preload",
    ]) {
        assert!(there.contains(*file), "{file}: {there:?}");
    }
    for page in MAN_PAGES {
        assert!(there.contains(&format!("{page}.gz")) && !there.contains(page), "{page}: {there:?}");
    }
    let command = usr.join("bin/testudo");
    let maps = succeeds(Command::new(&command).args(["run", "--", "cat", "/proc/self/maps"])).out();
    assert!(maps.contains(&library.join("libtestudo.so").display().to_string()), "{maps}");
    succeeds(Command::new(&command).args(["check", "--profile", "strict"]));
    links_by_pkg_config(&usr, &library, true);

    let package = folder.path().join("testudo.deb");
    let control = succeeds(Command::new("dpkg-deb").arg("-f").arg(&package)).out();
    for line in ["Package: testudo", "Depends: libc6", "libgcc-s1"] {
        assert!(control.contains(line), "{control}");
    }
    let changelog = fs::read_to_string(packaging("debian/changelog")).expect("a changelog");
    let version = control.lines().find_map(|line| line.strip_prefix("Version: ")).expect("a version");
    assert!(changelog.starts_with(&format!("testudo ({version}) ")), "{version} is not the changelog's: {changelog}");
    warns_who_removes_it(&package);
    let Some(root) = root::Root::with_library() else { return };
    succeeds(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root.path()));
    // What the package depends on: the command needs libgcc_s, the library does not.
    root.copy_libraries_of(&command);
    let words = ["/usr/bin/testudo", "run", "--", "grep", "-c", "libtestudo.so", "/proc/self/maps"];
    let ended = root.run(&[], &words);
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn the_systemd_drop_in_is_accepted_and_its_environment_protects() {
    let Some(root) = root::Root::with_library() else { return };
    let drop_in = fs::read_to_string(packaging("testudo.service.d.conf")).expect("the drop-in");
    let environment: Vec<&str> = drop_in.lines().filter_map(|line| line.strip_prefix("Environment=")).collect();
    root.is_protected_by(&environment);
    if !real::installed(&["systemd-analyze"]) {
        return;
    }
    let folder = real::folder();
    let unit = folder.path().join("example.service");
    fs::write(&unit, "[Service]\nExecStart=/bin/cat\n").expect("a unit");
    let place = folder.path().join("example.service.d");
    fs::create_dir(&place).expect("a folder");
    let verify = |text: &str| {
        fs::write(place.join("testudo.conf"), text).expect("a drop-in");
        let mut command = Command::new("systemd-analyze");
        let ended = real::to_the_end(
            command.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display())).arg("verify").arg(&unit),
        );
        ended.err().lines().filter(|line| line.contains("testudo.conf")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(verify(&drop_in), Vec::<String>::new());
    assert_ne!(verify(&drop_in.replace("Environment", "Enviroment")), Vec::<String>::new(), "nothing is verified");
}

#[test]
fn the_environment_of_the_container_image_protects() {
    let Some(root) = root::Root::with_library() else { return };
    let file = fs::read_to_string(packaging("Dockerfile")).expect("the Dockerfile");
    let environment: Vec<&str> = file.lines().filter_map(|line| line.strip_prefix("ENV ")).collect();
    root.is_protected_by(&environment);
    // As the comment says: an empty value in the container's environment takes it back.
    let mut taken_back = environment.clone();
    taken_back.push("LD_PRELOAD=");
    assert!(!root.loads_the_library(&taken_back));
}

#[test]
fn ld_so_preload_protects_every_program_and_can_be_taken_back() {
    let Some(root) = root::Root::with_library() else { return };
    let file = root.path().join("etc/ld.so.preload");
    fs::copy(packaging("ld.so.preload"), &file).expect("a copy");
    root.is_protected_by(&[]);
    // The loader takes the library for ordinary programs by its name alone, but not for set-user-id ones.
    assert!(root.set_user_id_program_loads_the_library());
    // A shell alone can take it back, without starting a program.
    assert!(root.run(&[], &["/bin/bash", "-c", ": > /etc/ld.so.preload"]).status.success());
    assert!(!root.loads_the_library(&[]));
}

/// The command carries the library: it works alone, and writes what it carries once.
#[test]
fn cargo_install_gives_a_command_that_works_alone() {
    let folder = real::folder();
    let home = folder.path().join("home");
    fs::create_dir(&home).expect("a folder");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("install");
    succeeds(
        Command::new(env!("CARGO"))
            .current_dir(support::root())
            .args(["install", "--path", "preload", "--locked", "--quiet", "--root"])
            .arg(folder.path().join("installed"))
            .arg("--target-dir")
            .arg(target),
    );
    let command = folder.path().join("installed/bin/testudo");
    let run = |args: &[&str]| real::to_the_end(real::command(&command, &home, None).args(args));
    let maps = run(&["run", "--", "cat", "/proc/self/maps"]);
    assert!(maps.status.success(), "{maps:?}");
    let library = home.join(".local/share/testudo");
    assert!(maps.out().contains(&library.display().to_string()), "{maps:?}");
    assert_eq!(files(&library).len(), 1);

    // What somebody changed there is not believed.
    let file = library.join(files(&library).first().expect("one file"));
    fs::write(&file, "nonsense").expect("a change");
    let checked = run(&["check", "--profile", "default"]);
    assert!(checked.status.success(), "{checked:?}");

    let mut command = real::command(&command, &home, None);
    let ended = real::to_the_end(command.env_remove("HOME").args(["run", "--", "true"]));
    assert_eq!(ended.status.code(), Some(126), "{ended:?}");
    assert!(ended.status.signal().is_none() && ended.err().contains("HOME"), "{ended:?}");
}
