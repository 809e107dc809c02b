//! Lustre's library is opened at run time: tried with shared objects that are built here and tell what was asked of
//! them. Each test starts itself anew, because a process opens the library once.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use treehaul::fs::lustre::Library;

include!("../../vendor/lustreapi/generate.rs");

/// Names the shared object that is to be opened.
const LIBRARY: &str = "TREEHAUL_LIBLUSTREAPI";
/// Names the file in which it writes down what is asked of it.
const RECORD: &str = "TEST_LUSTRE_RECORD";

/// Writes a line for each call.
const HEAD: &str = r#"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void record(const char *format, ...) {
    FILE *file = fopen(getenv("TEST_LUSTRE_RECORD"), "a");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fclose(file);
}
"#;
const LEVEL: &str = r#"void llapi_msg_set_level(int level) { record("level %d\n", level); }"#;
const VERSION: &str = r#"
int llapi_get_version_string(char *version, unsigned int size) {
    record("version %u\n", size >= 16);
    snprintf(version, size, "9.8.7_test");
    return 0;
}"#;
const POOLS: &str = r#"
int llapi_get_poollist(const char *name, char **list, int list_size, char *buffer, int size) {
    record("pools %s %d\n", name, list_size >= 2 && size >= 64);
    if (strcmp(name, "lfs1")) return -2;
    list[0] = strcpy(buffer, "lfs1.slow");
    list[1] = strcpy(buffer + 10, "lfs1.fast");
    return 2;
}"#;
const NAME: &str = r#"
int llapi_search_fsname(const char *path, char *name) {
    record("name %s\n", path);
    if (strcmp(path, "/there")) return -19;
    strcpy(name, "lfs1");
    return 0;
}"#;

/// Builds a shared object of these parts.
fn build(dir: &TempDir, parts: &[&str]) -> PathBuf {
    let (source, object) = (dir.path().join("api.c"), dir.path().join("liblustreapi.so.1"));
    fs::write(&source, [&[HEAD], parts].concat().join("\n")).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&object).arg(&source).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    object
}

/// Runs a test of this file once more, in a process that opens this library. What the library was asked.
fn in_process_with(library: &Path, test: &str) -> String {
    let dir = TempDir::new().unwrap();
    let record = dir.path().join("record");
    fs::write(&record, "").unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", &format!("lustre_library::{test}"), "--test-threads=1"]);
    let ran = again.env(LIBRARY, library).env(RECORD, &record).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    fs::read_to_string(record).unwrap()
}

/// The library that this process is to open, if it was started for that.
fn told() -> Option<OsString> {
    std::env::var_os(LIBRARY).filter(|_| std::env::var_os(RECORD).is_some())
}

/// What a machine without the library says of version and pools.
fn of_the_system() -> (Option<String>, Option<Vec<String>>) {
    let version = fs::read_to_string("/sys/fs/lustre/version").ok().map(|text| text.trim().to_owned());
    (version, None)
}

#[test]
fn what_the_library_says_is_taken() {
    if told().is_none() {
        let dir = TempDir::new().unwrap();
        let asked = in_process_with(&build(&dir, &[LEVEL, VERSION, POOLS, NAME]), "what_the_library_says_is_taken");
        let lines: Vec<_> = asked.lines().collect();
        let want = ["level 0", "version 1", "pools lfs1 1", "pools other 1", "name /there", "name /elsewhere"];
        assert_eq!(lines, want, "opened once, silenced first");
        return;
    }
    let library = Library::get();
    assert!(library.is_open());
    assert_eq!(library.version().as_deref(), Some("9.8.7_test"));
    assert_eq!(library.pools("lfs1"), Some(vec!["fast".to_owned(), "slow".to_owned()]));
    assert_eq!(library.pools("other"), None);
    assert_eq!(library.filesystem_of(b"/there").as_deref(), Some("lfs1"));
    assert_eq!(library.filesystem_of(b"/elsewhere"), None);
    assert!(std::ptr::eq(library, Library::get()));
}

#[test]
fn a_symbol_that_is_missing_costs_its_own_answer_alone() {
    if told().is_none() {
        let dir = TempDir::new().unwrap();
        let test = "a_symbol_that_is_missing_costs_its_own_answer_alone";
        let asked = in_process_with(&build(&dir, &[NAME, VERSION]), test);
        assert_eq!(asked.lines().collect::<Vec<_>>(), ["version 1", "name /there"]);
        return;
    }
    let library = Library::get();
    assert!(library.is_open());
    assert_eq!(library.version().as_deref(), Some("9.8.7_test"));
    assert_eq!(library.pools("lfs1"), None);
    assert_eq!(library.filesystem_of(b"/there").as_deref(), Some("lfs1"));
}

#[test]
fn without_the_library_the_system_tells_or_it_is_unknown() {
    if told().is_none() {
        let dir = TempDir::new().unwrap();
        let test = "without_the_library_the_system_tells_or_it_is_unknown";
        assert_eq!(in_process_with(&dir.path().join("liblustreapi.so.1"), test), "");
        fs::write(dir.path().join("no-library"), "text").unwrap();
        assert_eq!(in_process_with(&dir.path().join("no-library"), test), "");
        return;
    }
    let library = Library::get();
    assert!(!library.is_open());
    assert_eq!((library.version(), library.pools("no-such-filesystem")), of_the_system());
    assert_eq!(library.filesystem_of(b"/"), None);
}

#[test]
fn the_bindings_that_are_checked_in_are_those_of_the_header() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vendor/lustreapi");
    let header = folder.join("lustreapi.h");
    let made =
        generate(header.to_str().unwrap()).expect("libclang reads the header: ops/install-test-deps.sh installs it");
    if std::env::var_os("TREEHAUL_BLESS").is_some() {
        fs::write(folder.join("bindings.rs"), &made).unwrap();
    }
    let checked_in = fs::read_to_string(folder.join("bindings.rs")).unwrap();
    assert!(made == checked_in, "vendor/README.md says how to make vendor/lustreapi/bindings.rs anew");
}
