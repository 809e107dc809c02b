//! Size must not show: memory stays flat, and what is said stays true.

use crate::support::*;
use std::process::{Command, Stdio};

/// Runs the program and returns its summary and the most memory it ever had, in bytes (GNU time's `%M`, in KiB).
fn measured(args: &[&str]) -> (serde_json::Value, u64) {
    let mut c = Command::new("/usr/bin/time");
    let ran = run(c.args(["-f", "%M", env!("CARGO_BIN_EXE_treehaul")]).args(args).env_remove("TREEHAUL_BROKER"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let kib: u64 = ran.stderr.lines().last().and_then(|l| l.trim().parse().ok()).expect("time's figure");
    (ran.json(), kib << 10)
}

#[test]
fn memory_stays_flat_whatever_the_shape_of_the_tree() {
    for url in [
        "synth://?entries=3000000&seed=7",
        // A million directories, as bushy as they get.
        "synth://?entries=1000000&seed=7&files=1&dirs=1000",
        // One directory with a million files.
        "synth://?entries=1000000&seed=7&files=1000000",
    ] {
        let (summary, rss) = measured(&["copy", "--json", url, "null://"]);
        let entries: u64 = url.split_once("entries=").unwrap().1.split('&').next().unwrap().parse().unwrap();
        assert_eq!(summary["totals"]["found"], entries + 1, "{url}: the root counts too");
        assert_eq!(
            summary["totals"]["copied"].as_u64().unwrap() + summary["totals"]["updated"].as_u64().unwrap(),
            entries + 1
        );
        assert!(rss <= 64 << 20, "{url} took {} MiB", rss >> 20);
    }
}

#[test]
fn a_made_up_tree_can_be_copied_to_a_real_target_and_is_the_same_every_time() {
    let s = Scratch::new();
    let url = "synth://?entries=3000&seed=9";
    for name in ["one", "two"] {
        let ran = copy([url.as_ref(), s.join(name).as_os_str()]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    assert_identical(&s.join("one"), &s.join("two"));
    assert_eq!(copy([url.as_ref(), s.join("one").as_os_str()]).total("copied"), 0);
}

#[test]
fn progress_is_plain_lines_without_a_terminal_and_a_display_on_one() {
    let run_in_pty = |args: &str| {
        let line = format!("script -qec '{} copy {args}' /dev/null", env!("CARGO_BIN_EXE_treehaul"));
        run(Command::new("bash").args(["-c", &line]).env("TERM", "xterm").stdin(Stdio::null())).stdout
    };
    let shown = run_in_pty("\"synth://?entries=300000&latency=1us\" null://");
    assert!(shown.contains("entries/s") && shown.contains('%'), "{shown}");
    let quiet = run_in_pty("-q \"synth://?entries=1000\" null://");
    assert_eq!(quiet.trim(), "", "quiet says nothing when all is well");
    let plain = run(treehaul().args(["copy", "synth://?entries=1000", "null://"]));
    assert!(!plain.stderr.contains('\u{1b}') && !plain.stdout.contains('\u{1b}'));
    assert!(plain.stdout.starts_with("complete: 1,001 entries"), "{}", plain.stdout);
}
