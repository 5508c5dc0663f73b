//! Names the library for the loader, and, for `cargo install`, builds it once more to put it into the command: cargo
//! installs programs, never libraries.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set by `.cargo/config.toml` here, which only `cargo install --path` reads; and in the build inside this one.
const EMBED: &str = "TESTUDO_EMBED";
const INSIDE: &str = "inside";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(embedded_library)");
    println!("cargo::rerun-if-env-changed={EMBED}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libtestudo.so");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("no CARGO_MANIFEST_DIR")?);
    let wanted = match env::var(EMBED).as_deref() {
        Ok(INSIDE | "0") => false,
        Ok(_) => true,
        // From a registry or a git address: what cargo unpacked in its own folder is built to be installed.
        Err(_) => cargo_home().is_some_and(|home| manifest.starts_with(home)),
    };
    if wanted {
        embed(&manifest)?;
        println!("cargo::rustc-cfg=embedded_library");
    }
    Ok(())
}

fn cargo_home() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)?.canonicalize().ok()
}

fn embed(manifest: &Path) -> Result<(), Box<dyn Error>> {
    for place in ["src", "Cargo.toml", "../src", "../Cargo.toml"] {
        if manifest.join(place).exists() {
            println!("cargo::rerun-if-changed={place}");
        }
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    let target = env::var("TARGET")?;
    // What it needs has been downloaded for the command already, unless versions were resolved anew.
    if !build(manifest, &out, &target, true)? && !build(manifest, &out, &target, false)? {
        return Err("libtestudo.so does not build".into());
    }
    fs::copy(out.join("library").join(&target).join("release/libtestudo.so"), out.join("libtestudo.so"))?;
    Ok(())
}

fn build(manifest: &Path, out: &Path, target: &str, offline: bool) -> Result<bool, Box<dyn Error>> {
    let mut command = Command::new(env::var_os("CARGO").ok_or("no CARGO")?);
    command
        .args(["build", "--release", "--lib", "--no-default-features", "--manifest-path"])
        .arg(manifest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(out.join("library"))
        .args(["--target", target])
        .env(EMBED, INSIDE)
        // As in the workspace, which a published package does not have.
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    if offline {
        command.arg("--offline");
    }
    Ok(command.status()?.success())
}
