use super::*;
use crate::model::layout::{Component, EOF};

fn mdt(index: u32) -> Mdt {
    Mdt { index, active: true, inodes: 1000, free_inodes: 900, bytes: 10 << 30, free_bytes: 5 << 30 }
}

fn some(options: &str) -> Lustre {
    let servers = Servers {
        fsname: "nowhere".into(),
        version: "2.17.0".into(),
        mdts: vec![mdt(0), mdt(3)],
        osts: vec![mdt(0)],
        pools: Some(Vec::new()),
    };
    let options = options.split(',').map(|o| o.as_bytes().to_vec()).collect();
    Lustre {
        mount: Mount { point: b"/mnt".to_vec(), options },
        user_xattrs: true,
        acls: true,
        servers: Some(servers),
        own: Ok(None),
        whole: Ok(None),
    }
}

fn row<'a>(rows: &'a [Row], topic: &str) -> &'a Row {
    rows.iter().find(|row| row.topic == topic).unwrap_or_else(|| panic!("no {topic}: {rows:?}"))
}

fn verdict(about: About, side: &Lustre, topic: &str) -> Verdict {
    row(&rows(about, side), topic).verdict
}

#[test]
fn a_healthy_filesystem_loses_nothing_and_every_server_is_named() {
    let side = some("rw,flock,user_xattr");
    for about in [About::Source, About::Target] {
        let rows = rows(about, &side);
        assert!(rows.iter().all(|row| row.verdict < Verdict::Lost), "{rows:#?}");
        assert_eq!(row(&rows, "MDT 3").found, "5.0 GiB of 10.0 GiB free, 900 of 1000 inodes free");
        assert_eq!(row(&rows, "MDTs").found, "2; 10.0 GiB of 20.0 GiB free, 1800 of 2000 inodes free");
        assert_eq!(row(&rows, "OST 0").found, "5.0 GiB of 10.0 GiB free, 900 of 1000 objects free");
        assert_eq!(row(&rows, "Lustre client").found, "2.17.0");
        // No server runs where no filesystem of that name is.
        assert_eq!(row(&rows, "HSM").verdict, Verdict::Unknown);
    }
}

#[test]
fn mount_options_are_judged_by_what_a_copy_loses() {
    let target = |options: &str, topic: &str| verdict(About::Target, &some(options), topic);
    assert_eq!(target("rw,nouser_xattr", "mount: user_xattr"), Verdict::Lost);
    assert_eq!(target("rw,noacl", "mount: acl"), Verdict::Lost);
    assert_eq!(verdict(About::Source, &some("nouser_xattr"), "mount: user_xattr"), Verdict::Lost);
    assert_eq!(verdict(About::Source, &Lustre { acls: false, ..some("rw") }, "mount: acl"), Verdict::Lost);
    assert_eq!(target("rw,flock", "mount: flock"), Verdict::Ok);
    for (options, word) in [("localflock", "localflock"), ("noflock", "noflock"), ("rw", "noflock")] {
        let rows = rows(About::Target, &some(options));
        let row = row(&rows, "mount: flock");
        assert!(row.verdict == Verdict::Note && row.found.starts_with(word), "{row:?}");
    }
    assert!(!rows(About::Source, &some("noflock")).iter().any(|row| row.topic.contains("lock")));
}

#[test]
fn a_server_that_does_not_answer_fails_a_source_and_is_noted_of_a_target() {
    let mut side = some("flock");
    side.servers.as_mut().unwrap().mdts[1] = Mdt { index: 3, ..Mdt::default() };
    assert_eq!(verdict(About::Source, &side, "MDT 3"), Verdict::Fails);
    assert_eq!(verdict(About::Target, &side, "MDT 3"), Verdict::Note);
    for about in [About::Source, About::Target] {
        assert_eq!(verdict(about, &side, "MDTs"), Verdict::Ok);
    }
    side.servers.as_mut().unwrap().mdts[0] = Mdt::default();
    for about in [About::Source, About::Target] {
        assert_eq!(verdict(about, &side, "MDTs"), Verdict::Fails);
    }
}

#[test]
fn a_server_that_takes_nothing_new_is_fit_for_a_source() {
    let mut side = some("flock");
    side.servers.as_mut().unwrap().osts[0].active = false;
    assert_eq!(verdict(About::Source, &side, "OST 0"), Verdict::Ok);
    assert_eq!(verdict(About::Source, &side, "OSTs"), Verdict::Ok);
    assert_eq!(verdict(About::Target, &side, "OST 0"), Verdict::Note);
    assert_eq!(verdict(About::Target, &side, "OSTs"), Verdict::Fails);
}

#[test]
fn one_that_is_nearly_full_is_noted_where_something_is_written() {
    let mut side = some("flock");
    side.servers.as_mut().unwrap().osts[0].free_bytes = 100 << 20;
    assert_eq!(verdict(About::Target, &side, "OST 0"), Verdict::Note);
    assert_eq!(verdict(About::Source, &side, "OST 0"), Verdict::Ok);
    side.servers.as_mut().unwrap().mdts[0].free_inodes = 1;
    assert_eq!(verdict(About::Target, &side, "MDT 0"), Verdict::Note);
}

