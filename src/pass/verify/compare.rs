//! Comparing what was seen of an entry in both trees.

use super::conclude::{Count, Verdict};
use super::contents::{self, Reader};
use super::differences::differences;
use super::entry::MAX_TRIES;
use super::look::Look;
use super::{HALVES, Pair, Trouble, VerifyPass};
use crate::model::fingerprint::PIECE_BYTES;
use crate::model::{Finding, Half};
use crate::pass::Run;
use crate::pass::copy::{project_differs, wanted_project};

/// Buffers that are used again for each entry.
#[derive(Default)]
pub(super) struct Scratch {
    pub elements: [Vec<u8>; 2],
    pub piece: Vec<u8>,
}

/// What the contents of a file were seen to be.
#[derive(Default)]
pub(super) struct Contents {
    pub digests: [Option<[u8; 32]>; 2],
    pub differs_at: Option<u64>,
    /// Looked at in pieces, by others.
    pub later: bool,
}

/// What two looks at an entry came to.
pub(super) struct Compared {
    pub findings: Vec<Finding>,
    pub contents: Contents,
}

/// An entry in the trees that have it.
pub(super) type Looks = [Option<Look>; 2];

impl VerifyPass {
    /// Compares everything but contents; the elements are left in the scratch.
    pub(super) fn compare(
        &self,
        pair: &Pair,
        name: &[u8],
        looks: &Looks,
        scratch: &mut Scratch,
    ) -> Result<Compared, Trouble> {
        for (look, out) in looks.iter().zip(&mut scratch.elements) {
            match look {
                Some(look) => self.element(&pair.path, name, look).encode(out),
                None => out.clear(),
            }
        }
        let mut compared = Compared { findings: Vec::new(), contents: Contents::default() };
        if let [Some(source), Some(target)] = looks {
            let besides = !source.labels.is_empty()
                || !target.labels.is_empty()
                || project_differs(wanted_project(source.metadata.kind, source.project), target.project);
            if scratch.elements[0] != scratch.elements[1] || besides {
                let path = if name.is_empty() { pair.path.as_bytes().to_vec() } else { pair.path.display_join(name) };
                let (want, have) = (self.element(&pair.path, name, source), self.element(&pair.path, name, target));
                compared.findings = differences(&path, &want, &have, [source, target]);
            }
        }
        Ok(compared)
    }

    /// Reads what is to be read of files of one size.
    pub(super) fn contents(&self, looks: &Looks, wanted: bool, run: &mut Run<'_>) -> Result<Contents, Trouble> {
        let files = HALVES.into_iter().zip(looks).filter_map(|(half, look)| {
            let look = look.as_ref()?;
            Some((half, look.file.as_deref()?, look.metadata))
        });
        let mut readers: Vec<Reader<'_>> = files.clone().map(|(half, file, m)| Reader::new(half, file, &m)).collect();
        let mut sizes = files.map(|(_, _, m)| m.size);
        let Some(size) = sizes.next().filter(|size| wanted && *size > 0) else { return Ok(Contents::default()) };
        if readers.len() != looks.iter().flatten().count() || sizes.any(|other| other != size) {
            return Ok(Contents::default());
        }
        if size > PIECE_BYTES {
            return Ok(Contents { later: true, ..Contents::default() });
        }
        let drop_cache = |readers: &[Reader<'_>]| match self.policy.verify.no_cache {
            true => readers.iter().try_for_each(|r| r.drop_cache(0, size)),
            false => Ok(()),
        };
        drop_cache(&readers)?;
        let seen = contents::piece(&mut readers, 0)?;
        drop_cache(&readers)?;
        run.report.totals.bytes_read += seen.read;
        let differs_at = seen.differs_at.or(seen.short.then_some(size));
        Ok(Contents { digests: seen.digests, differs_at, later: false })
    }

    /// Was one side changed since it was looked at? Only asked about what differs, and of a tree alone about what was
    /// read: that nothing differs has been seen.
    pub(super) fn was_changed(
        &self,
        pair: &Pair,
        name: &[u8],
        looks: &Looks,
        compared: &Compared,
    ) -> Result<bool, Trouble> {
        let was_read = looks.iter().flatten().any(|look| look.file.is_some());
        if compared.findings.is_empty() && !(self.alone && was_read) {
            return Ok(false);
        }
        for (half, look) in HALVES.into_iter().zip(looks) {
            if let (Some(dir), Some(look)) = (pair.dir(half), look) {
                let now = dir.stat(name).map_err(Trouble::new(half))?;
                if !now.same_moment(&look.metadata) || now.ino != look.metadata.ino {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Compares a directory's own attributes; where it is to be counted, if all that is in it can be listed.
    pub(super) fn compare_directory(&self, pair: &Pair, run: &mut Run<'_>) -> Result<Option<Count>, Trouble> {
        let look = |half: Half| pair.dir(half).map(|d| self.look_self(d).map_err(Trouble::new(half))).transpose();
        let mut scratch = Scratch::default();
        let mut looks = [look(Half::Source)?, look(Half::Target)?];
        let mut compared = self.compare(pair, b"", &looks, &mut scratch)?;
        for _ in 1..MAX_TRIES {
            if compared.findings.is_empty() {
                break;
            }
            let now = [look(Half::Source)?, look(Half::Target)?];
            let moment = |l: &Looks| l.each_ref().map(|l| l.as_ref().map(|l| (l.metadata.mtime, l.metadata.ctime)));
            let is_steady = moment(&now) == moment(&looks);
            looks = now;
            if is_steady {
                break;
            }
            compared = self.compare(pair, b"", &looks, &mut scratch)?;
        }
        self.add_elements(pair.scope, &scratch, run);
        run.report.totals.directories += 1;
        let path = || pair.path.as_bytes().to_vec();
        Ok(self.verdict(path, pair.scope, compared.findings, run).map(Verdict::count))
    }
}
