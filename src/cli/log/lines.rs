//! From what the program says to lines on stderr.

use super::LogFormat;
use super::limit::{Limiter, Verdict, WINDOW};
use super::line::{Line, Value};
use crate::telemetry;
use std::fmt::Debug;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The target under which lines of the `log` crate come; their own is a field.
const FOREIGN: &str = "log";

/// What is limited together: a place in the program, a job, and for lines of the `log` crate, which all come from one
/// place, their module.
type Kind = (Identifier, Option<String>, Option<String>);

/// Writes each event as a line.
pub struct Lines(Outlet);

impl Lines {
    /// Lines go there.
    pub fn new(outlet: Outlet) -> Self {
        Lines(outlet)
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields(Line::new(*metadata.level(), metadata.target(), String::new()));
        event.record(&mut fields);
        let mut line = fields.0;
        if let Some(now) = telemetry::at_work()
            && line.job.as_ref().is_none_or(|job| *job == now.job.to_string())
        {
            line.job.get_or_insert_with(|| now.job.to_string());
            line.task = line.task.or_else(|| now.task.map(|task| task.to_string()));
        }
        let module = (metadata.target() == FOREIGN).then(|| line.target.clone());
        self.0.line((metadata.callsite(), line.job.clone(), module), &line);
    }
}

/// Takes the fields of an event.
struct Fields(Line);

impl Fields {
    fn text(&mut self, field: &Field, text: String) {
        match field.name() {
            "log.target" => self.0.target = text,
            name if name.starts_with("log.") => {}
            name => self.0.add(name, Value::Text(text)),
        }
    }

    fn plain(&mut self, field: &Field, value: serde_json::Value) {
        if !field.name().starts_with("log.") {
            self.0.add(field.name(), Value::Plain(value));
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.plain(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, format!("{value:?}"));
    }
}

/// Where lines come out, as far as they are not held back.
#[derive(Clone)]
pub struct Outlet {
    format: LogFormat,
    colours: bool,
    limiter: Arc<Mutex<Limiter<Kind>>>,
}

impl Outlet {
    /// Nothing was said yet.
    pub fn new(format: LogFormat, colours: bool) -> Self {
        Outlet { format, colours, limiter: Arc::new(Mutex::new(Limiter::new())) }
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter<Kind>> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, kind: Kind, line: &Line) {
        let now = Instant::now();
        let mut limiter = self.limiter();
        let due = limiter.due(now);
        let verdict = limiter.judge(kind, line, now);
        drop(limiter);
        due.iter().for_each(|line| self.out(line));
        match verdict {
            Verdict::Out => self.out(line),
            Verdict::Held { first: false } => {}
            Verdict::Held { first: true } => self.sum_up_soon(),
        }
    }

    /// What is held back is summed up when its time is over, also if nothing is said any more until then.
    fn sum_up_soon(&self) {
        let outlet = self.clone();
        let sum_up = move || {
            let mut holds = true;
            while holds {
                std::thread::sleep(WINDOW);
                let mut limiter = outlet.limiter();
                let due = limiter.due(Instant::now());
                // Whoever is the first to be held back after this has a thread of its own.
                holds = limiter.holds();
                drop(limiter);
                due.iter().for_each(|line| outlet.out(line));
            }
        };
        // Without a thread for it that is for the next line.
        let _ = std::thread::Builder::new().name("log".into()).spawn(sum_up);
    }

    /// Says what was held back.
    pub fn sum_up(&self) {
        let rest = self.limiter().rest(Instant::now());
        rest.iter().for_each(|line| self.out(line));
    }

    fn out(&self, line: &Line) {
        put(&match self.format {
            LogFormat::Json => line.to_json(),
            LogFormat::Text => line.to_text(self.colours),
        });
    }
}

/// Puts a line on stderr, in one piece.
pub fn put(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes()); // a reader that went away has seen enough
}
