//! What can be told of a Lustre filesystem from a client: its servers, how it is mounted, how it lays out new files.
//!
//! Invariant: what only servers know is called open, not guessed, unless this node is that server.

mod kernel;
mod words;

use super::look::bytes;
use super::{About, Row, Verdict};
use crate::fs::posix::{self, Facts, Mount};
use crate::fs::{self, FsError, Options, Side};
use crate::model::lustre::{Mdt, Servers};
use crate::model::{JobId, Layout, RelPath};
use kernel::Kernel;

/// With more MDTs or OSTs than this, only those that somebody should look at have rows of their own.
const MOST_ROWS: usize = 32;
/// Who has less than this share free, in percent, is nearly full.
const LOW_PERCENT: u64 = 5;
/// So many are named.
const MOST_NAMED: usize = 8;

/// One side of a job that is Lustre.
pub(super) struct Lustre {
    mount: Mount,
    user_xattrs: bool,
    acls: bool,
    servers: Option<Servers>,
    /// Default layouts of the root and of the whole filesystem; none if it has none of its own.
    own: Result<Option<Layout>, FsError>,
    whole: Result<Option<Layout>, FsError>,
}

/// Looks at a directory; none if it is not on Lustre.
pub(super) fn look(path: &[u8], facts: &Facts) -> Option<Lustre> {
    let mount = facts.lustre.clone()?;
    Some(Lustre {
        user_xattrs: facts.user_xattrs,
        acls: facts.acls,
        servers: open(path).and_then(|fs| fs.servers()),
        own: default_layout(path),
        whole: default_layout(&mount.point),
        mount,
    })
}

fn open(path: &[u8]) -> Option<std::sync::Arc<dyn fs::Filesystem>> {
    posix::open(path, Side::Source, &Options { job: JobId::random(), recall: false }).ok()
}

fn default_layout(path: &[u8]) -> Result<Option<Layout>, FsError> {
    let Some(fs) = open(path) else { return Ok(None) };
    let root = fs.open_dir(&RelPath::root())?;
    root.placing().map_or(Ok(None), |placing| placing.default_layout())
}

/// What is not as it should be, said before a job begins: one line for each kind of server of a side.
pub(super) fn notes(side: &str, path: &[u8], facts: &Facts) -> Vec<String> {
    let servers = facts.lustre.as_ref().and_then(|_| open(path)?.servers());
    servers.map_or_else(Vec::new, |servers| inactive_notes(side, &servers))
}

fn inactive_notes(side: &str, servers: &Servers) -> Vec<String> {
    let note = |(kind, all): (&str, &[Mdt])| {
        let is_source = side == "source";
        let off = all.iter().filter(|one| if is_source { is_silent(one) } else { !one.active });
        let off: Vec<u32> = off.map(|one| one.index).collect();
        let (are, those) = if off.len() == 1 { ("is", "it") } else { ("are", "them") };
        let follows =
            if is_source { format!("what lies on {those} cannot be read") } else { "nothing new goes there".into() };
        (!off.is_empty()).then(|| format!("the {side}'s {} {are} not active: {follows}", named(kind, &off)))
    };
    [("MDT", &servers.mdts[..]), ("OST", &servers.osts[..])].into_iter().filter_map(note).collect()
}

/// Not only closed to what is new: it does not answer at all.
fn is_silent(one: &Mdt) -> bool {
    !one.active && one.inodes == 0 && one.bytes == 0
}

/// `OST 3`, or `OSTs 3, 5, 9 and 4 more`.
fn named(kind: &str, indices: &[u32]) -> String {
    let shown: Vec<String> = indices.iter().take(MOST_NAMED).map(u32::to_string).collect();
    let plural = if indices.len() == 1 { "" } else { "s" };
    let more = indices.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{kind}{plural} {}{more}", shown.join(", "))
}

/// Everything that is told of one side.
pub(super) fn rows(about: About, side: &Lustre) -> Vec<Row> {
    let mut rows = Vec::new();
    match &side.servers {
        Some(servers) => {
            rows.extend(name_rows(about, servers));
            rows.extend(server_rows(about, "MDT", &servers.mdts));
            rows.extend(server_rows(about, "OST", &servers.osts));
            rows.extend(pool_row(about, servers));
        }
        None => rows.push(Row::new(about, "MDTs and OSTs", Verdict::Unknown, "the filesystem does not say", "")),
    }
    rows.extend(mount_rows(about, side));
    let (kernel, fsname) = (Kernel::default(), side.servers.as_ref().map_or("", |servers| servers.fsname.as_str()));
    rows.extend(layout_rows(about, side, kernel.usual_stripes(fsname)));
    rows.extend(server_side_rows(about, fsname, &kernel));
    rows
}

