//! `synth://`: the tree is what the URL says.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_made_up_tree_has_exactly_the_entries_that_were_asked_for(
        entries in 0_u64..3000, seed: u64, files in 0_u64..30, more in 0_u64..30, dirs in 0_u64..9, depth in 0_u32..30,
    ) {
        let url = format!("synth://?entries={entries}&seed={seed}&files={files}-{}&dirs={dirs}&depth={depth}", files + more);
        let fs = open_root(url.as_bytes(), Side::Source);
        let found: u64 = directories(&*fs).iter().map(|(_, dir)| listed(&**dir).len() as u64).sum();
        prop_assert_eq!(found, entries);
    }
}

#[test]
fn a_made_up_tree_depends_on_its_seed_and_on_nothing_else() {
    let tree = |seed| through_port(&*open_root(format!("synth://?entries=400&seed={seed}").as_bytes(), Side::Source));
    assert_eq!(tree(1), tree(1));
    assert_ne!(tree(1), tree(2));
}

#[test]
fn made_up_files_differ_in_contents_and_attributes() {
    let fs = open_root(b"synth://?entries=200&size=1000&depth=0", Side::Source);
    let tree = through_port(&*fs);
    let mut contents: Vec<_> =
        tree.values().filter_map(|s| if let Shown::File(data) = s { Some(data) } else { None }).collect();
    contents.sort();
    contents.dedup();
    assert_eq!(contents.len(), 200);
    let root = fs.open_dir(&RelPath::root()).unwrap();
    let all: Vec<Metadata> = listed(&*root).into_values().filter_map(|(_, metadata)| metadata).collect();
    assert!(all.iter().any(|m| m.mode != all[0].mode));
    assert!(all.iter().any(|m| (m.uid, m.gid) != (all[0].uid, all[0].gid)));
    assert!(all.iter().any(|m| m.mtime != all[0].mtime));
    assert!(all.iter().all(|m| m.nlink == 1 && (m.mode == 0o644 || m.mode == 0o755)));
}
