//! Puts the commit into the version, where there is a checkout to ask, and makes the bindings to Lustre's library.

use std::path::{Path, PathBuf};
use std::process::Command;

include!("vendor/lustreapi/generate.rs");

/// Our own header, and what was made of it before.
const HEADER: &str = "vendor/lustreapi/lustreapi.h";
const BINDINGS: &str = "vendor/lustreapi/bindings.rs";

fn main() {
    version();
    bindings();
}

fn version() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    let asked = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit =
        asked.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let full = commit.map_or(version.clone(), |c| format!("{version} ({c})"));
    println!("cargo::rustc-env=TREEHAUL_VERSION={full}");
}

/// Where libclang is not to be had, or cannot read the header, the bindings that are checked in serve.
fn bindings() {
    for file in [HEADER, BINDINGS, "vendor/lustreapi/generate.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("lustreapi.rs");
    // Bindgen panics where libclang is missing, or lacks a function.
    let made = clang_sys::load()
        .and_then(|()| std::panic::catch_unwind(|| generate(HEADER)).unwrap_or_else(|_| Err("".into())));
    match made {
        Ok(rust) => std::fs::write(&out, rust),
        Err(_) => std::fs::copy(Path::new(BINDINGS), &out).map(drop),
    }
    .expect("the output directory can be written");
}
