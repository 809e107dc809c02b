//! Is a file striped as it should be?
//!
//! Invariant: a file that was made with a layout is as that layout says, whatever the servers decided by themselves;
//! so nothing is written anew twice.

use super::{Component, Layout, WIDE, pattern};

impl Layout {
    /// Is a file that has `self` striped as one that was made with `wanted`? Objects, ids and what a server decided
    /// by itself do not count: how far a self-extending component has grown, less data on the MDT than wanted (but not
    /// none), and whatever was left open, a pool too.
    pub fn is_as(&self, wanted: &Layout) -> bool {
        let (have, want): (Vec<_>, Vec<_>) = (self.parts().collect(), wanted.parts().collect());
        have.len() == want.len() && have.iter().zip(want).all(|(have, want)| is_part_as(have, want))
    }
}

/// A component together with the space that it may grow into.
struct Grown<'a> {
    component: &'a Component,
    end: u64,
    /// Step in which it grows, in KiB.
    step: Option<u32>,
}

fn grown(part: &[Component]) -> Vec<Grown<'_>> {
    let mut all: Vec<Grown<'_>> = Vec::with_capacity(part.len());
    for component in part {
        match all.last_mut() {
            Some(last) if component.is_extension() && last.step.is_none() => {
                (last.end, last.step) = (component.end, Some(component.stripe_size));
            }
            _ => all.push(Grown { component, end: component.end, step: None }),
        }
    }
    all
}

fn is_part_as(have: &[Component], want: &[Component]) -> bool {
    let (have, want) = (grown(have), grown(want));
    // An MDT has a limit of its own for data on it; what is beyond belongs to the next component.
    let is_cut = match (have.as_slice(), want.as_slice()) {
        ([h, ..], [w, ..]) => h.component.is_on_mdt() && w.component.is_on_mdt() && h.end < w.end,
        _ => false,
    };
    let is_as = |nth: usize, h: &Grown<'_>, w: &Grown<'_>| {
        let starts = h.component.start == w.component.start || is_cut && nth == 1;
        let ends = h.end == w.end || is_cut && nth == 0;
        let grows = h.step.is_none() || w.step.is_none() || h.step == w.step;
        starts && ends && grows && is_striped_as(h.component, w.component)
    };
    have.len() == want.len() && have.iter().zip(&want).enumerate().all(|(nth, (h, w))| is_as(nth, h, w))
}

fn is_striped_as(have: &Component, want: &Component) -> bool {
    let how = |c: &Component| match c.pattern & !(pattern::STATES | pattern::COMPRESSED) {
        0 => pattern::RAID0,
        pattern => pattern,
    };
    // Servers take back what was not needed.
    let pattern = how(have) == how(want) || how(have) | pattern::OVERSTRIPED == how(want);
    if have.is_on_mdt() || want.is_on_mdt() {
        return pattern;
    }
    let size = want.stripe_size == 0 || have.stripe_size == want.stripe_size;
    // A pool may have fewer OSTs than stripes were wanted, and an OST takes only so many stripes of one file.
    let is_cut = (want.pool.is_some() || want.is_overstriped()) && have.stripe_count < want.stripe_count;
    let is_open = want.stripe_count == 0 || want.stripe_count >= WIDE;
    let count = is_open || is_cut || have.stripe_count == want.stripe_count;
    pattern && size && count && (want.pool.is_none() || have.pool == want.pool)
}
