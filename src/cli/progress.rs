//! Progress while a job runs: a live display on a terminal, plain lines every few seconds elsewhere.

use crate::fs::Usage;
use crate::telemetry::{Board, Snapshot};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Between two pictures on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// A display that runs until it is finished.
pub struct Progress {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts to show a board, on stderr.
    pub fn start(board: Arc<Board>, usage: Option<Usage>, quiet: bool) -> Self {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        if quiet {
            return Progress { over, thread: None };
        }
        let shared = Arc::clone(&over);
        let show = move || {
            if std::io::stderr().is_terminal() {
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
            eprintln!("note: {note}");
        }
        said = s.notes.len();
        eprintln!("{}: {}", clock(s.elapsed), line(&s, usage));
    }
}

fn draw(board: &Board, usage: Option<Usage>, over: &(Mutex<bool>, Condvar)) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30.green/dim} {percent:>3}%  {elapsed_precise}\n{msg}") {
        bar.set_style(style.progress_chars("━━╌"));
    }
    loop {
        let s = board.snapshot();
        let total = Estimate::new(&s, usage);
        bar.set_length(total.entries.max(1));
        bar.set_position(s.totals.done().min(total.entries));
        let mut message = line(&s, usage);
        for failure in s.failures.iter().rev().take(3) {
            let path = crate::model::escaped(&failure.path);
            message.push_str(&format!("\n  failed: {path}: {}: {}", failure.operation, failure.message));
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
struct Estimate {
    entries: u64,
    /// The walk is over: the number is exact.
    exact: bool,
    /// The number is that of the whole filesystem, of which the source may be a small part.
    bound: bool,
}

impl Estimate {
    fn new(s: &Snapshot, usage: Option<Usage>) -> Self {
        let found = s.totals.found;
        match usage.filter(|u| u.entries > found && !s.walk_over) {
            Some(u) => Estimate { entries: u.entries, exact: false, bound: !u.whole },
            None => Estimate { entries: found, exact: s.walk_over, bound: false },
        }
    }
}

fn line(s: &Snapshot, usage: Option<Usage>) -> String {
    let t = &s.totals;
    let seconds = s.elapsed.as_secs_f64().max(1e-9);
    let per_second = |n: u64| (n as f64 / seconds) as u64;
    let total = Estimate::new(s, usage);
    let sign = match (total.exact, total.bound) {
        (true, _) => "",
        (false, true) => "at most ",
        (false, false) => "about ",
    };
    let mut out = format!(
        "{} of {sign}{} entries, {}, {} entries/s, {}/s",
        HumanCount(t.done()),
        HumanCount(total.entries),
        HumanBytes(t.bytes_copied),
        HumanCount(per_second(t.done())),
        HumanBytes(per_second(t.bytes_copied)),
    );
    if t.failed > 0 {
        out.push_str(&format!(", {} failed", HumanCount(t.failed)));
    }
    out.push_str(&format!(", {}", eta(s, &total)));
    out
}

/// Time left at the pace so far. While directories are still being found it can only be a bound or a guess, and
/// is called so.
fn eta(s: &Snapshot, total: &Estimate) -> String {
    let done = s.totals.done();
    if done == 0 || s.elapsed < Duration::from_secs(2) {
        return "time left unknown".into();
    }
    let left = total.entries.saturating_sub(done) as f64 * s.elapsed.as_secs_f64() / done as f64;
    let left = HumanDuration(Duration::from_secs_f64(left.min(1e9)));
    match (total.exact, total.bound) {
        (true, _) => format!("{left} left"),
        (false, true) => format!("at most {left} left"),
        (false, false) => format!("about {left} left"),
    }
}

fn clock(elapsed: Duration) -> String {
    let s = elapsed.as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