/// What one side has and the other has not.
pub(super) fn between(from: &Lustre, to: &Lustre) -> Option<Row> {
    let pools = |side: &Lustre| side.servers.as_ref()?.pools.clone();
    let (from, to) = (pools(from)?, pools(to)?);
    let missing: Vec<String> = from.into_iter().filter(|pool| !to.contains(pool)).collect();
    if missing.is_empty() {
        return None;
    }
    let found = format!("the target has none called {}", missing.join(", "));
    let advice = "layouts that name them lose that: lctl pool_new there, or --pool-map SOURCE=TARGET";
    Some(Row::new(About::Target, "pools of the source", Verdict::Note, found, advice))
}

fn name_rows(about: About, servers: &Servers) -> [Row; 2] {
    let version = match servers.version.as_str() {
        "" => Row::new(about, "Lustre client", Verdict::Unknown, "it does not say its version", ""),
        version => Row::new(about, "Lustre client", Verdict::Ok, version, ""),
    };
    [Row::new(about, "Lustre filesystem", Verdict::Ok, servers.fsname.as_str(), ""), version]
}

fn pool_row(about: About, servers: &Servers) -> Option<Row> {
    let row = |verdict, found: String| Row::new(about, "pools", verdict, found, "");
    match servers.pools.as_deref() {
        None => Some(row(Verdict::Unknown, "they cannot be told from here".into())),
        Some([]) => None,
        Some(pools) => Some(row(Verdict::Ok, pools.join(", "))),
    }
}

/// One row for all of a kind, and one for each.
fn server_rows(about: About, kind: &str, all: &[Mdt]) -> Vec<Row> {
    let sum = |of: fn(&Mdt) -> u64| all.iter().fold(0_u64, |sum, one| sum.saturating_add(of(one)));
    let total = Mdt {
        index: 0,
        active: all.iter().any(|one| one.active),
        inodes: sum(|m| m.inodes),
        free_inodes: sum(|m| m.free_inodes),
        bytes: sum(|m| m.bytes),
        free_bytes: sum(|m| m.free_bytes),
    };
    let off = all.iter().filter(|one| !one.active).count();
    let off = if off > 0 { format!(", {off} not active") } else { String::new() };
    let works = total.active || (about == About::Source && !is_silent(&total));
    let (verdict, advice) = if works { (Verdict::Ok, "") } else { (Verdict::Fails, "look at `lfs df`") };
    let found = format!("{}{off}; {}", all.len(), room(kind, &total));
    let mut rows = vec![Row::new(about, &format!("{kind}s"), verdict, found, advice)];
    let is_few = all.len() <= MOST_ROWS;
    rows.extend(all.iter().map(|one| server_row(about, kind, one)).filter(|row| is_few || row.verdict != Verdict::Ok));
    rows
}

fn server_row(about: About, kind: &str, one: &Mdt) -> Row {
    let row =
        |verdict, found: String, advice| Row::new(about, &format!("{kind} {}", one.index), verdict, found, advice);
    let found = if is_silent(one) { "it does not answer".to_owned() } else { room(kind, one) };
    if is_silent(one) && about == About::Source {
        return row(Verdict::Fails, found, "what lies there cannot be read: look at `lfs check servers`");
    }
    if !one.active && about == About::Target {
        let advice = match kind {
            "MDT" => "not active: directories meant for it go to the next one",
            _ => "not active: nothing new goes there",
        };
        return row(Verdict::Note, found, advice);
    }
    let is_low = |free: u64, all: u64| free.saturating_mul(100) < all.saturating_mul(LOW_PERCENT);
    if about == About::Target && (is_low(one.free_bytes, one.bytes) || is_low(one.free_inodes, one.inodes)) {
        let advice = match kind {
            "MDT" => "nearly full: --mdt-policy weighted or list: keeps directories away from it",
            _ => "nearly full: what is striped over it may fail with no space left",
        };
        return row(Verdict::Note, found, advice);
    }
    row(Verdict::Ok, found, "")
}

fn room(kind: &str, one: &Mdt) -> String {
    let things = if kind == "MDT" { "inodes" } else { "objects" };
    let space = format!("{} of {} free", bytes(one.free_bytes), bytes(one.bytes));
    if one.inodes == 0 { space } else { format!("{space}, {} of {} {things} free", one.free_inodes, one.inodes) }
}

