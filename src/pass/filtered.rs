//! What filters leave out by attributes and by place: on which servers of the source an entry lies.
//!
//! Invariant: every pass asks here, and of the same tree, so all of them leave out the same entries. What is nowhere to
//! be asked about, since the tree that knows has it no more, is left out: nobody can tell that it was meant.

use crate::fs::{Dir, Filesystem, FsError, Placing};
use crate::model::filter::{Filter, Matcher};
use crate::model::root::filesystem_name;
use crate::model::{Kind, Metadata, RelPath, escaped};

/// Does a filter leave out an entry that has these attributes? Directories never are; those that are no business of the
/// job were left out by name. `dir` is the directory that holds it in the tree that is asked, if that has it.
///
/// # Errors
/// The system's: nothing is known then.
pub(super) fn leaves_out(
    matcher: &Matcher,
    dir: Option<&dyn Dir>,
    name: &[u8],
    metadata: &Metadata,
) -> Result<bool, FsError> {
    if metadata.kind == Kind::Directory || !matcher.needs_metadata() {
        return Ok(false);
    }
    if !matcher.takes_metadata(metadata) {
        return Ok(true);
    }
    Ok(matcher.needs_place() && !lies_there(matcher, dir.and_then(Dir::placing), name)?)
}

fn lies_there(matcher: &Matcher, placing: Option<&dyn Placing>, name: &[u8]) -> Result<bool, FsError> {
    let Some(placing) = placing else { return Ok(false) };
    let asked = || {
        let is_there = !matcher.needs_mdt() || matcher.takes_mdt(placing.mdt_of(name)?);
        Ok(is_there && (!matcher.needs_layout() || matcher.takes_layout(placing.layout(name)?.as_ref())))
    };
    match asked() {
        // On another filesystem, which is mounted there.
        Err(FsError { errno: libc::ENOTTY | libc::EOPNOTSUPP, .. }) => Ok(false),
        other => other,
    }
}

