//! Blobs as Lustre has them, byte by byte.

use super::{Component, EOF, Layout, pattern};

/// Bytes from hexadecimal digits; blanks do not count.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// An inode's id, which means nothing elsewhere.
const OI: &str = "0700000000000000 0104000002000000";

/// Two stripes of 1 MiB, on OSTs 3 and 1; the layout's generation is 2.
pub(super) fn plain() -> Vec<u8> {
    let head = format!("D00BD10B 01000000 {OI} 00001000 0200 0200");
    let objects = "2100000000000000 0000000000000000 00000000 03000000
                   2200000000000000 0000000000000000 00000000 01000000";
    hex(&format!("{head} {objects}"))
}

/// One stripe of 4 MiB in pool `flash`, on OST 9.
pub(super) fn pooled() -> Vec<u8> {
    let head = format!("D00BD30B 01000000 {OI} 00004000 0100 0000");
    let pool = "666C617368 0000000000000000000000";
    hex(&format!("{head} {pool} 2100000000000000 0000000000000000 00000000 09000000"))
}

/// A directory's default: 4 stripes of the usual size from OST 2 on.
pub(super) fn default_plain() -> Vec<u8> {
    hex("D00BD10B 01000000 00000000000000000000000000000000 00000000 0400 0200")
}

/// Four stripes of 1 MiB, two on each of OSTs 0 and 1.
pub(super) fn overstriped() -> Vec<u8> {
    let object = |ost: &str| format!("2100000000000000 0000000000000000 00000000 {ost}");
    let [zero, one] = ["00000000", "01000000"].map(object);
    hex(&format!("D00BD10B 01020000 {OI} 00001000 0400 0000 {zero}{one}{zero}{one}"))
}

/// A plain file whose data are only in an archive: there is room for its object, and none in it.
pub(super) fn released() -> Vec<u8> {
    let object = "00".repeat(24);
    hex(&format!("D00BD10B 01000080 {OI} 00001000 0100 0300 {object}"))
}

/// The head of a composite layout: magic, all bytes, flags, components, mirrors - 1.
fn head(magic: &str, bytes: &str, flags: &str, entries: &str, mirrors: &str) -> String {
    format!("{magic} {bytes} 05000000 {flags} {entries} {mirrors} 0000 00000000 0000000000000000")
}

/// A component in the table: id, flags, start, end, position, bytes; the rest is what no copy needs.
fn entry(id: &str, flags: &str, start: &str, end: &str, at: &str, bytes: &str) -> String {
    format!("{id} {flags} {start} {end} {at} {bytes} 00000000 0000000000000000 00000000")
}

const FROM_0: &str = "0000000000000000";
const TO_EOF: &str = "FFFFFFFFFFFFFFFF";

/// Up to 1 MiB on the MDT, up to 256 MiB one stripe on OST 1, beyond 4 stripes of 4 MiB that are not there yet.
pub(super) fn progressive() -> Vec<u8> {
    let (mib, mib_256) = ("0000100000000000", "0000001000000000");
    let parts = [
        // 32 + 3 * 48 = 176; 32 + 56 + 32 bytes of stripings: 296 together.
        head("D00BD60B", "28010000", "0000", "0300", "0000"),
        entry("01000000", "10000000", FROM_0, mib, "B0000000", "20000000"),
        entry("02000000", "10000000", mib, mib_256, "D0000000", "38000000"),
        entry("03000000", "00000000", mib_256, TO_EOF, "08010000", "20000000"),
        format!("D00BD10B 00010000 {OI} 00001000 0000 0000"),
        format!("D00BD10B 01000000 {OI} 00001000 0100 0000 2100000000000000 0000000000000000 00000000 01000000"),
        format!("D00BD10B 01000000 {OI} 00004000 0400 FFFF"),
    ];
    hex(&parts.concat())
}

/// A directory's default: up to 1 GiB one stripe, beyond one on each OST of pool `disk`, from OST 3 on.
pub(super) fn default_progressive() -> Vec<u8> {
    let gib = "0000004000000000";
    let parts = [
        // 32 + 2 * 48 = 128; 32 + 48: 208 together.
        head("D00BD60B", "D0000000", "0000", "0200", "0000"),
        entry("00000000", "00000000", FROM_0, gib, "80000000", "20000000"),
        entry("00000000", "00000000", gib, TO_EOF, "A0000000", "30000000"),
        "D00BD10B 01000000 00000000000000000000000000000000 00001000 0100 FFFF".to_owned(),
        "D00BD30B 01000000 00000000000000000000000000000000 00001000 FFFF 0300".to_owned(),
        "6469736B 000000000000000000000000".to_owned(),
    ];
    hex(&parts.concat())
}