/// Mount options, and what follows from each for a copy.
fn mount_rows(about: About, side: &Lustre) -> Vec<Row> {
    let has = |option: &str| side.mount.options.iter().any(|o| o == option.as_bytes());
    let lost = |topic: &str, kept: bool, what: [&'static str; 2]| {
        let advice = if about == About::Source { what[0] } else { what[1] };
        let (verdict, no) = if kept { (Verdict::Ok, "") } else { (Verdict::Lost, "no") };
        Row::new(about, &format!("mount: {topic}"), verdict, format!("{no}{topic}"), advice)
    };
    let xattrs = [
        "user.* attributes cannot be read here, so the copy has none: mount with -o user_xattr",
        "user.* attributes cannot be set here: mount with -o user_xattr, or --no-xattrs",
    ];
    let acls = [
        "ACLs cannot be read here, so the copy has none: mount with -o acl",
        "ACLs cannot be set here, and modes are narrowed: mount with -o acl, or --no-acls",
    ];
    let mut rows = vec![
        lost("user_xattr", side.user_xattrs && !has("nouser_xattr"), xattrs),
        lost("acl", side.acls && !has("noacl"), acls),
    ];
    if about == About::Target {
        rows.push(lock_row(has("localflock"), has("flock")));
    }
    rows
}

/// Nothing is locked in a source.
fn lock_row(local: bool, shared: bool) -> Row {
    let advice = "two jobs on two nodes may take each other's working files for dead, so run one at a time; mind \
                  programs that lock files, too: mount with -o flock";
    let (verdict, found) = match (local, shared) {
        (true, _) => (Verdict::Note, "localflock: locks hold on this node alone"),
        (false, true) => (Verdict::Ok, "flock: locks hold on all nodes"),
        (false, false) => (Verdict::Note, "noflock: nothing can be locked (ENOSYS)"),
    };
    Row::new(About::Target, "mount: flock", verdict, found, advice)
}

/// What new files of the root get, and of the whole filesystem.
fn layout_rows(about: About, side: &Lustre, usual: Option<(i64, u64)>) -> [Row; 2] {
    let row = |topic, layout: &Result<Option<Layout>, FsError>, none: &str| match layout {
        Ok(Some(layout)) => Row::new(about, topic, Verdict::Ok, words::describe(layout), ""),
        Ok(None) => Row::new(about, topic, Verdict::Ok, none, ""),
        Err(e) => Row::new(about, topic, Verdict::Unknown, e.to_string(), ""),
    };
    let usual = usual.map_or("Lustre's own choice".to_owned(), |(count, size)| words::usual(count, size));
    [
        row("default layout", &side.own, "none of the root's own: the filesystem's"),
        row("filesystem's layout", &side.whole, &usual),
    ]
}

/// What only servers know, if this node is one.
fn server_side_rows(about: About, fsname: &str, kernel: &Kernel) -> [Row; 2] {
    let is_source = about == About::Source;
    let archived = if is_source {
        "files whose data are only in an archive fail and are listed, and nothing is recalled; --hsm skip leaves them \
         out, --hsm copy recalls them"
    } else {
        ""
    };
    let states = kernel.hsm_control(fsname);
    let on = states.iter().filter(|state| *state == "enabled").count();
    let hsm = |verdict, found: String, advice| Row::new(about, "HSM", verdict, found, advice);
    let hsm = match states.len() {
        0 => hsm(Verdict::Unknown, "whether there is an archive cannot be told from a client".into(), archived),
        n if on > 0 => {
            let found = format!("enabled on {on} of {n} MDTs of this node, copytools: {}", kernel.copytools(fsname));
            hsm(if is_source { Verdict::Note } else { Verdict::Ok }, found, archived)
        }
        n => hsm(Verdict::Ok, format!("on none of {n} MDTs of this node"), ""),
    };
    [hsm, changelog_row(about, fsname, kernel)]
}

fn changelog_row(about: About, fsname: &str, kernel: &Kernel) -> Row {
    let is_target = about == About::Target;
    let records = "each new entry makes records, which take space on its MDT until all of them have read it";
    let row = |verdict, found: String, advice| Row::new(about, "changelog users", verdict, found, advice);
    match kernel.changelog_users(fsname) {
        Some(0) => row(Verdict::Ok, "none on MDTs of this node".into(), ""),
        Some(n) if is_target => row(Verdict::Note, format!("{n} on MDTs of this node"), records),
        Some(n) => row(Verdict::Ok, format!("{n} on MDTs of this node"), ""),
        None => {
            let devices = if kernel.has_changelog_devices(fsname) { "; this node can read changelogs" } else { "" };
            let advice = if is_target { "lctl get_param mdd.*.changelog_users on an MDS tells" } else { "" };
            row(Verdict::Unknown, format!("cannot be told from a client{devices}"), advice)
        }
    }
}

#[cfg(test)]
mod tests;
