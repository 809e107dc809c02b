//! Layouts as bytes: the value of `lustre.lov`, little endian.
//!
//! Sizes, positions and numbers are facts of Lustre's interface (`lov_user_md_v1`, `lov_user_md_v3`, `lov_comp_md_v1`,
//! `lov_comp_md_entry_v1` and `lov_foreign_md` in `lustre_user.h`).

use super::{Component, EOF, Layout, LayoutError, WIDE, flag, pattern};

/// A plain layout.
const V1: u32 = 0x0BD1_0BD0;
/// A plain layout with a pool.
const V3: u32 = 0x0BD3_0BD0;
/// As [`V3`], with OSTs that were asked for one by one.
const SPECIFIC: u32 = 0x0BD5_0BD0;
/// Components.
const COMPOSITE: u32 = 0x0BD6_0BD0;
/// Something else entirely.
const FOREIGN: u32 = 0x0BD7_0BD0;
/// Components with extensions among them. Nobody but a server writes it.
const SELF_EXTENDING: u32 = 0x0BD8_0BD0;

/// Head of a plain layout, in bytes.
const V1_BYTES: usize = 32;
/// Name of a pool with its NUL, in bytes.
const POOL_BYTES: usize = 16;
/// An object of a plain layout, in bytes.
const OBJECT_BYTES: usize = 24;
/// Position of the OST in an object, in bytes.
const OBJECT_OST: usize = 20;
/// Head of a composite layout, in bytes.
const COMPOSITE_BYTES: usize = 32;
/// A component in a composite layout's table, in bytes.
const ENTRY_BYTES: usize = 48;
/// Any OST.
const ANY_OST: u16 = 0xffff;
/// The pattern is left to the filesystem.
const ANY_PATTERN: u32 = 0xffff_ffff;

impl Layout {
    /// Reads a blob.
    ///
    /// # Errors
    /// [`LayoutError`]; whatever the bytes are, nothing else happens.
    pub fn parse(blob: &[u8]) -> Result<Self, LayoutError> {
        match (Blob { bytes: blob }).u32(0)? {
            V1 | V3 | SPECIFIC => {
                let component = striping(blob, true)?;
                Ok(Layout { components: vec![component], composite: false, mirrors: 1, flags: 0 })
            }
            COMPOSITE | SELF_EXTENDING => composite(blob),
            FOREIGN => Err(LayoutError::Foreign),
            magic => Err(LayoutError::Magic(magic)),
        }
    }

    /// The blob that makes a new file (or a directory's default) like this: no objects, no ids.
    pub fn to_blob(&self) -> Vec<u8> {
        let stripings: Vec<Vec<u8>> = self.components.iter().map(striping_blob).collect();
        if !self.composite {
            return stripings.into_iter().next().unwrap_or_default();
        }
        let table = COMPOSITE_BYTES + ENTRY_BYTES * stripings.len();
        let total = table + stripings.iter().map(Vec::len).sum::<usize>();
        let mut out = Vec::with_capacity(total);
        put32(&mut out, COMPOSITE);
        put32(&mut out, narrow(total));
        put32(&mut out, 0);
        put16(&mut out, self.flags);
        put16(&mut out, u16::try_from(stripings.len()).unwrap_or(u16::MAX));
        put16(&mut out, self.mirrors.saturating_sub(1));
        out.resize(COMPOSITE_BYTES, 0);
        let mut at = table;
        for (component, striping) in self.components.iter().zip(&stripings) {
            put32(&mut out, 0);
            put32(&mut out, component.flags);
            out.extend_from_slice(&component.start.to_le_bytes());
            out.extend_from_slice(&component.end.to_le_bytes());
            put32(&mut out, narrow(at));
            put32(&mut out, narrow(striping.len()));
            // Generation, time and what only erasure codes and compression need.
            out.extend_from_slice(&[0; 16]);
            at += striping.len();
        }
        out.extend(stripings.into_iter().flatten());
        out
    }
}

fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A component's striping, without objects.
fn striping_blob(component: &Component) -> Vec<u8> {
    let mut out = Vec::with_capacity(V1_BYTES + POOL_BYTES);
    put32(&mut out, if component.pool.is_some() { V3 } else { V1 });
    put32(&mut out, component.pattern);
    out.extend_from_slice(&[0; 16]);
    put32(&mut out, component.stripe_size);
    put16(&mut out, component.stripe_count);
    put16(&mut out, component.first_ost.unwrap_or(ANY_OST));
    if let Some(pool) = &component.pool {
        out.extend(pool.bytes().chain(std::iter::repeat(0)).take(POOL_BYTES - 1));
        out.push(0);
    }
    out
}

/// Bytes that may end too early.
#[derive(Clone, Copy)]
struct Blob<'a> {
    bytes: &'a [u8],
}

