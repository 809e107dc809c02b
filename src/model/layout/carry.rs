//! Layouts on their way to another filesystem.
//!
//! Invariant: a layout that was carried and is carried again stays as it is.

use super::{Component, Layout, flag, pattern};

/// Unit of an extension's step, in bytes.
const EXTENSION_UNIT: u64 = 1024;
/// Of a composite layout: mirrors, all of them good.
const MIRRORED: u16 = 1;

impl Layout {
    /// The layout for a new file, or a directory's default, in another filesystem: without what belongs to the one
    /// file, OSTs left open, not released, the first mirror that is not stale only unless `mirrors`.
    ///
    /// Self-extending components are as before their first use, so that the new file grows by itself. Erasure codes
    /// and copies in archives are left behind; no component is left if there was nothing else.
    #[must_use]
    pub fn carried(&self, mirrors: bool) -> Layout {
        let all: Vec<&[Component]> = self.parts().filter(|part| part.iter().all(can_be_carried)).collect();
        let is_fresh = |part: &&[Component]| part.iter().all(|c| c.flags & flag::STALE == 0);
        let first = all.iter().position(is_fresh).unwrap_or(0);
        let chosen = if mirrors { all.as_slice() } else { all.get(first..=first).unwrap_or_default() };
        let kept = if chosen.len() > 1 {
            flag::EXTENSION | flag::PREFERRED_READ | flag::PREFERRED_WRITE
        } else {
            flag::EXTENSION
        };
        Layout {
            components: chosen.iter().flat_map(|part| unused(part, kept)).collect(),
            composite: self.composite,
            mirrors: u16::try_from(chosen.len().max(1)).unwrap_or(u16::MAX),
            flags: if chosen.len() > 1 { MIRRORED } else { 0 },
        }
    }

    /// Gives pools the names that they have in the target and drops those that it has not; the dropped ones' names,
    /// as they would be in the target, each once. `known`: the target's pools, if they are known.
    pub fn map_pools(&mut self, table: &[(String, String)], known: Option<&[String]>) -> Vec<String> {
        let mut dropped = Vec::new();
        for component in &mut self.components {
            let Some(name) = component.pool.take() else { continue };
            let mapped = table.iter().find(|(from, _)| *from == name).map(|(_, to)| to.clone());
            let name = mapped.unwrap_or(name);
            if known.is_none_or(|known| known.contains(&name)) {
                component.pool = Some(name);
            } else if !dropped.contains(&name) {
                dropped.push(name);
            }
        }
        dropped
    }

    /// Asks for no more stripes than there are OSTs, as the servers would do it in silence.
    pub(in crate::model) fn limit_stripes(&mut self, osts: u16) {
        for component in self.components.iter_mut().filter(|c| !c.is_overstriped()) {
            if component.stripes().is_some_and(|n| n > osts) {
                component.stripe_count = osts;
            }
        }
    }
}

fn can_be_carried(component: &Component) -> bool {
    const FOR: u32 = pattern::RAID0 | pattern::MDT | pattern::OVERSTRIPED | pattern::COMPRESSED;
    component.flags & flag::PARITY == 0 && component.pattern & !(FOR | pattern::STATES) == 0
}

/// A mirror's components as those of a file that has no data yet.
fn unused(part: &[Component], kept: u32) -> Vec<Component> {
    let mut all: Vec<Component> = Vec::with_capacity(part.len());
    for (nth, component) in part.iter().enumerate() {
        let mut new = as_new(component, kept);
        match (part.get(nth + 1), all.last()) {
            (Some(next), _) if next.is_extension() && !new.is_extension() => new.end = unused_end(&new, next, nth == 0),
            (_, Some(before)) if new.is_extension() && !before.is_extension() => new.start = before.end,
            _ => {}
        }
        // An extension that is used up is none.
        if !new.is_extension() || new.start < new.end {
            all.push(new);
        }
    }
    all
}

/// End of a component that has not grown into its extension: it has nothing, but for the first of a file, which has
/// objects from the start and so the first step.
fn unused_end(component: &Component, extension: &Component, is_first: bool) -> u64 {
    let step = u64::from(extension.stripe_size) * EXTENSION_UNIT;
    let stripe = u64::from(component.stripe_size).max(1);
    match (is_first, step) {
        (false, _) => component.start,
        (true, 0) => component.end,
        (true, step) => component.start.saturating_add(step.next_multiple_of(stripe)).min(extension.end),
    }
}

fn as_new(component: &Component, kept: u32) -> Component {
    let is_on_mdt = component.is_on_mdt();
    let pattern = component.pattern & !(pattern::STATES | pattern::COMPRESSED);
    Component {
        id: 0,
        flags: component.flags & kept,
        start: component.start,
        end: component.end,
        pattern: if pattern == 0 { pattern::RAID0 } else { pattern },
        stripe_size: component.stripe_size,
        // On an MDT there are neither stripes nor pools.
        stripe_count: if is_on_mdt { 0 } else { component.stripe_count },
        first_ost: None,
        osts: Vec::new(),
        pool: component.pool.clone().filter(|_| !is_on_mdt),
    }
}
