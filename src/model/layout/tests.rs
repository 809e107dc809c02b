//! What holds for any layout.

use super::golden;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn blobs_that_are_none_are_refused() {
    let short = |blob: &[u8]| matches!(Layout::parse(blob), Err(LayoutError::Short(_)));
    for blob in golden::all() {
        // What follows the head of a plain layout are objects or nothing.
        let least = if blob[2] == 0xD6 || blob[2] == 0xD8 { blob.len() } else { 32 };
        for len in 0..least {
            assert!(short(&blob[..len]), "{len} of {} bytes", blob.len());
        }
    }
    assert!(short(&golden::plain()[..60]));
    assert_eq!(Layout::parse(&golden::hex("D00BD70B 00000000 00000000 00000000")), Err(LayoutError::Foreign));
    assert_eq!(Layout::parse(&golden::hex("D00BD90B 00000000")), Err(LayoutError::Magic(0x0BD9_0BD0)));
    let changed = |at: usize, with: &[u8]| {
        let mut blob = golden::progressive();
        blob[at..at + with.len()].copy_from_slice(with);
        Layout::parse(&blob)
    };
    assert!(matches!(changed(14, &[0, 0]), Err(LayoutError::Wrong(_))), "no components");
    assert!(matches!(changed(14, &[0xff, 0xff]), Err(LayoutError::Short(_) | LayoutError::Magic(_))));
    assert!(matches!(changed(16, &[0xff, 0xff]), Err(LayoutError::Wrong(_))), "mirrors");
    assert!(matches!(changed(32 + 24, &[0xff; 4]), Err(LayoutError::Short(_))), "beyond the end");
    assert!(matches!(changed(32 + 8, &[0xff; 7]), Err(LayoutError::Wrong(_))), "it ends before it begins");
    assert!(matches!(changed(32 + 4, &[0x40]), Err(LayoutError::Wrong(_))), "an extension of nothing");
    let nested = changed(176, &golden::hex("D00BD60B"));
    assert_eq!(nested, Err(LayoutError::Magic(0x0BD6_0BD0)));
    let mut pool = golden::pooled();
    pool[32..48].fill(b'x');
    assert!(matches!(Layout::parse(&pool), Err(LayoutError::Wrong(_))));
    pool[32..48].copy_from_slice(b"\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert!(matches!(Layout::parse(&pool), Err(LayoutError::Wrong(_))));
}

#[test]
fn neither_erasure_codes_nor_archives_are_carried() {
    let mut layout = Layout::parse(&golden::mirrored()).unwrap();
    layout.components[1].flags |= flag::PARITY;
    let only = layout.carried(true);
    assert_eq!((only.mirrors, only.flags, only.components.len()), (1, 0, 1));
    assert_eq!(only.components[0].stripe_count, 1, "a stale one is better than none");
    layout.components[0].pattern = pattern::FOREIGN;
    assert_eq!(layout.carried(true).components, []);

    // An archive's copy as a mirror: the blob of the second component is something else.
    let mut blob = golden::mirrored();
    blob[0xb8..0xb8 + 4].copy_from_slice(&golden::hex("D00BD70B"));
    let layout = Layout::parse(&blob).unwrap();
    assert_eq!(layout.components[1].pattern, pattern::FOREIGN);
    assert_eq!(layout.carried(false).components.len(), 1);
}

#[test]
fn pools_get_their_new_names_or_are_dropped() {
    let table = [("flash", "ssd"), ("ssd", "flash")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let known = ["ssd", "disk"].map(str::to_owned);
    let mut layout = Layout::parse(&golden::default_progressive()).unwrap().carried(false);
    layout.components[0].pool = Some("flash".into());
    let pools = |layout: &Layout| layout.components.iter().map(|c| c.pool.clone()).collect::<Vec<_>>();
    let mut mapped = layout.clone();
    assert_eq!(mapped.map_pools(&table, Some(&known)), [""; 0]);
    assert_eq!(pools(&mapped), [Some("ssd".to_owned()), Some("disk".to_owned())]);
    assert_eq!(mapped.map_pools(&table, Some(&known)), ["flash"], "each name is mapped once");
    assert_eq!(pools(&mapped), [None, Some("disk".to_owned())]);
    let mut unmapped = layout.clone();
    assert_eq!(unmapped.map_pools(&[], None), [""; 0]);
    assert_eq!(unmapped, layout);
    unmapped.components[1].pool = Some("flash".into());
    assert_eq!(unmapped.map_pools(&[], Some(&[])), ["flash"], "each is told once");
    assert_eq!(unmapped.to_blob()[128..132], golden::hex("D00BD10B"), "no room for a pool");
}

#[test]
fn what_was_left_open_is_never_wrong() {
    let made = Layout::parse(&golden::pooled()).unwrap();
    let plain = |count, size, pool: Option<&str>| Layout::plain(count, size, pool.map(str::to_owned));
    for wanted in [
        plain(0, 0, None),
        plain(1, 4 << 20, None),
        plain(ALL_OSTS, 0, None),
        plain(0xffe0, 0, Some("flash")),
        plain(1, 4 << 20, Some("flash")),
        made.carried(false),
    ] {
        assert!(made.is_as(&wanted), "{wanted:?}");
    }
    for wanted in [plain(2, 0, None), plain(0, 1 << 20, None), plain(0, 0, Some("disk"))] {
        assert!(!made.is_as(&wanted), "{wanted:?}");
    }
    let spanning = Layout { composite: true, ..plain(1, 4 << 20, None) };
    assert!(made.is_as(&spanning), "one component is as good as none");
    assert!(!made.is_as(&Layout::parse(&golden::progressive()).unwrap().carried(false)));
}

#[test]
fn what_servers_decide_by_themselves_does_not_count() {
    let wanted = Layout::parse(&golden::progressive()).unwrap().carried(false);
    let made = |change: fn(&mut Vec<Component>)| {
        let mut made = Layout::parse(&golden::progressive()).unwrap();
        change(&mut made.components);
        made
    };
    assert!(made(|_| ()).is_as(&wanted));
    // The MDT has a limit for data on it.
    let cut = made(|c| {
        (c[0].end, c[0].stripe_size) = (64 << 10, 64 << 10);
        c[1].start = 64 << 10;
    });
    assert!(cut.is_as(&wanted) && !wanted.is_as(&cut));
    assert!(!made(|c| drop(c.remove(0))).is_as(&wanted), "what has nothing there was made by somebody else");
    assert!(!made(|c| c[2].stripe_count = 3).is_as(&wanted));
    assert!(!made(|c| c[2].start += 1 << 20).is_as(&wanted));
    assert!(!made(|c| drop(c.pop())).is_as(&wanted));
    let over = Layout::parse(&golden::overstriped()).unwrap();
    let mut enough = over.clone();
    enough.components[0].pattern = pattern::RAID0;
    assert!(enough.is_as(&over.carried(false)), "there were OSTs enough");
    assert!(!over.is_as(&enough.carried(false)));
    let released = Layout::parse(&golden::released()).unwrap();
    assert!(released.is_as(&Layout::plain(1, 1 << 20, None)));
}

#[test]
fn chunks_end_where_stripes_end() {
    let bytes = |sizes: &[u32]| {
        let components = sizes.iter().flat_map(|size| Layout::plain(1, *size, None).components).collect();
        Layout { components, composite: true, mirrors: 1, flags: 0 }.stripe_bytes()
    };
    assert_eq!(bytes(&[]), 1);
    assert_eq!(bytes(&[0]), 1);
    assert_eq!(bytes(&[4096, 100_000]), 1, "no server makes such");
    assert_eq!(bytes(&[1 << 20, 4 << 20, 64 << 10]), 4 << 20);
    assert_eq!(bytes(&[3 << 20, 2 << 20]), 6 << 20);
    let prime = 65_521 << 16;
    assert_eq!(bytes(&[prime, 1 << 20]), u64::from(prime), "too large together");
    let layout = Layout::parse(&golden::self_extending()).unwrap();
    assert_eq!(layout.stripe_bytes(), 1 << 20, "a step is no stripe");
}

/// One component of a mirror, without its place.
fn component() -> impl Strategy<Value = Component> {
    let pool = proptest::option::of("[a-z]{1,15}");
    let pattern = prop_oneof![Just(0x1_u32), Just(0x201), Just(0x100), Just(0x8000_0001), Just(0)];
    (pattern, any::<u16>(), any::<u32>(), pool, 0..0x200_u32, proptest::option::of(0..200_u16)).prop_map(
        |(pattern, stripe_count, stripe_size, pool, flags, first_ost)| Component {
            pattern,
            stripe_size,
            flags: flags & !(flag::EXTENSION | flag::PARITY),
            first_ost,
            pool,
            ..Layout::plain(stripe_count, 0, None).components.remove(0)
        },
    )
}

/// Components one after the other, some with an extension.
fn mirror(id: u32) -> impl Strategy<Value = Vec<Component>> {
    let step = prop_oneof![Just(0_u64), 1..1_u64 << 40];
    vec((component(), step, proptest::option::of((any::<u32>(), 1..1_u64 << 40))), 1..5).prop_map(move |all| {
        let mut components = Vec::new();
        let mut at = 0;
        for (nth, (mut component, len, extension)) in all.into_iter().enumerate() {
            // The first has room.
            (component.start, component.id) = (at, id << 16 | nth as u32);
            at += if nth == 0 { len.max(1) } else { len };
            component.end = at;
            components.push(component.clone());
            if let Some((step, len)) = extension {
                component.flags |= flag::EXTENSION;
                (component.stripe_size, component.start, component.end) = (step, at, at + len);
                at += len;
                components.push(component);
            }
        }
        components
    })
}

fn layouts() -> impl Strategy<Value = Layout> {
    let composite = (mirror(1), mirror(2), any::<bool>()).prop_map(|(mut one, two, is_mirrored)| {
        let mirrors = if is_mirrored { 2 } else { 1 };
        one.extend(two.into_iter().filter(|_| is_mirrored));
        Layout { components: one, composite: true, mirrors, flags: mirrors }
    });
    let plain = component().prop_map(|c| Layout { components: vec![c], ..Layout::plain(1, 0, None) });
    prop_oneof![composite, plain]
}

/// What holds for whatever was read.
fn check_carried(layout: &Layout) -> Result<(), TestCaseError> {
    for mirrors in [false, true] {
        let carried = layout.carried(mirrors);
        if carried.components.is_empty() {
            continue;
        }
        let back = Layout::parse(&carried.to_blob());
        prop_assert_eq!(back.as_ref(), Ok(&carried));
        prop_assert_eq!(&carried.carried(mirrors), &carried);
        prop_assert!(!carried.is_released());
        prop_assert!(carried.components.iter().all(|c| c.osts.is_empty() && c.first_ost.is_none() && c.id == 0));
        prop_assert!(mirrors || carried.mirrors == 1);
    }
    prop_assert!(layout.stripe_bytes() >= 1);
    Ok(())
}

proptest! {
    #[test]
    fn a_carried_layout_is_read_as_it_was_written(layout in layouts()) {
        check_carried(&layout)?;
        prop_assert!(layout.is_as(&layout.carried(true)), "{:?}", layout.carried(true));
    }

    #[test]
    fn no_bytes_are_too_strange(blob in vec(any::<u8>(), 0..400), magic in 0..9_u8) {
        let mut blob = blob;
        for (at, byte) in [0xD0, 0x0B, 0xD0 + magic, 0x0B].into_iter().enumerate().take(blob.len()) {
            blob[at] = byte;
        }
        if let Ok(layout) = Layout::parse(&blob) {
            check_carried(&layout)?;
        }
    }

    #[test]
    fn no_change_to_a_blob_is_too_strange(which in 0..9_usize, changes in vec((any::<u16>(), any::<u8>()), 1..6)) {
        let mut blob = golden::all()[which].clone();
        for (at, byte) in changes {
            let at = usize::from(at) % blob.len();
            blob[at] = byte;
        }
        if let Ok(layout) = Layout::parse(&blob) {
            check_carried(&layout)?;
        }
    }
}
