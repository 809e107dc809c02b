//! Progress while a job runs: a live display on a terminal, plain lines every few seconds elsewhere.

use crate::fs::Usage;
use crate::model::JobId;
use crate::telemetry::{self, Board, Snapshot};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Between two pictures on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Steps of the bar.
const BAR_STEPS: u64 = 1000;

/// A display that runs until it is finished.
pub struct Progress {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to show the board of a job, on stderr.
    pub fn start(job: JobId, board: Arc<Board>, usage: Option<Usage>, quiet: bool) -> Self {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        if quiet {
            return Progress { over, thread: None };
        }
        let shared = Arc::clone(&over);
        let show = move || {
            let _about = telemetry::attend(job);
            if std::io::stderr().is_terminal() && !super::log::is_json() {
                draw(&board, usage, &shared);
            } else {
                print_lines(&board, usage, &shared);
            }
        };
        // Without a thread for it there is just no progress to see.
        let thread = std::thread::Builder::new().name("progress".into()).spawn(show).ok();
        Progress { over, thread }
    }

    /// Ends the display and takes it off the terminal.
    pub fn finish(self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread {
            let _ = thread.join(); // a display that died shows nothing more
        }
    }
}

/// Waits; true when it is over.
fn wait(over: &(Mutex<bool>, Condvar), time: Duration) -> bool {
    let guard = over.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (guard, _) = over.1.wait_timeout_while(guard, time, |over| !*over).unwrap_or_else(PoisonError::into_inner);
    *guard
}

fn print_lines(board: &Board, usage: Option<Usage>, over: &(Mutex<bool>, Condvar)) {
    let mut said = 0;
    while !wait(over, LINE_EVERY) {
        let s = board.snapshot();
        for note in s.notes.iter().skip(said) {
            super::say(&format!("note: {note}"));
        }
        said = s.notes.len();
        super::say(&format!("{}: {}", clock(s.elapsed), line(&s, usage)));
    }
}

fn draw(board: &Board, usage: Option<Usage>, over: &(Mutex<bool>, Condvar)) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30.green/dim} {percent:>3}%  {elapsed_precise}\n{msg}") {
        bar.set_style(style.progress_chars("━━╌"));
    }
    loop {
        let s = board.snapshot();
        let fraction = Total::new(&s, usage).fraction(&s).unwrap_or(0.0);
        bar.set_length(BAR_STEPS);
        bar.set_position((fraction * BAR_STEPS as f64) as u64);
        let mut message = line(&s, usage);
        for failure in s.failures.iter().rev().take(3) {
            let path = crate::model::escaped(&failure.path);
            message.push_str(&format!(
                "\n  failed: {path}: {}: {}",
                failure.operation,
                crate::model::escaped(failure.message.as_bytes())
            ));
        }
        for note in &s.notes {
            message.push_str(&format!("\n  note: {note}"));
        }
        bar.set_message(message);
        if wait(over, DRAW_EVERY) {
            break;
        }
    }
    bar.finish_and_clear();
}

/// How much there may be in all.
enum Total {
    /// Everything has been found: so many entries.
    Exact(u64),
    /// The source is a whole filesystem, which counts its entries and bytes.
    About { entries: u64, bytes: u64 },
    /// The source is a part of a filesystem of so many entries.
    Under(u64),
    /// Nobody counts.
    Unknown,
}

impl Total {
    fn new(s: &Snapshot, usage: Option<Usage>) -> Self {
        if s.walk_over {
            return Total::Exact(s.totals.found);
        }
        match usage.filter(|u| u.entries > s.totals.found) {
            Some(u) if u.whole => Total::About { entries: u.entries, bytes: u.bytes },
            Some(u) => Total::Under(u.entries),
            None => Total::Unknown,
        }
    }

    /// How much is done, from 0 to 1, at least; none where nobody can tell.
    fn fraction(&self, s: &Snapshot) -> Option<f64> {
        let part = |done: u64, all: u64| (done as f64 / all.max(1) as f64).min(1.0);
        let done = s.totals.done();
        match *self {
            Total::Exact(entries) | Total::Under(entries) => Some(part(done, entries)),
            // Bytes count where they are written: large files take longer than their number says.
            Total::About { entries, bytes } if s.totals.bytes_copied > 0 => {
                Some(part(done, entries).min(part(s.totals.bytes_found.max(s.totals.bytes_copied), bytes)))
            }
            Total::About { entries, .. } => Some(part(done, entries)),
            Total::Unknown => None,
        }
    }
}

fn line(s: &Snapshot, usage: Option<Usage>) -> String {
    let t = &s.totals;
    let seconds = s.elapsed.as_secs_f64().max(1e-9);
    let per_second = |n: u64| (n as f64 / seconds) as u64;
    let total = Total::new(s, usage);
    let of = match total {
        Total::Exact(n) => format!("of {} entries", HumanCount(n)),
        Total::About { entries, .. } => format!("of about {} entries", HumanCount(entries)),
        Total::Under(n) => format!("of at most {} entries", HumanCount(n)),
        Total::Unknown => format!("of {} entries found so far", HumanCount(t.found)),
    };
    let bytes = t.bytes_copied + t.bytes_read;
    let mut out = format!(
        "{} {of}, {}, {} entries/s, {}/s",
        HumanCount(t.done()),
        HumanBytes(bytes),
        HumanCount(per_second(t.done())),
        HumanBytes(per_second(bytes)),
    );
    if t.failed > 0 {
        out.push_str(&format!(", {} failed", HumanCount(t.failed)));
    }
    out.push_str(&format!(", {}", time_left(s, &total)));
    out
}

/// Time left at the pace so far: a guess always, and called so.
fn time_left(s: &Snapshot, total: &Total) -> String {
    let fraction = total.fraction(s).filter(|f| *f > 0.0 && s.elapsed >= Duration::from_secs(2));
    let Some(fraction) = fraction else { return "time left unknown".into() };
    let left = s.elapsed.as_secs_f64() * (1.0 - fraction) / fraction;
    let left = HumanDuration(Duration::from_secs_f64(left.min(1e9)));
    match total {
        Total::Under(_) => format!("less than about {left} left"),
        _ => format!("about {left} left"),
    }
}

fn clock(elapsed: Duration) -> String {
    let s = elapsed.as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
