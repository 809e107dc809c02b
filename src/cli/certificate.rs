//! Certificates: what a verification saw, on one page that can be checked later against a tree alone.
//!
//! Invariant: a certificate is written only if nothing differed, failed, vanished or is in doubt; and it is there whole
//! or not at all.

use super::given_root;
use super::job::{Order, RunArgs, Tell};
use super::summary::{self, Finished};
use super::verify::UNCERTAIN;
use super::{complain, print_result, refuse};
use crate::exit_code::ExitCode;
use crate::model::fingerprint::from_hex;
use crate::model::policy::Limits;
use crate::model::{Policy, Timestamp, Totals, escaped};
use crate::node::Ended;
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What tells a certificate from other JSON.
const FORMAT: &str = "treehaul certificate";
/// Raised with every change of the file or of what goes into a fingerprint.
const VERSION: u32 = 1;
/// No certificate is larger, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// What is done with certificates.
#[derive(Debug, Subcommand)]
pub enum CertificateCommand {
    /// Is a tree still what was certified? Exit code 0 if so, 1 if not
    Check(CheckArgs),
}

/// Arguments of `certificate check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The certificate
    file: PathBuf,
    /// The tree: the certified target, or a copy of it
    tree: OsString,
    #[command(flatten)]
    how: RunArgs,
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    format: String,
    version: u32,
    treehaul: String,
    job: String,
    source: String,
    target: String,
    submitted: String,
    finished: String,
    host: String,
    fingerprint: String,
    entries: u64,
    files: u64,
    directories: u64,
    symlinks: u64,
    specials: u64,
    bytes: u64,
    bytes_read: u64,
    /// What was compared and the key of the hashes: the policy of the job.
    compared: Policy,
    /// Hash of all the other fields: tells damage, not forgery.
    checksum: String,
}

/// A point in time as RFC 3339 has it, in UTC.
fn rfc3339(t: Timestamp) -> String {
    // Days to a date in the proleptic Gregorian calendar, with years that begin in March.
    let (days, seconds) = (t.sec.div_euclid(86_400), t.sec.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// Hash of a certificate without its checksum, whatever the order of its fields.
fn checksum(mut certificate: serde_json::Value) -> String {
    certificate["checksum"] = "".into();
    blake3::hash(certificate.to_string().as_bytes()).to_string()
}

impl Certificate {
    /// The certificate of a verification.
    ///
    /// # Errors
    /// Why it is not worth one.
    pub fn of(f: &Finished<'_>) -> Result<Self, String> {
        let (s, t) = (&f.snapshot, &f.snapshot.totals);
        let [source, target] = s.sums.map(|sum| sum.fingerprint());
        if *f.ended != Ended::Complete {
            return Err("the job did not come to its end".into());
        }
        for (n, what) in [(t.different, "differ"), (t.failed, "could not be compared"), (t.vanished, "vanished")] {
            if n > 0 {
                return Err(format!("{n} entries {what}"));
            }
        }
        if s.uncertain {
            return Err(UNCERTAIN.into());
        }
        if source != target {
            return Err("the fingerprints are not the same, so the trees were changed meanwhile".into());
        }
        let mut compared = f.spec.policy.clone();
        // What says nothing later.
        compared.verify.target_ino = None;
        compared.limits = Limits::default();
        let certificate = Certificate {
            format: FORMAT.into(),
            version: VERSION,
            treehaul: env!("TREEHAUL_VERSION").into(),
            job: f.spec.id.to_string(),
            source: escaped(&f.spec.source),
            target: escaped(&f.spec.target),
            submitted: rfc3339(f.spec.submitted),
            finished: rfc3339(Timestamp::now()),
            host: escaped(rustix::system::uname().nodename().to_bytes()),
            fingerprint: target.to_string(),
            entries: t.found - t.filtered,
            files: t.files,
            directories: t.directories,
            symlinks: t.symlinks,
            specials: t.specials,
            bytes: t.bytes_found,
            bytes_read: t.bytes_read,
            compared,
            checksum: String::new(),
        };
        let checksum = serde_json::to_value(&certificate).map(checksum).map_err(|e| e.to_string())?;
        Ok(Certificate { checksum, ..certificate })
    }

    /// Reads a certificate.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = escaped(path.as_os_str().as_bytes());
        let mut text = String::new();
        // Not waiting for the writer of a pipe.
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.with_context(|| format!("cannot read the certificate {shown}"))?;
        let is_file = file.metadata().is_ok_and(|m| m.is_file());
        let read = if is_file { file.take(MAX_BYTES).read_to_string(&mut text) } else { Ok(0) };
        read.with_context(|| format!("cannot read the certificate {shown}"))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).ok().with_context(|| format!("{shown} is no certificate, or is damaged"))?;
        ensure!(value["format"] == FORMAT, "{shown} is no certificate");
        let certificate = value.clone();
        let version = value["version"].as_u64().with_context(|| format!("{shown} is damaged: no version"))?;
        ensure!(
            version <= u64::from(VERSION),
            "{shown} is of format {version}, and this treehaul knows {VERSION}: use a newer one"
        );
        let certificate: Certificate =
            serde_json::from_value(certificate).map_err(|e| anyhow::anyhow!("{shown} is damaged: {e}"))?;
        let is_whole = certificate.checksum == checksum(value);
        ensure!(is_whole, "{shown} is damaged: its checksum does not match");
        ensure!(from_hex(&certificate.fingerprint).is_some(), "{shown} is damaged: fingerprint");
        Ok(certificate)
    }

    fn totals(&self) -> [(&'static str, u64); 6] {
        [
            ("entries", self.entries),
            ("files", self.files),
            ("directories", self.directories),
            ("symlinks", self.symlinks),
            ("special files", self.specials),
            ("bytes in files", self.bytes),
        ]
    }
}

/// Where a certificate is to go.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
}

