//! What a dry run would do: a line on stdout for each entry, as it is found out.

use crate::model::escaped;
use crate::telemetry::{Sink, Told};
use std::io::{BufWriter, Stdout, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// The lines of a dry run, held back in blocks.
pub struct Lines(Arc<Mutex<BufWriter<Stdout>>>);

impl Lines {
    /// Takes findings off a board's way to `next`, and passes everything on.
    pub fn before(mut next: Sink) -> (Sink, Self) {
        let out = Arc::new(Mutex::new(BufWriter::new(std::io::stdout())));
        let lines = Lines(Arc::clone(&out));
        let sink = move |told: Told<'_>| {
            if let Told::Finding(finding) = told {
                let path = if finding.path.is_empty() { ".".to_owned() } else { escaped(&finding.path) };
                let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
                // A reader that went away must not end a job.
                let _ = writeln!(out, "{} {path}", escaped(finding.what.as_bytes()));
            }
            next(told);
        };
        (Box::new(sink), lines)
    }

    /// Writes out what is held back.
    pub fn finish(self) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).flush(); // as above
    }
}