/// Self-extending in steps of 64 and 128 MiB: the first component has grown to 1 GiB, all that it may; the second one
/// from there by 256 MiB.
pub(super) fn self_extending() -> Vec<u8> {
    let (gib, gib_and_256) = ("0000004000000000", "0000005000000000");
    let parts = [
        // 32 + 3 * 48 = 176; 56 + 56 + 32: 320 together.
        head("D00BD80B", "40010000", "0000", "0300", "0000"),
        entry("01000000", "10000000", FROM_0, gib, "B0000000", "38000000"),
        entry("03000000", "10000000", gib, gib_and_256, "E8000000", "38000000"),
        entry("04000000", "40000000", gib_and_256, TO_EOF, "20010000", "20000000"),
        format!("D00BD10B 01000000 {OI} 00001000 0100 0000 2100000000000000 0000000000000000 00000000 01000000"),
        format!("D00BD10B 01000000 {OI} 00001000 0100 0000 2200000000000000 0000000000000000 00000000 00000000"),
        // The size of a step in KiB: 128 MiB.
        format!("D00BD10B 01000000 {OI} 00000200 0100 FFFF"),
    ];
    hex(&parts.concat())
}

/// Two mirrors of which the first is stale: one stripe of 1 MiB on OST 0, two of 4 MiB on OSTs 2 and 3.
pub(super) fn mirrored() -> Vec<u8> {
    let object = |ost: &str| format!("2100000000000000 0000000000000000 00000000 {ost}");
    let parts = [
        // 32 + 2 * 48 = 128; 56 + 80: 264 together. Written to since the last resync: 2.
        head("D00BD60B", "08010000", "0200", "0200", "0100"),
        entry("01000100", "11000000", FROM_0, TO_EOF, "80000000", "38000000"),
        entry("02000200", "12000000", FROM_0, TO_EOF, "B8000000", "50000000"),
        format!("D00BD10B 01000000 {OI} 00001000 0100 0000 {}", object("00000000")),
        format!("D00BD10B 01000000 {OI} 00004000 0200 0000 {}{}", object("02000000"), object("03000000")),
    ];
    hex(&parts.concat())
}

/// All of them.
pub(super) fn all() -> [Vec<u8>; 9] {
    [
        plain(),
        pooled(),
        default_plain(),
        overstriped(),
        released(),
        progressive(),
        default_progressive(),
        self_extending(),
        mirrored(),
    ]
}

/// A component of one stripe of 1 MiB, the whole file.
fn component() -> Component {
    Layout::plain(1, 1 << 20, None).components.remove(0)
}

fn composite(components: Vec<Component>) -> Layout {
    Layout { components, composite: true, mirrors: 1, flags: 0 }
}

#[test]
fn plain_layouts_are_understood() {
    let layout = Layout::parse(&plain()).unwrap();
    let expected = Component { stripe_count: 2, osts: vec![3, 1], ..component() };
    assert_eq!(layout, Layout { components: vec![expected], composite: false, mirrors: 1, flags: 0 });
    assert!(layout.is_on_ost(1) && layout.is_on_ost(3) && !layout.is_on_ost(2) && !layout.is_released());

    let layout = Layout::parse(&pooled()).unwrap();
    let expected = Component { stripe_size: 4 << 20, osts: vec![9], pool: Some("flash".into()), ..component() };
    assert_eq!(layout.components, [expected]);
    assert!(layout.is_in_pool("flash") && !layout.is_in_pool("flas"));

    let expected = Component { stripe_count: 4, stripe_size: 0, first_ost: Some(2), ..component() };
    assert_eq!(Layout::parse(&default_plain()).unwrap().components, [expected]);

    let layout = Layout::parse(&overstriped()).unwrap();
    assert_eq!((layout.components[0].pattern, &layout.components[0].osts[..]), (0x201, &[0, 1, 0, 1][..]));
}

#[test]
fn an_archived_file_has_no_objects() {
    let layout = Layout::parse(&released()).unwrap();
    assert!(layout.is_released() && layout.components[0].osts.is_empty() && !layout.is_on_ost(0));
    assert_eq!(layout.components[0].first_ost, None, "it is a generation");
    assert_eq!(layout.carried(false), Layout::plain(1, 1 << 20, None));
}

#[test]
fn components_are_understood() {
    let layout = Layout::parse(&progressive()).unwrap();
    let expected = [
        Component { id: 1, flags: 0x10, end: 1 << 20, pattern: pattern::MDT, stripe_count: 0, ..component() },
        Component { id: 2, flags: 0x10, start: 1 << 20, end: 256 << 20, osts: vec![1], ..component() },
        Component { id: 3, start: 256 << 20, stripe_size: 4 << 20, stripe_count: 4, ..component() },
    ];
    // Of the one on the MDT this is the generation or nothing.
    let mut found = layout.clone();
    found.components[0].first_ost = None;
    assert_eq!(found, composite(expected.to_vec()));
    assert_eq!(layout.stripe_bytes(), 4 << 20);
}