impl<'a> Blob<'a> {
    fn part(self, at: usize, len: usize) -> Result<&'a [u8], LayoutError> {
        let end = at.checked_add(len).ok_or(LayoutError::Short(self.bytes.len()))?;
        self.bytes.get(at..end).ok_or(LayoutError::Short(self.bytes.len()))
    }

    fn array<const N: usize>(self, at: usize) -> Result<[u8; N], LayoutError> {
        self.part(at, N)?.try_into().map_err(|_| LayoutError::Short(self.bytes.len()))
    }

    fn u16(self, at: usize) -> Result<u16, LayoutError> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(self, at: usize) -> Result<u32, LayoutError> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(self, at: usize) -> Result<u64, LayoutError> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// A position or a size in the blob: one that is too large is no better than one beyond its end.
    fn size(self, at: usize) -> Result<usize, LayoutError> {
        self.u32(at).map(|size| usize::try_from(size).unwrap_or(usize::MAX))
    }
}

fn composite(blob: &[u8]) -> Result<Layout, LayoutError> {
    let whole = Blob { bytes: blob };
    // What follows is not part of it.
    let blob = Blob { bytes: whole.part(0, whole.size(4)?)? };
    let (flags, count, more_mirrors) = (blob.u16(12)?, blob.u16(14)?, blob.u16(16)?);
    if count == 0 {
        return Err(LayoutError::Wrong("no components"));
    }
    let mirrors = more_mirrors.checked_add(1).ok_or(LayoutError::Wrong("number of mirrors"))?;
    let components = (0..usize::from(count)).map(|nth| {
        let at = COMPOSITE_BYTES + ENTRY_BYTES * nth;
        let entry = Blob { bytes: blob.part(at, ENTRY_BYTES)? };
        let flags = entry.u32(4)?;
        let mut component = striping(blob.part(entry.size(24)?, entry.size(28)?)?, flags & flag::INIT != 0)?;
        (component.id, component.flags) = (entry.u32(0)?, flags);
        (component.start, component.end) = (entry.u64(8)?, entry.u64(16)?);
        if component.start > component.end {
            return Err(LayoutError::Wrong("a component that ends before it begins"));
        }
        Ok(component)
    });
    let layout = Layout { components: components.collect::<Result<_, _>>()?, composite: true, mirrors, flags };
    check_order(&layout)?;
    Ok(layout)
}

/// Refuses what no server keeps.
fn check_order(layout: &Layout) -> Result<(), LayoutError> {
    for part in layout.parts() {
        if part.first().is_some_and(|c| c.start != 0) {
            return Err(LayoutError::Wrong("a mirror that does not begin at 0"));
        }
        let has_owner = |nth: usize| nth > 0 && part.get(nth - 1).is_some_and(|before| !before.is_extension());
        if part.iter().enumerate().any(|(nth, c)| c.is_extension() && !has_owner(nth)) {
            return Err(LayoutError::Wrong("an extension of no component"));
        }
    }
    Ok(())
}

/// A plain layout, or how one component is striped. `may_have_objects`: what follows the head are objects.
fn striping(bytes: &[u8], may_have_objects: bool) -> Result<Component, LayoutError> {
    let blob = Blob { bytes };
    let magic = blob.u32(0)?;
    if magic == FOREIGN {
        return Ok(foreign());
    }
    if !matches!(magic, V1 | V3 | SPECIFIC) {
        return Err(LayoutError::Magic(magic));
    }
    let (pattern, stripe_size, stripe_count, offset) = (blob.u32(4)?, blob.u32(24)?, blob.u16(28)?, blob.u16(30)?);
    let pattern = if pattern == ANY_PATTERN { 0 } else { pattern };
    let head = if magic == V1 { V1_BYTES } else { V1_BYTES + POOL_BYTES };
    let pool = if magic == V1 { None } else { pool(blob.part(V1_BYTES, POOL_BYTES)?)? };
    let is_released = pattern & pattern::RELEASED != 0;
    let has_objects = !is_released && stripe_count < WIDE && (may_have_objects || magic == SPECIFIC);
    let osts = if has_objects && bytes.len() > head { osts(blob, head, stripe_count)? } else { Vec::new() };
    // Where there are objects (or were), this is the layout's generation.
    let asks_for_ost = offset != ANY_OST && !is_released && (osts.is_empty() || magic == SPECIFIC);
    let first_ost = asks_for_ost.then_some(offset);
    let (start, end) = (0, EOF);
    Ok(Component { id: 0, flags: 0, start, end, pattern, stripe_size, stripe_count, first_ost, osts, pool })
}

fn osts(blob: Blob<'_>, head: usize, count: u16) -> Result<Vec<u32>, LayoutError> {
    (0..usize::from(count)).map(|nth| blob.u32(head + OBJECT_BYTES * nth + OBJECT_OST)).collect()
}

fn pool(field: &[u8]) -> Result<Option<String>, LayoutError> {
    let len = field.iter().position(|b| *b == 0).ok_or(LayoutError::Wrong("a pool's name without end"))?;
    let name = std::str::from_utf8(&field[..len]).map_err(|_| LayoutError::Wrong("a pool's name is no text"))?;
    Ok(Some(name.to_owned()).filter(|name| !name.is_empty()))
}

/// A copy in an archive, as a mirror of data on OSTs: nothing is known of it.
fn foreign() -> Component {
    Component {
        id: 0,
        flags: 0,
        start: 0,
        end: EOF,
        pattern: pattern::FOREIGN,
        stripe_size: 0,
        stripe_count: 0,
        first_ost: None,
        osts: Vec::new(),
        pool: None,
    }
}