impl Destination {
    /// Finds out whether a certificate can be written there, before anything else is done.
    ///
    /// # Errors
    /// What is in the way.
    pub fn new(path: &Path, roots: [&OsString; 2]) -> anyhow::Result<Self> {
        let destination = Destination { path: path.to_owned() };
        let shown = destination.shown();
        ensure!(!path.is_dir(), "certificate {shown}: this is a directory");
        let there = fs::symlink_metadata(path);
        ensure!(
            path.file_name().is_some() && there.is_ok_and(|m| m.is_file()) || there_is_nothing(path),
            "certificate {shown}: something else than a file has this name; choose another"
        );
        ensure!(
            there_is_nothing(path) || Certificate::read(path).is_ok(),
            "certificate {shown}: this file is no certificate, and is not replaced; choose another name"
        );
        let folder = fs::canonicalize(destination.folder())
            .with_context(|| format!("cannot write the certificate {shown}: its directory"))?;
        for root in roots {
            let Ok((_, path)) = crate::fs::adapter_of(root.as_bytes()) else { continue };
            if fs::canonicalize(OsStr::from_bytes(path)).is_ok_and(|root| folder.starts_with(root)) {
                bail!("certificate {shown} lies in {}: choose a place outside the trees", escaped(root.as_bytes()));
            }
        }
        destination.prepare()?;
        Ok(destination)
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The path, for people.
    pub fn shown(&self) -> String {
        escaped(self.path.as_os_str().as_bytes())
    }

    fn prepare(&self) -> anyhow::Result<tempfile::NamedTempFile> {
        let made = tempfile::Builder::new().prefix(".treehaul-certificate-").tempfile_in(self.folder());
        made.with_context(|| format!("cannot write the certificate {}", self.shown()))
    }

    /// Writes it whole, and safe on the disk.
    pub fn write(&self, certificate: &Certificate) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", self.shown());
        let mut file = self.prepare()?;
        serde_json::to_writer_pretty(&mut file, certificate).with_context(failed)?;
        file.write_all(b"\n").with_context(failed)?;
        file.as_file().set_permissions(Permissions::from_mode(0o644)).with_context(failed)?;
        file.as_file().sync_all().with_context(failed)?;
        file.persist(&self.path).with_context(failed)?;
        File::open(self.folder()).and_then(|folder| folder.sync_all()).with_context(failed)
    }
}

