//! One line of the log, as text or JSON.
//!
//! Invariant: nothing that comes out of here has a control character or one that reorders or hides text in it, and no
//! value can be taken for a field of its own. Names come in escaped; what else there may be is defused here.

use crate::model::escape::defused;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::fmt::Write as _;
use tracing::Level;

/// Fields that every object has; others of that name come under `field.NAME`.
const RESERVED: [&str; 6] = ["timestamp", "level", "target", "message", "job", "task"];

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A number, true or false.
    Plain(serde_json::Value),
}

/// A line.
#[derive(Debug, Clone)]
pub struct Line {
    time: jiff::Timestamp,
    /// How bad it is.
    pub level: Level,
    /// The module that says it.
    pub target: String,
    /// What it says.
    pub message: String,
    /// The job that it belongs to.
    pub job: Option<String>,
    /// The task.
    pub task: Option<String>,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    /// A line that is said now.
    pub fn new(level: Level, target: &str, message: String) -> Self {
        let (time, target) = (jiff::Timestamp::now(), target.to_owned());
        Line { time, level, target, message, job: None, task: None, fields: Vec::new() }
    }

    /// Adds a field.
    pub fn add(&mut self, name: &'static str, value: Value) {
        match (name, value) {
            ("message", Value::Text(text)) => self.message = text,
            ("job", Value::Text(text)) => self.job = Some(text),
            ("task", Value::Text(text)) => self.task = Some(text),
            (name, value) => self.fields.push((name, value)),
        }
    }

    /// Instead of many lines like this one.
    pub fn summed_up(self, message: String, more: u64, seconds: u64) -> Self {
        let fields = vec![("more", Value::Plain(more.into())), ("seconds", Value::Plain(seconds.into()))];
        Line { time: jiff::Timestamp::now(), message, task: None, fields, ..self }
    }

    /// One JSON object, without a line end.
    pub fn to_json(&self) -> String {
        // Strings and numbers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people.
    pub fn to_text(&self, colours: bool) -> String {
        let paint = |code: &'static str| if colours { code } else { "" };
        let (dim, italic, off) = (paint("\x1b[2m"), paint("\x1b[3m"), paint("\x1b[0m"));
        let level = paint(match self.level {
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            Level::DEBUG => "\x1b[34m",
            _ => "\x1b[35m",
        });
        let mut out = format!("{dim}{:.6}{off} {level}{:>5}{off}", self.time, self.level.as_str());
        if !self.message.is_empty() {
            let _ = write!(out, " {}", defused(&self.message));
        }
        let words = |text: &String| Value::Text(text.clone());
        let ids = [("job", self.job.as_ref()), ("task", self.task.as_ref())];
        let ids = ids.into_iter().filter_map(|(name, id)| Some((name, id.map(words)?)));
        for (name, value) in self.fields.iter().cloned().chain(ids) {
            let _ = write!(out, " {italic}{name}{off}{dim}={off}{}", shown(&value));
        }
        out
    }
}

/// A value behind its `=`: in quotes where its end could be mistaken.
fn shown(value: &Value) -> String {
    match value {
        Value::Plain(plain) => plain.to_string(),
        Value::Text(text) => {
            let text = defused(text);
            let is_plain = |c: char| !c.is_whitespace() && c != '"' && c != '=';
            if !text.is_empty() && text.chars().all(is_plain) {
                text
            } else {
                // A name has no lone backslash any more, so this one is not mistaken for the name's.
                format!("\"{}\"", text.replace('"', "\\\""))
            }
        }
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &format!("{:.6}", self.time))?;
        map.serialize_entry("level", self.level.as_str())?;
        map.serialize_entry("target", &defused(&self.target))?;
        map.serialize_entry("message", &defused(&self.message))?;
        for (name, id) in [("job", &self.job), ("task", &self.task)] {
            if let Some(id) = id {
                map.serialize_entry(name, &defused(id))?;
            }
        }
        for (i, (name, value)) in self.fields.iter().enumerate() {
            if self.fields[..i].iter().any(|(before, _)| before == name) {
                continue; // an object has each once
            }
            let key = if RESERVED.contains(name) { format!("field.{name}") } else { (*name).to_owned() };
            match value {
                Value::Text(text) => map.serialize_entry(&key, &defused(text))?,
                Value::Plain(plain) => map.serialize_entry(&key, plain)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::escaped;
    use proptest::prelude::*;

    fn line(path: &str) -> Line {
        let mut line = Line::new(Level::WARN, "treehaul::pass", "entry failed".to_owned());
        line.add("path", Value::Text(path.to_owned()));
        line.add("errno", Value::Plain(13.into()));
        line.add("job", Value::Text("j1".to_owned()));
        line
    }

    fn parsed(line: &Line) -> serde_json::Value {
        serde_json::from_str(&line.to_json()).unwrap()
    }

    #[test]
    fn an_object_is_flat_and_has_each_field_once() {
        let mut line = line("a");
        line.add("level", Value::Plain(1.into()));
        line.add("errno", Value::Plain(14.into()));
        let object = parsed(&line);
        assert_eq!(object["level"], "WARN");
        assert_eq!(object["field.level"], 1);
        assert_eq!(object["errno"], 13);
        assert_eq!((&object["job"], object.get("task")), (&"j1".into(), None));
        assert_eq!(line.to_json().matches("errno").count(), 1);
        let time = object["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == "2026-01-02T03:04:05.000000Z".len(), "{time}");
    }

    #[test]
    fn text_is_one_line_and_a_value_is_no_field() {
        let text = line("x job=evil \"q\"\u{1b}[2J\u{202e}\n").to_text(false);
        let tail = r#"  WARN entry failed path="x job=evil \"q\"\x1b[2J\u{202e}\n" errno=13 job=j1"#;
        assert_eq!(&text[27..], tail, "{text}");
    }

    proptest! {
        #[test]
        fn nothing_harmful_comes_out(bytes in proptest::collection::vec(any::<u8>(), 0..60), raw in any::<String>()) {
            for value in [escaped(&bytes), raw] {
                let mut line = line(&value);
                line.message = value.clone();
                for out in [line.to_json(), line.to_text(false)] {
                    prop_assert_eq!(defused(&out), out.clone(), "it is harmless already");
                }
                prop_assert_eq!(&parsed(&line)["path"], &serde_json::Value::from(defused(&value)));
            }
        }
    }
}