#[test]
fn of_hundreds_only_those_with_trouble_have_rows() {
    let mut side = some("flock");
    let servers = side.servers.as_mut().unwrap();
    servers.osts = (0..400).map(mdt).collect();
    servers.osts[7].active = false;
    let rows = rows(About::Target, &side);
    assert!(row(&rows, "OSTs").found.starts_with("400, 1 not active; "), "{:?}", row(&rows, "OSTs"));
    assert_eq!(rows.iter().filter(|row| row.topic.starts_with("OST ")).count(), 1);
}

#[test]
fn before_a_job_only_what_is_not_active_is_said() {
    let mut servers = some("").servers.unwrap();
    assert_eq!(inactive_notes("target", &servers), Vec::<String>::new());
    servers.mdts[1].active = false;
    assert_eq!(inactive_notes("source", &servers), Vec::<String>::new());
    assert_eq!(inactive_notes("target", &servers), ["the target's MDT 3 is not active: nothing new goes there"]);
    servers.mdts[1] = Mdt { index: 3, ..Mdt::default() };
    servers.osts = (0..12).map(|n| if n < 2 { mdt(n) } else { Mdt { index: n, ..Mdt::default() } }).collect();
    let said = inactive_notes("source", &servers);
    assert_eq!(said[0], "the source's MDT 3 is not active: what lies on it cannot be read");
    let osts = "the source's OSTs 2, 3, 4, 5, 6, 7, 8, 9 and 2 more are not active: what lies on them cannot be read";
    assert_eq!(said[1], osts);
}

#[test]
fn pools_that_the_target_lacks_are_named() {
    let pools = |names: &[&str]| {
        let mut side = some("flock");
        side.servers.as_mut().unwrap().pools = Some(names.iter().map(|name| (*name).to_owned()).collect());
        side
    };
    assert!(between(&pools(&["a"]), &pools(&["b", "a"])).is_none());
    let row = between(&pools(&["a", "c"]), &pools(&["a"])).unwrap();
    assert_eq!((row.verdict, row.found.as_str()), (Verdict::Note, "the target has none called c"));
    let mut unknown = some("flock");
    unknown.servers.as_mut().unwrap().pools = None;
    assert!(between(&pools(&["a"]), &unknown).is_none());
    assert_eq!(verdict(About::Target, &unknown, "pools"), Verdict::Unknown);
}

fn component(id: u32, extent: (u64, u64), stripe_count: u16, stripe_size: u32) -> Component {
    Component {
        id,
        flags: 0,
        start: extent.0,
        end: extent.1,
        pattern: 1,
        stripe_size,
        stripe_count,
        first_ost: None,
        osts: Vec::new(),
        pool: None,
    }
}

fn composite(components: Vec<Component>, mirrors: u16) -> Layout {
    Layout { components, composite: true, mirrors, flags: 0 }
}

#[test]
fn layouts_are_said_in_words() {
    const MIB: u64 = 1 << 20;
    let plain =
        |component| words::describe(&Layout { components: vec![component], composite: false, mirrors: 1, flags: 0 });
    let one = component(0, (0, EOF), 1, 1 << 20);
    assert_eq!(plain(one.clone()), "1 stripe of 1 MiB on any OST");
    assert_eq!(plain(Component { stripe_count: 0xffff, ..one.clone() }), "stripes of 1 MiB on every OST");
    assert_eq!(
        plain(Component { stripe_count: 4, stripe_size: 65536, pool: Some("flash".into()), ..one.clone() }),
        "4 stripes of 64 KiB on any OST of pool flash"
    );
    assert_eq!(plain(Component { first_ost: Some(3), ..one.clone() }), "1 stripe of 1 MiB from OST 3 on");
    assert_eq!(
        plain(Component { stripe_count: 0, stripe_size: 0, ..one.clone() }),
        "the usual number of stripes on any OST"
    );
    assert_eq!(
        plain(Component { stripe_count: 8, pattern: 0x201, ..one }),
        "8 stripes of 1 MiB on any OST, several on one OST"
    );
    assert_eq!(words::usual(1, 4 << 20), "1 stripe of 4 MiB on any OST");
    assert_eq!(words::usual(-1, 1 << 20), "stripes of 1 MiB on every OST");
    let dom = Component { pattern: 0x100, ..component(1, (0, MIB), 0, 1 << 20) };
    let rest = component(2, (MIB, EOF), 4, 4 << 20);
    assert_eq!(
        words::describe(&composite(vec![dom, rest], 1)),
        "PFL: data on the MDT (DoM) to 1 MiB, then 4 stripes of 4 MiB on any OST"
    );
    let mirrors = vec![component(0x1_0001, (0, EOF), 1, 1 << 20), component(0x2_0002, (0, EOF), 2, 1 << 20)];
    assert_eq!(words::describe(&composite(mirrors, 2)), "2 mirrors, the first: PFL: 1 stripe of 1 MiB on any OST");
    let growing = vec![
        component(1, (0, 64 * MIB), 1, 1 << 20),
        Component { flags: 0x40, ..component(2, (64 * MIB, EOF), 1, 64 << 20) },
    ];
    assert_eq!(words::describe(&composite(growing, 1)), "self-extending: 1 stripe of 1 MiB on any OST to 64 MiB");
    assert_eq!(words::describe(&composite(Vec::new(), 1)), "the filesystem's choice");
}
