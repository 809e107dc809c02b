//! Files that hold a secret: keys, passwords.
//!
//! Invariant: what is read from one is never printed, and a file that anybody else could read or write is not used.

use crate::model::escaped;
use anyhow::{Context, bail, ensure};
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Nothing that is read here is larger, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Rights of group and others.
const OTHERS: u32 = 0o077;
/// Rights of group and others to change it.
const CHANGED_BY_OTHERS: u32 = 0o022;

/// A path, fit for a message.
pub fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// An open file, and whether others can read it.
pub struct Opened {
    file: File,
    /// Group or others have some right.
    pub is_shared: bool,
}

impl Opened {
    /// All of it.
    ///
    /// # Errors
    /// The system's, or it is too large to be what it should be.
    pub fn read(self, path: &Path) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", shown(path)))?;
        ensure!(bytes.len() as u64 <= MAX_BYTES, "{} is larger than {MAX_BYTES} bytes", shown(path));
        Ok(bytes)
    }
}

/// Opens a file that nobody else can change. What is opened is what was looked at.
///
/// # Errors
/// A message that names the file and the way out.
pub fn open_trusted(path: &Path) -> anyhow::Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(path, flags, Mode::empty()).with_context(|| format!("cannot open {}", shown(path)))?;
    let s = rustix::fs::fstat(&opened).with_context(|| format!("cannot look at {}", shown(path)))?;
    ensure!(FileType::from_raw_mode(s.st_mode) == FileType::RegularFile, "{} is no regular file", shown(path));
    if s.st_uid != 0 && s.st_uid != rustix::process::geteuid().as_raw() {
        bail!("{} belongs to user {}, who could change it: chown it to root", shown(path), s.st_uid);
    }
    ensure!(s.st_mode & CHANGED_BY_OTHERS == 0, "{0} can be changed by others: chmod go-w {0}", shown(path));
    Ok(Opened { file: File::from(opened), is_shared: s.st_mode & OTHERS != 0 })
}

/// Reads a file that only its owner can read.
///
/// # Errors
/// A message that names the file and the way out, and nothing of what is in it.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let opened = open_trusted(path)?;
    ensure!(!opened.is_shared, "{0} can be read by others: chmod 600 {0}", shown(path));
    opened.read(path)
}

/// A password: the first line.
///
/// # Errors
/// As [`read`], or there is none.
pub fn read_password(path: &Path) -> anyhow::Result<String> {
    let bytes = read(path)?;
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    ensure!(!line.is_empty(), "the first line of {} is empty: it should be a password", shown(path));
    let text =
        std::str::from_utf8(line).ok().with_context(|| format!("the password in {} is not UTF-8", shown(path)))?;
    Ok(text.to_owned())
}
