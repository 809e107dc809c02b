//! A filter, ready to decide.

use super::pattern::{Pattern, Subject};
use super::{AgeBy, Filter, FilterError, MAX_EXPRESSIONS, MAX_PATTERN_BYTES};
use crate::model::{Kind, Layout, Metadata, RelPath};

/// A filter, ready to decide.
///
/// A glob without a slash (and without `**`) is about the last component, at any level. With a slash at its start it
/// is about the whole path; with one elsewhere about the end of the path, from any component on; with one at its end
/// about directories only. `dir/**` is what is in a directory, `dir/***` the directory too. A character is a character
/// where the path is UTF-8, else a byte.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    filter: Filter,
    /// Includes?, pattern.
    rules: Vec<(bool, Pattern)>,
    /// What no rule matches, and is no directory, is left out.
    only_included: bool,
    /// Names, kinds and places never decide anything.
    takes_all: bool,
}

impl Matcher {
    /// Prepares a filter.
    ///
    /// # Errors
    /// [`FilterError`], with the position in the pattern.
    pub fn new(filter: &Filter) -> Result<Self, FilterError> {
        let bytes = filter.rules.iter().map(|rule| rule.pattern.len()).sum();
        if bytes > MAX_PATTERN_BYTES {
            return Err(FilterError::TooLarge(bytes));
        }
        let mut expressions = 0;
        let compiled = filter.rules.iter().map(|rule| match Pattern::new(rule) {
            Ok(pattern) => {
                expressions += usize::from(pattern.is_expression());
                if expressions > MAX_EXPRESSIONS {
                    return Err(FilterError::TooMany);
                }
                Ok((rule.include, pattern))
            }
            Err(e) => Err(FilterError::of(rule, e)),
        });
        let rules = compiled.collect::<Result<Vec<_>, _>>()?;
        Ok(Matcher {
            only_included: !rules.is_empty() && rules.iter().all(|(include, _)| *include),
            takes_all: rules.is_empty() && filter.kinds.is_none() && filter.max_depth.is_none(),
            rules,
            filter: filter.clone(),
        })
    }

    /// Does an entry take part, as far as its name, kind and place tell? `dir` is the directory that holds it.
    pub fn takes(&self, dir: &RelPath, name: &[u8], kind: Kind) -> bool {
        self.takes_all || self.decides(dir, name, kind)
    }

    fn decides(&self, dir: &RelPath, name: &[u8], kind: Kind) -> bool {
        let is_directory = kind == Kind::Directory;
        if !is_directory && self.filter.kinds.is_some_and(|kinds| !kinds.contains(kind)) || !self.enters(dir) {
            return false;
        }
        let mut subject = Subject::new(dir, name, kind);
        let rule = self.rules.iter().find(|(_, pattern)| pattern.matches(&mut subject));
        rule.map_or(is_directory || !self.only_included, |(include, _)| *include)
    }

    /// Do a directory and all above it take part? For entries that are named, instead of met on the way down.
    pub fn takes_with_parents(&self, dir: &RelPath) -> bool {
        if self.takes_all {
            return true;
        }
        let mut below = dir.clone();
        loop {
            let (above, name) = below.split_last();
            match name {
                None => return true,
                Some(name) if !self.takes(&above, name, Kind::Directory) => return false,
                Some(_) => below = above,
            }
        }
    }

    /// Is a directory that takes part entered? Not below the deepest level.
    pub fn enters(&self, dir: &RelPath) -> bool {
        let Some(max) = self.filter.max_depth else { return true };
        let slashes = dir.as_bytes().iter().filter(|b| **b == b'/').count();
        let depth = if dir.is_root() { 0 } else { slashes + 1 };
        u32::try_from(depth).is_ok_and(|depth| depth < max)
    }

    /// Are directories on other filesystems than the root's left alone?
    pub fn one_file_system(&self) -> bool {
        self.filter.one_file_system
    }

    /// Must attributes be known before it can be told of an entry that is no directory?
    pub fn needs_metadata(&self) -> bool {
        let f = &self.filter;
        let by_size = f.min_size.is_some() || f.max_size.is_some();
        by_size || f.older_than.is_some() || f.newer_than.is_some() || self.needs_place()
    }

    /// Must it be known on which servers an entry lies before it can be told of it?
    pub fn needs_place(&self) -> bool {
        self.needs_layout() || self.needs_mdt()
    }

    /// Must the layout of a regular file be known?
    pub fn needs_layout(&self) -> bool {
        !self.filter.on_osts.is_empty() || !self.filter.pools.is_empty()
    }

    /// Must the MDT be known?
    pub fn needs_mdt(&self) -> bool {
        !self.filter.on_mdts.is_empty()
    }

    /// Does an entry that is no directory take part, as far as its attributes tell?
    pub fn takes_metadata(&self, metadata: &Metadata) -> bool {
        let f = &self.filter;
        if metadata.kind == Kind::Directory {
            return true;
        }
        if self.needs_layout() && metadata.kind != Kind::File {
            return false; // nothing of it lies on an OST
        }
        let size = metadata.size;
        let is_sized = metadata.kind != Kind::File
            || f.min_size.is_none_or(|min| size >= min) && f.max_size.is_none_or(|max| size <= max);
        let time = match f.age_by {
            AgeBy::Mtime => metadata.mtime,
            AgeBy::Atime => metadata.atime,
            AgeBy::Ctime => metadata.ctime,
        };
        is_sized && f.older_than.is_none_or(|limit| time < limit) && f.newer_than.is_none_or(|limit| time >= limit)
    }

    /// Does a regular file take part, as far as its layout tells? In a composite one, any component decides. One
    /// whose data are only in an archive lies on no OST: only its pool still tells.
    pub fn takes_layout(&self, layout: Option<&Layout>) -> bool {
        let Filter { on_osts, pools, .. } = &self.filter;
        let any = |is: &dyn Fn(&Layout) -> bool| layout.is_some_and(is);
        (on_osts.is_empty() || any(&|l| on_osts.iter().any(|ost| l.is_on_ost(*ost))))
            && (pools.is_empty() || any(&|l| pools.iter().any(|pool| l.is_in_pool(pool))))
    }

    /// Does an entry that is no directory take part, as far as its MDT tells?
    pub fn takes_mdt(&self, mdt: u32) -> bool {
        self.filter.on_mdts.is_empty() || self.filter.on_mdts.contains(&mdt)
    }
}
