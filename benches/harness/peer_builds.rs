//! Peers that no distribution packages: built from the sources that published crates vendor, with
//! the flags their authors' own build files use.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::places::{Places, run_tool};

/// mimalloc, plain or with every mitigation it has.
pub fn mimalloc(places: &Places, secure: bool) -> Result<PathBuf, String> {
    let library = built(places, if secure { "mimalloc-secure" } else { "mimalloc" });
    if library.exists() {
        return Ok(library);
    }
    let source = crate_sources(places, "libmimalloc-sys")?.join("c_src/mimalloc/v2");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-O3", "-DNDEBUG", "-fPIC", "-shared", "-fvisibility=hidden", "-ftls-model=initial-exec"])
        .args(["-fno-builtin-malloc", "-DMI_SHARED_LIB", "-DMI_SHARED_LIB_EXPORT", "-DMI_MALLOC_OVERRIDE"])
        .arg(format!("-DMI_SECURE={}", if secure { 4 } else { 0 }))
        .arg("-I")
        .arg(source.join("include"))
        .arg(source.join("src/static.c"));
    link(&mut compiler, &library, &["-pthread"])
}

/// snmalloc with all its client checks and the guarded memcpy, as upstream's `snmallocshim-checks`.
pub fn snmalloc(places: &Places) -> Result<PathBuf, String> {
    let library = built(places, "snmalloc-checks");
    if library.exists() {
        return Ok(library);
    }
    let source = crate_sources(places, "snmalloc-sys")?.join("upstream/src");
    let shim = source.join("snmalloc/override");
    let mut compiler = clang("clang++")?;
    compiler
        .args(["-O3", "-DNDEBUG", "-std=c++20", "-fPIC", "-shared", "-mcx16", "-mprfchw", "-fno-rtti"])
        .args(["-fvisibility=hidden", "-fomit-frame-pointer", "-ftls-model=initial-exec"])
        .args(["-ffunction-sections", "-static-libstdc++"])
        .arg("-DSNMALLOC_EXPORT=__attribute__((visibility(\"default\")))")
        .args(["-DSNMALLOC_CHECK_CLIENT", "-DSNMALLOC_CHECK_LOADS=false", "-DSNMALLOC_PAGEID=false"])
        .args(["-DSNMALLOC_USE_CXX11_THREAD_ATEXIT_DIRECT", "-DSNMALLOC_USE_WAIT_ON_ADDRESS=1"])
        .args(["-DSNMALLOC_PLATFORM_HAS_GETENTROPY", "-DSNMALLOC_PTHREAD_ATFORK_WORKS"])
        .args(["-DSNMALLOC_HAS_LINUX_RANDOM_H", "-DSNMALLOC_HAS_LINUX_FUTEX_H"])
        .arg("-DSNMALLOC_NO_REALLOCARR")
        .arg("-I")
        .arg(&source)
        .args([shim.join("malloc.cc"), shim.join("new.cc"), shim.join("memcpy.cc")]);
    link(&mut compiler, &library, &["-pthread", "-latomic"])
}

