//! Counting an entry once, listing what differs, and adding its elements to the sums.

use super::compare::{Compared, Contents, Looks, Scratch};
use super::{HALVES, Pair, Scope, VerifyPass, add_sum, evidence, finding, mark_state};
use crate::model::fingerprint::{Sum, encode_piece};
use crate::model::{Finding, Half, RelPath, State, Totals};
use crate::pass::Run;

/// Where an entry is counted; none if it is already, or will be later.
pub(super) type Count = fn(&mut Totals) -> &mut u64;

impl VerifyPass {
    /// Counts an entry, lists what differs, and adds its elements to the sums.
    #[allow(clippy::too_many_arguments)] // what is known of one entry
    pub(super) fn conclude_entry(
        &self,
        pair: &Pair,
        name: &[u8],
        looks: &Looks,
        scope: Scope,
        compared: Compared,
        scratch: &mut Scratch,
        run: &mut Run<'_>,
    ) {
        let Compared { findings, contents } = compared;
        self.add_elements(scope, scratch, run);
        self.add_contents(pair, name, scope, &contents, scratch, run);
        let path = || pair.path.display_join(name);
        let mut is_linked = false;
        for (half, look) in HALVES.into_iter().zip(looks) {
            let Some(look) = look else { continue };
            if let Some(mark) = self.link_mark(half, &look.metadata, path) {
                is_linked = true;
                evidence(run).marks.push(mark);
            }
        }
        if is_linked && !scope.is_both() {
            mark_state(path(), State::OneSided, run);
        }
        let count = self.verdict(path, scope, findings, run);
        let is_same = scope.is_both() && count == Some(Verdict::Same);
        if is_same && is_linked || contents.later && count == Some(Verdict::Same) {
            mark_state(path(), State::Pending, run);
        } else if let Some(verdict) = count {
            *verdict.count()(&mut run.report.totals) += 1;
        }
        if let Some(m) = looks.iter().flatten().next().map(|l| &l.metadata) {
            run.report.totals.count_kind(m, self.submitted);
        }
    }

    /// Lists what differs. None if the entry is counted already.
    pub(super) fn verdict(
        &self,
        path: impl Fn() -> Vec<u8>,
        scope: Scope,
        findings: Vec<Finding>,
        run: &mut Run<'_>,
    ) -> Option<Verdict> {
        if scope.is_counted() {
            return None;
        }
        let report = &mut run.report;
        let (is_both, is_source) = (scope.is_both(), scope.has(Half::Source));
        let differs = match (self.alone, is_both) {
            (true, _) => false,
            (false, true) => !findings.is_empty(),
            (false, false) => {
                let (what, expected, found) =
                    if is_source { ("missing", "there", "none") } else { ("extra", "none", "there") };
                report.totals.extra += u64::from(!is_source);
                report.findings.push(finding(path(), what, expected, found));
                true
            }
        };
        report.findings.extend(findings);
        Some(if differs { Verdict::Different } else { Verdict::Same })
    }

    pub(super) fn add_elements(&self, scope: Scope, scratch: &Scratch, run: &mut Run<'_>) {
        let [source, target] = &scratch.elements;
        if source == target {
            return add_sum(scope, &Sum::of(self.salt(), source), run);
        }
        for (half, element) in HALVES.into_iter().zip(&scratch.elements).filter(|(_, e)| !e.is_empty()) {
            add_sum(Scope::of(half), &Sum::of(self.salt(), element), run);
        }
    }

    fn add_contents(
        &self,
        pair: &Pair,
        name: &[u8],
        scope: Scope,
        contents: &Contents,
        scratch: &mut Scratch,
        run: &mut Run<'_>,
    ) {
        let digests = if scope.is_both() { contents.digests } else { [contents.digests[0]; 2] };
        self.add_piece(&pair.path, name, 0, scope, digests, &mut scratch.piece, run);
    }

    /// Adds a piece of contents to the sums of the trees that have it.
    #[allow(clippy::too_many_arguments)] // what a piece is, and where it goes
    pub(super) fn add_piece(
        &self,
        dir: &RelPath,
        name: &[u8],
        piece: u64,
        scope: Scope,
        digests: [Option<[u8; 32]>; 2],
        scratch: &mut Vec<u8>,
        run: &mut Run<'_>,
    ) {
        let mut add = |scope: Scope, digest: Option<[u8; 32]>| {
            if let Some(digest) = digest {
                encode_piece(dir.as_bytes(), name, piece, &digest, scratch);
                add_sum(scope, &Sum::of(self.salt(), scratch), run);
            }
        };
        if digests[0] == digests[1] {
            return add(scope, digests[0]);
        }
        for (half, digest) in HALVES.into_iter().zip(digests).filter(|(half, _)| scope.has(*half)) {
            add(Scope::of(half), digest);
        }
    }
}

/// How an entry compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Different,
}

impl Verdict {
    /// The counter.
    pub(super) fn count(self) -> Count {
        match self {
            Verdict::Same => |t| &mut t.same,
            Verdict::Different => |t| &mut t.different,
        }
    }
}
