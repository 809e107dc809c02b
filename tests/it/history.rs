//! Jobs that are over are remembered on the node that submitted them.

use crate::support::*;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

#[test]
fn each_job_leaves_a_line_and_a_dry_run_none() {
    let s = Scratch::new();
    let state = s.join("state");
    let source = s.join(std::ffi::OsStr::from_bytes(b"src\xff\n"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    let copy = |args: &[&str]| {
        let mut c = treehaul();
        c.env("TREEHAUL_STATE_DIR", &state).args(["copy", "--json"]).args(args).args([&source, &s.join("dst")]);
        run(&mut c)
    };
    assert_eq!(copy(&["--dry-run"]).code, 0);
    assert!(!state.exists());
    let jobs = [copy(&[]), copy(&["--no-acls"])].map(|ran| ran.json()["job"].as_str().unwrap().to_owned());
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    let text = fs::read_to_string(state.join("jobs.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l["job"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), jobs);
    assert_eq!((lines[0]["pass"].as_str(), lines[0]["exit_code"].as_u64()), (Some("copy"), Some(0)), "{text}");
    assert_eq!(lines[0]["source_bytes"].as_array().map(Vec::len), Some(source.as_os_str().len()), "{text}");
    assert!(lines[0]["kept"].as_array().unwrap().contains(&"ACLs".into()), "{text}");
    assert!(!lines[1]["kept"].as_array().unwrap().contains(&"ACLs".into()), "{text}");
}

#[test]
fn a_place_that_cannot_be_written_is_no_failure() {
    let s = Scratch::new();
    fs::write(s.join("file"), "in the way").unwrap();
    let mut c = treehaul();
    c.env("TREEHAUL_STATE_DIR", s.join("file/state")).args(["copy", "synth://?entries=10", "null://"]);
    let ran = run(&mut c);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}