fn there_is_nothing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Runs the command.
pub fn run(command: CertificateCommand) -> ExitCode {
    let CertificateCommand::Check(CheckArgs { file, tree, how }) = command;
    let certificate = match Certificate::read(&file) {
        Ok(certificate) => certificate,
        Err(e) => return refuse(&e),
    };
    let policy = certificate.compared.clone();
    let order = || {
        given_root(tree.clone())?;
        Ok(Order::new("fingerprint", policy))
    };
    how.run([tree.clone(), tree.clone()], order, |f, tell| tell_check(f, tell, &certificate, &tree))
}

/// What was seen, to be compared with what was certified.
fn seen(t: &Totals) -> [u64; 6] {
    [t.found - t.filtered, t.files, t.directories, t.symlinks, t.specials, t.bytes_found]
}

fn tell_check(f: &Finished<'_>, tell: Tell, certificate: &Certificate, tree: &OsStr) -> ExitCode {
    let found = f.snapshot.sums[1].fingerprint().to_string();
    let (is_same, is_certain) = (found == certificate.fingerprint, !f.snapshot.uncertain);
    let t = &f.snapshot.totals;
    let code = match f.exit_code() {
        ExitCode::Complete if t.vanished > 0 => ExitCode::FailedEntries,
        ExitCode::Complete if !is_certain => ExitCode::Infrastructure,
        ExitCode::Complete if !is_same => ExitCode::Different,
        code => code,
    };
    let tree = escaped(tree.as_bytes());
    let mut text = match code {
        ExitCode::Complete => format!("{tree} is the certified tree: ") + &certified(certificate),
        ExitCode::Different => format!("{tree} is not the certified tree: ") + &certified(certificate),
        _ => format!("{tree} could not be checked against the certificate of {}", certificate.finished),
    };
    if code == ExitCode::Different {
        for ((what, was), is) in certificate.totals().into_iter().zip(seen(t)).filter(|((_, was), is)| was != is) {
            let _ = write!(text, "\n  {what}: {was} certified, {is} found");
        }
        let _ = write!(text, "\n  fingerprint: {} certified, {found} found", certificate.fingerprint);
    }
    if tell.json {
        let mut object = summary::json(f);
        object["certified"] = (code == ExitCode::Complete).into();
        object["exit_code"] = code.number().into();
        object["fingerprint"] = serde_json::json!({
            "certified": certificate.fingerprint, "found": found, "certain": is_certain,
        });
        print_result(&object.to_string());
    } else if !tell.quiet || code == ExitCode::Different {
        print_result(&text);
    }
    let mut trouble = summary::trouble(f);
    if !is_certain {
        let _ = writeln!(trouble, "treehaul: {UNCERTAIN}");
    }
    if t.vanished > 0 {
        let _ = writeln!(trouble, "treehaul: {} entries vanished while the tree was read", t.vanished);
    }
    if !trouble.is_empty() {
        complain(trouble.trim_end());
    }
    code
}

/// What was certified, in words.
fn certified(c: &Certificate) -> String {
    let words = |text: &str| escaped(text.as_bytes());
    let contents = match (c.compared.verify.content, c.compared.verify.sample_ppm) {
        (false, _) => "without contents".to_owned(),
        (true, 1_000_000) => "with contents".to_owned(),
        (true, ppm) => format!("with contents of {}% of the files", f64::from(ppm) / 10_000.0),
    };
    let (entries, bytes) = (c.entries, c.bytes);
    format!(
        "{entries} entries, {bytes} bytes, {contents}, verified {} against {}",
        words(&c.finished),
        words(&c.source)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (sec, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_826_149, "2000-02-29T12:09:09Z"),
            (1_795_267_324, "2026-11-21T13:22:04Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(Timestamp { sec, ns: 5 }), text);
        }
    }
}