/// Can a filter be used on this source? What it asks for must be known there.
///
/// # Errors
/// Why not, with the option and the source as it was named.
pub fn check(filter: &Filter, source: &dyn Filesystem, shown: &[u8]) -> Result<(), String> {
    let Some(option) = filter.place_option() else { return Ok(()) };
    let looked = source.open_dir(&RelPath::root()).and_then(|root| Ok((root.placing().is_some(), source.identity()?)));
    let is = match looked {
        Ok((true, _)) => return Ok(()),
        Ok((false, identity)) if identity.fs_type == 0 => "none".to_owned(),
        Ok((false, identity)) => filesystem_name(identity.fs_type),
        Err(e) => return Err(format!("{option}: {}: {e}", escaped(shown))),
    };
    Err(format!("{option} needs a Lustre source; {} is {is}", escaped(shown)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Made, Options, Result, Side};
    use crate::model::layout::{Component, EOF};
    use crate::model::{JobId, Layout, Operation};

    /// Everything lies on MDT 1, and is striped like this.
    struct Place(Result<Option<Layout>>);

    impl Placing for Place {
        fn make_dir_on(&self, _: &[u8], _: &[u32]) -> Result<(Made, u32)> {
            unreachable!()
        }
        fn mdt(&self) -> Result<u32> {
            Ok(1)
        }
        fn mdt_of(&self, _: &[u8]) -> Result<u32> {
            Ok(1)
        }
        fn layout(&self, _: &[u8]) -> Result<Option<Layout>> {
            self.0.clone()
        }
        fn default_layout(&self) -> Result<Option<Layout>> {
            unreachable!()
        }
        fn set_default_layout(&self, _: Option<&Layout>) -> Result<()> {
            unreachable!()
        }
    }

    fn part(osts: &[u32], pool: &str) -> Component {
        Component {
            id: 0,
            flags: 0,
            start: 0,
            end: EOF,
            pattern: if osts.is_empty() { 0x100 } else { 1 },
            stripe_size: 1 << 20,
            stripe_count: osts.len() as u16,
            first_ost: None,
            osts: osts.to_vec(),
            pool: (!pool.is_empty()).then(|| pool.to_owned()),
        }
    }

    fn striped(components: Vec<Component>) -> Place {
        let composite = components.len() > 1;
        Place(Ok(Some(Layout { components, composite, mirrors: 1, flags: 0 })))
    }

    fn filter(osts: &[u32], mdts: &[u32], pools: &[&str]) -> Filter {
        let pools = pools.iter().map(|pool| (*pool).to_owned()).collect();
        Filter { on_osts: osts.to_vec(), on_mdts: mdts.to_vec(), pools, ..Filter::default() }
    }

    #[test]
    fn any_of_several_places_and_all_of_several_options_decide() {
        let flash = striped(vec![part(&[0, 3], "flash")]);
        let mixed = striped(vec![part(&[], ""), part(&[2], "disk"), part(&[], "tape")]);
        let inline = striped(vec![part(&[], "")]);
        let none = Place(Ok(None));
        let rows: [(Filter, [bool; 4]); 10] = [
            (filter(&[3], &[], &[]), [true, false, false, false]),
            (filter(&[2, 0], &[], &[]), [true, true, false, false]),
            (filter(&[1], &[], &[]), [false; 4]),
            (filter(&[], &[], &["disk"]), [false, true, false, false]),
            (filter(&[], &[], &["tape", "flash"]), [true, true, false, false]),
            (filter(&[0], &[], &["flash"]), [true, false, false, false]),
            (filter(&[2], &[], &["flash"]), [false; 4]),
            (filter(&[], &[1, 7], &[]), [true; 4]),
            (filter(&[], &[0], &[]), [false; 4]),
            (filter(&[2], &[1], &["disk"]), [false, true, false, false]),
        ];
        for (filter, want) in rows {
            let matcher = Matcher::new(&filter).unwrap();
            let there = [&flash, &mixed, &inline, &none].map(|place| lies_there(&matcher, Some(place), b"f").unwrap());
            assert_eq!(there, want, "{filter:?}");
            assert!(!lies_there(&matcher, None, b"f").unwrap(), "not on Lustre: {filter:?}");
        }
    }

    #[test]
    fn another_filesystem_below_is_nowhere_and_any_other_error_is_told() {
        let failing = |errno| Place(Err(FsError { operation: Operation::GetLayout, errno }));
        let matcher = Matcher::new(&filter(&[0], &[], &[])).unwrap();
        assert_eq!(lies_there(&matcher, Some(&failing(libc::EOPNOTSUPP)), b"f"), Ok(false));
        assert!(lies_there(&matcher, Some(&failing(libc::EIO)), b"f").is_err());
        assert!(lies_there(&matcher, Some(&failing(libc::ENOENT)), b"f").is_err_and(|e| e.is_absent()));
    }

    #[test]
    fn what_has_no_data_is_on_no_ost_and_directories_are_never_left_out() {
        let at = tempfile::tempdir().unwrap();
        std::fs::create_dir(at.path().join("d")).unwrap();
        std::os::unix::fs::symlink("x", at.path().join("l")).unwrap();
        std::fs::write(at.path().join("f"), "").unwrap();
        let path = at.path().as_os_str().as_encoded_bytes();
        let fs = crate::fs::open(path, Side::Source, &Options { job: JobId::random(), recall: false }).unwrap();
        let dir = fs.open_dir(&RelPath::root()).unwrap();
        let left_out = |filter: &Filter| {
            let matcher = Matcher::new(filter).unwrap();
            [b"d", b"l", b"f"].map(|name| {
                let metadata = dir.stat(name).unwrap();
                leaves_out(&matcher, Some(dir.as_ref()), name, &metadata).unwrap()
            })
        };
        assert_eq!(left_out(&Filter::default()), [false; 3]);
        for asked in [filter(&[0], &[], &[]), filter(&[], &[0], &[]), filter(&[], &[], &["p"])] {
            assert_eq!(left_out(&asked), [false, true, true]);
            let why = check(&asked, fs.as_ref(), path).unwrap_err();
            assert!(
                why.starts_with(asked.place_option().unwrap()) && why.contains(" needs a Lustre source; "),
                "{why}"
            );
        }
        let matcher = Matcher::new(&filter(&[0], &[], &[])).unwrap();
        let link = dir.stat(b"l").unwrap();
        assert!(!matcher.takes_metadata(&link), "a symlink has nothing on an OST");
    }
}
