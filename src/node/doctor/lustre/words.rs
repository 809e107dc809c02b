//! Layouts in words.

use crate::model::Layout;
use crate::model::layout::{Component, EOF};

/// Counts from here on are no numbers: one stripe on each OST, or several.
const ALL_STRIPES: u16 = 0xffe0;

/// Stripes as they are without any layout; a negative count is one on each OST.
pub fn usual(stripe_count: i64, stripe_size: u64) -> String {
    let count = u16::try_from(stripe_count).unwrap_or(ALL_STRIPES);
    let plain = Layout::plain(count, u32::try_from(stripe_size).unwrap_or(0), None);
    describe(&plain)
}

/// A default layout, for people.
pub fn describe(layout: &Layout) -> String {
    let Some(first) = layout.components.first() else { return "the filesystem's choice".into() };
    if !layout.composite {
        return plain(first);
    }
    let mirror = first.id >> 16;
    let parts: Vec<_> = layout.components.iter().filter(|c| c.id >> 16 == mirror).collect();
    let grows = parts.iter().any(|c| c.is_extension());
    let parts: Vec<_> = parts.into_iter().filter(|c| !c.is_extension()).map(part).collect();
    let kind = if grows { "self-extending" } else { "PFL" };
    let mirrors = if layout.mirrors > 1 { format!("{} mirrors, the first: ", layout.mirrors) } else { String::new() };
    format!("{mirrors}{kind}: {}", parts.join(", then "))
}

/// A component of a composite layout, with its end.
fn part(component: &Component) -> String {
    let how = plain(component);
    if component.end == EOF { how } else { format!("{how} to {}", bytes(component.end)) }
}

fn plain(component: &Component) -> String {
    if component.is_on_mdt() {
        return "data on the MDT (DoM)".into();
    }
    let (count, everywhere) = match component.stripe_count {
        0 => ("the usual number of stripes".to_owned(), false),
        1 => ("1 stripe".to_owned(), false),
        ALL_STRIPES.. => ("stripes".to_owned(), true),
        n => (format!("{n} stripes"), false),
    };
    let size = match component.stripe_size {
        0 => String::new(),
        n => format!(" of {}", bytes(n.into())),
    };
    let which = if everywhere { "every OST" } else { "any OST" };
    let place = match (&component.pool, component.first_ost) {
        (Some(pool), None) => format!("on {which} of pool {pool}"),
        (Some(pool), Some(ost)) => format!("in pool {pool}, from OST {ost} on"),
        (None, Some(ost)) => format!("from OST {ost} on"),
        (None, None) => format!("on {which}"),
    };
    let over = if component.is_overstriped() { ", several on one OST" } else { "" };
    format!("{count}{size} {place}{over}")
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (1..UNITS.len()).take_while(|u| n != 0 && n.is_multiple_of(1 << (10 * u))).last().unwrap_or(0);
    format!("{} {}", n >> (10 * unit), UNITS[unit])
}