/// hardened_malloc in one of upstream's configurations, `default` or `light`.
pub fn hardened_malloc(places: &Places, configuration: &str) -> Result<PathBuf, String> {
    let library = built(places, &format!("hm-{configuration}"));
    if library.exists() {
        return Ok(library);
    }
    let source = crate_sources(places, "hardened-malloc-sys")?.join("vendor/hardened-malloc");
    let makefile = source.join("config").join(format!("{configuration}.mk"));
    let text = std::fs::read_to_string(&makefile).map_err(|error| format!("{}: {error}", makefile.display()))?;
    let mut flags: Vec<String> = [
        "-O3",
        "-flto",
        "-fPIC",
        "-fvisibility=hidden",
        "-fno-plt",
        "-fstack-clash-protection",
        "-fcf-protection",
        "-fstack-protector-strong",
        "-march=native",
        "-D_GNU_SOURCE",
    ]
    .map(String::from)
    .to_vec();
    flags.extend(text.lines().filter_map(hardened_malloc_define));
    flags.extend([format!("-I{}", source.display()), format!("-I{}/include", source.display())]);

    let mut objects = Vec::new();
    for name in ["chacha.c", "h_malloc.c", "memory.c", "pages.c", "random.c", "util.c", "new.cc"] {
        let object = built(places, &format!("hm-{configuration}-{name}")).with_extension("o");
        let mut compiler = if name.ends_with(".cc") {
            let mut compiler = clang("clang++")?;
            compiler.args(["-std=c++17", "-fsized-deallocation"]);
            compiler
        } else {
            let mut compiler = clang("clang")?;
            compiler.arg("-std=c2x");
            compiler
        };
        run_tool(compiler.args(&flags).arg("-c").arg(source.join(name)).arg("-o").arg(&object))?;
        objects.push(object);
    }
    let mut linker = clang("clang++")?;
    linker
        .args(["-shared", "-flto", "-O3", "-fuse-ld=lld"])
        .arg("-Wl,-O1,--as-needed,-z,defs,-z,relro,-z,now,-z,nodlopen,-z,text")
        .args(&objects);
    let library = link(&mut linker, &library, &["-lpthread"])?;
    for object in objects {
        // Only leftovers: whether they can be removed changes nothing.
        let _ = std::fs::remove_file(object);
    }
    Ok(library)
}

/// One line of upstream's makefile configuration as the define its makefile turns it into: most
/// switches lose their `CONFIG_` prefix on the way, some keep it.
fn hardened_malloc_define(line: &str) -> Option<String> {
    const KEPT: [&str; 7] = [
        "CONFIG_SEAL_METADATA",
        "CONFIG_EXTENDED_SIZE_CLASSES",
        "CONFIG_LARGE_SIZE_CLASSES",
        "CONFIG_CLASS_REGION_SIZE",
        "CONFIG_STATS",
        "CONFIG_SELF_INIT",
        "CONFIG_LABEL_MEMORY",
    ];
    const FOR_MAKE: [&str; 4] = ["CONFIG_WERROR", "CONFIG_NATIVE", "CONFIG_CXX_ALLOCATOR", "CONFIG_UBSAN"];
    let (key, value) = line.split('#').next()?.split_once(":=")?;
    let (key, value) = (key.trim(), value.trim());
    if FOR_MAKE.contains(&key) {
        return None;
    }
    let name = if KEPT.contains(&key) { key } else { key.strip_prefix("CONFIG_").unwrap_or(key) };
    Some(format!("-D{name}={value}"))
}

fn built(places: &Places, name: &str) -> PathBuf {
    places.out.join("peers").join(format!("{name}.so"))
}

/// Builds under another name and renames, so that a build cut short is not taken for a library.
fn link(compiler: &mut Command, library: &Path, last: &[&str]) -> Result<PathBuf, String> {
    eprintln!("building {} …", library.display());
    let unfinished = library.with_extension("unfinished");
    run_tool(compiler.arg("-o").arg(&unfinished).args(last))?;
    std::fs::rename(&unfinished, library).map_err(|error| error.to_string())?;
    Ok(library.to_path_buf())
}

/// clang of version 19 if there is one, else whichever there is.
fn clang(name: &str) -> Result<Command, String> {
    for candidate in [format!("{name}-19"), name.to_string()] {
        let tried = Command::new(&candidate).arg("--version").output();
        if tried.is_ok_and(|output| output.status.success()) {
            return Ok(Command::new(candidate));
        }
    }
    Err(format!("no {name}: Debian's package clang-19"))
}

/// Where cargo put the sources of a crate that `peers/Cargo.toml` names.
fn crate_sources(places: &Places, name: &str) -> Result<PathBuf, String> {
    let text = run_tool(
        Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--manifest-path"])
            .arg(places.package.join("peers/Cargo.toml")),
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    packages
        .iter()
        .find(|package| package["name"] == name)
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent().map(PathBuf::from))
        .ok_or(format!("cargo did not fetch {name}"))
}
