//! The report of a job for people: one page that is written when the job is over, however it ended.
//!
//! Invariant: the file under its name is a whole page or what was there before; nothing else is left.

mod page;
mod plot;
mod sections;
mod settings;
mod text;

use super::summary::Finished;
use crate::exit_code::ExitCode;
use crate::fs;
use crate::model::{JobSpec, escaped};
use crate::node::{Ended, PoolSizes};
use crate::telemetry::{Board, Chronicle, Snapshot};
use anyhow::{Context, ensure};
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two samples of what was done.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// Who does the work.
#[derive(Debug, Clone, Copy)]
pub enum Hands {
    /// This process.
    Alone {
        /// Actors that list directories.
        dirs: usize,
        /// Actors that work on files.
        files: usize,
    },
    /// The workers of a broker.
    Fleet,
}

impl Hands {
    /// Those of a job: a fleet's, or so many of this process.
    pub fn of(fleet: bool, sizes: PoolSizes) -> Self {
        if fleet { Hands::Fleet } else { Hands::Alone { dirs: sizes.dirs, files: sizes.files } }
    }
}

/// All that is told in the page.
struct Told<'a> {
    spec: &'a JobSpec,
    snapshot: &'a Snapshot,
    chronicle: Chronicle,
    ended: &'a Ended,
    code: ExitCode,
    hands: Hands,
    host: String,
    /// What else went wrong.
    also: Vec<String>,
}

fn cannot(page: &Path) -> String {
    format!("cannot write the HTML report {}", escaped(page.as_os_str().as_bytes()))
}

fn must_be_outside(page: &Path, root: &[u8], noun: &str) -> anyhow::Result<()> {
    // What is wrong with a root is said where it is opened.
    let Ok((adapter, path)) = fs::adapter_of(root) else { return Ok(()) };
    let is_inside = adapter.scheme == "file" && real(page).starts_with(real(Path::new(OsStr::from_bytes(path))));
    ensure!(!is_inside, "{}: it would be a part of the {noun}; write it somewhere else", cannot(page));
    Ok(())
}

/// A page that will be written.
pub struct HtmlReport {
    path: PathBuf,
    /// The directory that it is put into, held from the beginning: it stays the one that was looked at.
    dir: std::fs::File,
}

impl HtmlReport {
    /// Finds out whether the page can be written, before anything is touched. It must not become a part of one of the
    /// trees.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn new(path: &Path, [source, target]: [&[u8]; 2]) -> anyhow::Result<Self> {
        let path = std::path::absolute(path).context("the current directory is gone")?;
        must_be_outside(&path, source, "source")?;
        must_be_outside(&path, target, "target")?;
        let dir = std::fs::File::open(path.parent().unwrap_or(Path::new("/"))).with_context(|| cannot(&path))?;
        let report = HtmlReport { path, dir };
        if let Ok(there) = std::fs::symlink_metadata(&report.path) {
            ensure!(there.is_file(), "{}: something is there that is no regular file", cannot(&report.path));
        }
        // Whoever may make a file beside it may rename one.
        report.make().with_context(|| cannot(&report.path))?;
        Ok(report)
    }

    /// A working file beside it that goes with its handle. Only its owner may read it: it names what is in somebody's
    /// directories.
    fn make(&self) -> std::io::Result<tempfile::NamedTempFile> {
        let made = tempfile::Builder::new().prefix(".treehaul-report-").tempfile_in(self.held());
        made.map_err(|e| std::io::Error::from(e.kind())) // without a name that nobody knows
    }

    /// The directory, by whatever name it has now.
    fn held(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.dir.as_raw_fd()).into()
    }

    /// Begins to take samples of a job.
    pub fn watch(self, board: &Arc<Board>, hands: Hands) -> Watching {
        let (over, ended) = channel::<()>();
        let sampled = Arc::clone(board);
        let sample = move || {
            while ended.recv_timeout(SAMPLE_EVERY) == Err(RecvTimeoutError::Timeout) {
                sampled.sample();
            }
        };
        // Without a thread for it there is just no plot to see.
        let thread = std::thread::Builder::new().name("samples".into()).spawn(sample).ok();
        Watching { report: self, hands, over, thread }
    }

    fn write(&self, page: &str) -> anyhow::Result<()> {
        let written = || -> std::io::Result<()> {
            let mut file = self.make()?;
            file.write_all(page.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(self.held().join(self.path.file_name().unwrap_or_default()))?;
            Ok(())
        };
        written().with_context(|| cannot(&self.path))
    }
}

/// The path without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

/// A job that is under way and whose page will be written.
pub struct Watching {
    report: HtmlReport,
    hands: Hands,
    over: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Writes the page of a job that has ended, as that exit code says; `also` is what else went wrong.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(
        self,
        board: &Board,
        finished: &Finished<'_>,
        (code, also): (ExitCode, Vec<String>),
    ) -> anyhow::Result<()> {
        drop(self.over);
        if let Some(thread) = self.thread {
            let _ = thread.join(); // one that died samples nothing more
        }
        let Finished { spec, snapshot, ended } = finished;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let told = Told { spec, snapshot, chronicle: board.chronicle(), ended, code, hands: self.hands, host, also };
        self.report.write(&page::render(&told))
    }
}