#[test]
fn what_is_carried_names_nothing_of_the_source() {
    let carried = |blob: Vec<u8>| Layout::parse(&blob).unwrap().carried(false);
    assert_eq!(carried(plain()), Layout::plain(2, 1 << 20, None));
    assert_eq!(carried(pooled()), Layout::plain(1, 4 << 20, Some("flash".into())));
    assert_eq!(carried(default_plain()), Layout::plain(4, 0, None));
    let mut over = Layout::plain(4, 1 << 20, None);
    over.components[0].pattern = 0x201;
    assert_eq!(carried(overstriped()), over);
    let expected = [
        Component { end: 1 << 20, pattern: pattern::MDT, stripe_count: 0, ..component() },
        Component { start: 1 << 20, end: 256 << 20, ..component() },
        Component { start: 256 << 20, stripe_size: 4 << 20, stripe_count: 4, ..component() },
    ];
    assert_eq!(carried(progressive()), composite(expected.to_vec()));
    let expected = [
        Component { end: 1 << 30, ..component() },
        Component { start: 1 << 30, stripe_count: 0xffff, pool: Some("disk".into()), ..component() },
    ];
    assert_eq!(carried(default_progressive()), composite(expected.to_vec()));
}

#[test]
fn a_self_extending_layout_is_carried_as_it_was_before_it_grew() {
    let layout = Layout::parse(&self_extending()).unwrap();
    let carried = layout.carried(false);
    let expected = [
        Component { end: 1 << 30, ..component() },
        Component { start: 1 << 30, end: 1 << 30, ..component() },
        Component { start: 1 << 30, flags: 0x40, stripe_size: 128 << 10, ..component() },
    ];
    assert_eq!(carried, composite(expected.to_vec()));
    assert!(layout.is_as(&carried) && carried.is_as(&layout.carried(true)));

    // The first one, half way, in steps of 64 MiB.
    let mut layout = carried.clone();
    let extension = Component { start: 512 << 20, end: 1 << 30, flags: 0x40, stripe_size: 64 << 10, ..component() };
    layout.components[0].end = 512 << 20;
    layout.components.insert(1, extension);
    let unused = layout.carried(false);
    let ends: Vec<(u64, u64)> = unused.components.iter().map(|c| (c.start, c.end)).collect();
    assert_eq!(ends, [(0, 64 << 20), (64 << 20, 1 << 30), (1 << 30, 1 << 30), (1 << 30, EOF)]);
    assert!(layout.is_as(&unused) && layout.is_as(&carried) && carried.is_as(&layout), "however far it has grown");
    let mut otherwise = unused;
    otherwise.components[1].stripe_size = 128 << 10;
    assert!(!layout.is_as(&otherwise));
}

#[test]
fn of_mirrors_the_first_that_is_fresh_is_carried_or_all() {
    let layout = Layout::parse(&mirrored()).unwrap();
    assert_eq!((layout.mirrors, layout.flags), (2, 2));
    let second = Component { stripe_size: 4 << 20, stripe_count: 2, ..component() };
    assert_eq!(layout.carried(false), composite(vec![second.clone()]));
    let both = layout.carried(true);
    let preferred = Component { flags: 2, ..second };
    assert_eq!(both.components, [component(), preferred]);
    assert_eq!((both.mirrors, both.flags), (2, 1));
    assert!(layout.is_as(&both) && !layout.is_as(&layout.carried(false)));
    assert!(layout.is_on_ost(0) && layout.is_on_ost(3));
}

#[test]
fn blobs_are_written_as_lustre_reads_them() {
    let blob = |blob: Vec<u8>| Layout::parse(&blob).unwrap().carried(true).to_blob();
    let none = "00".repeat(16);
    assert_eq!(blob(plain()), hex(&format!("D00BD10B 01000000 {none} 00001000 0200 FFFF")));
    let pool = "666C617368 0000000000000000000000";
    assert_eq!(blob(pooled()), hex(&format!("D00BD30B 01000000 {none} 00004000 0100 FFFF {pool}")));
    let (mib, mib_256) = ("0000100000000000", "0000001000000000");
    let parts = [
        // 32 + 3 * 48 = 176; 3 * 32: 272 together. Neither generation nor ids.
        head("D00BD60B", "10010000", "0000", "0300", "0000").replacen("05000000", "00000000", 1),
        entry("00000000", "00000000", FROM_0, mib, "B0000000", "20000000"),
        entry("00000000", "00000000", mib, mib_256, "D0000000", "20000000"),
        entry("00000000", "00000000", mib_256, TO_EOF, "F0000000", "20000000"),
        format!("D00BD10B 00010000 {none} 00001000 0000 FFFF"),
        format!("D00BD10B 01000000 {none} 00001000 0100 FFFF"),
        format!("D00BD10B 01000000 {none} 00004000 0400 FFFF"),
    ];
    assert_eq!(blob(progressive()), hex(&parts.concat()));
    let extended = blob(self_extending());
    assert_eq!(extended[..4], hex("D00BD60B"), "servers alone write the other one");
    assert_eq!(extended[32 + 2 * 48 + 4], 0x40);
    let both = blob(mirrored());
    assert_eq!((&both[12..18], both[32 + 48 + 4]), (&hex("0100 0200 0100")[..], 2));
}
