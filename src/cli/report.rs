//! The report file: every failed entry and every finding, one JSON object a line.

use crate::model::escaped;
use crate::node::json::{failure_json, finding_json};
use crate::telemetry::{Sink, Told};
use anyhow::Context;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A report that is being written.
pub struct ReportFile {
    path: PathBuf,
    file: BufWriter<File>,
}

/// The end of a report that has been handed to the board.
pub struct ReportEnd(Option<Arc<Mutex<State>>>);

struct State {
    path: PathBuf,
    file: BufWriter<File>,
    error: Option<std::io::Error>,
}

impl ReportFile {
    /// Opens the file, before anything else is touched; an older report stays until the job begins.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = escaped(path.as_os_str().as_encoded_bytes());
        // It names what is in somebody's directories.
        let opened = File::options().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.with_context(|| format!("cannot write the report {shown}"))?;
        Ok(ReportFile { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// No report was asked for.
    pub fn none() -> (Sink, ReportEnd) {
        (Box::new(|_| {}), ReportEnd(None))
    }

    /// Empties the file and splits into what takes failures and what ends it.
    pub fn into_sink(self) -> anyhow::Result<(Sink, ReportEnd)> {
        self.file.get_ref().set_len(0).context("cannot empty the report")?;
        let state = Arc::new(Mutex::new(State { path: self.path, file: self.file, error: None }));
        let sink = Arc::clone(&state);
        let take = move |told: Told<'_>| {
            let mut state = sink.lock().unwrap_or_else(PoisonError::into_inner);
            let line = match told {
                Told::Failure(failure) => failure_json(failure),
                Told::Finding(finding) => finding_json(finding),
                Told::TakenBack(_) => return,
            };
            if let Err(e) = writeln!(state.file, "{line}") {
                state.error.get_or_insert(e);
            }
        };
        Ok((Box::new(take), ReportEnd(Some(state))))
    }
}

impl ReportEnd {
    /// Writes out what is buffered; the first error of all comes out here.
    pub fn finish(self) -> anyhow::Result<()> {
        let Some(state) = self.0 else { return Ok(()) };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = state.file.flush();
        let done = state.error.take().map_or(flushed, Err);
        done.with_context(|| format!("cannot write the report {}", escaped(state.path.as_os_str().as_encoded_bytes())))
    }
}
