//! A list of paths, as the first tasks of a job.
//!
//! Invariant: the list is never in memory as a whole, and every line of it was checked before the first task is
//! made.

use crate::model::path::{MAX_NAME_BYTES, MAX_PATH_BYTES};
use crate::model::task::{MAX_TASK_ENTRIES, Names};
use crate::model::{PathError, RelPath, Task, escaped};
use anyhow::Context;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest line, in bytes: a path with what may stand before and after it.
const MAX_LINE_BYTES: usize = MAX_PATH_BYTES + 4096;
/// Most of a line that is shown, in bytes.
const SHOWN_BYTES: usize = MAX_NAME_BYTES;

/// The tasks that a list of paths stands for, made while it is read.
#[derive(Debug)]
pub struct FilesFrom {
    lines: Lines,
    /// The first path of the next task.
    ahead: Option<Path>,
    /// A task was made.
    begun: bool,
    trouble: ListTrouble,
}

/// What went wrong with a list after it had been checked.
#[derive(Debug, Clone, Default)]
pub struct ListTrouble(Arc<Mutex<Option<String>>>);

impl ListTrouble {
    /// What it was: tasks are missing then, and the job is not complete.
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, why: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

impl FilesFrom {
    /// Opens and checks a list whose lines end with `end`; `-` is stdin. What cannot be read twice is kept in an unnamed
    /// temporary file.
    ///
    /// # Errors
    /// What is wrong, with file and line.
    pub fn open(file: &OsStr, end: u8) -> anyhow::Result<Self> {
        let what = || format!("--files-from {}", escaped(file.as_bytes()));
        let held = if file == "-" {
            spooled(&mut std::io::stdin().lock())
        } else {
            File::open(file).and_then(|mut f| if f.metadata()?.is_file() { Ok(f) } else { spooled(&mut f) })
        };
        let mut lines = Lines::new(file, held.with_context(what)?, end);
        while lines.next_path()?.is_some() {}
        lines.rewind().with_context(what)?;
        Ok(FilesFrom { lines, ahead: None, begun: false, trouble: ListTrouble::default() })
    }

    /// To be looked at when the job is over.
    pub fn trouble(&self) -> ListTrouble {
        self.trouble.clone()
    }

    /// The next path; an error ends the list.
    fn path(&mut self) -> Option<Path> {
        if let Some(ahead) = self.ahead.take() {
            return Some(ahead);
        }
        match self.lines.next_path() {
            Ok(path) => path,
            Err(e) => {
                self.lines.over = true;
                self.trouble
                    .set(format!("{e:#}; it was changed while it was read, and what follows was not looked at"));
                None
            }
        }
    }
}

impl Iterator for FilesFrom {
    type Item = Task;

    fn next(&mut self) -> Option<Task> {
        let mut names = Names::default();
        let Some(path) = self.path() else {
            // A job needs a task to end with, also if nothing is listed.
            let is_first = !std::mem::replace(&mut self.begun, true);
            return is_first.then(|| Task::Pick { dir: RelPath::root(), names });
        };
        self.begun = true;
        let Some((dir, name)) = path.split() else { return Some(Task::root()) };
        let _ = names.push(0, &name); // a part of a checked path
        while names.len() < MAX_TASK_ENTRIES
            && let Some(path) = self.path()
        {
            match path.split_in(&dir) {
                Some(name) => {
                    let _ = names.push(0, name);
                }
                None => {
                    self.ahead = Some(path);
                    break;
                }
            }
        }
        Some(Task::Pick { dir, names })
    }
}

/// A path of the list.
#[derive(Debug)]
struct Path(RelPath);

impl Path {
    /// Directory and name; none is the root.
    fn split(self) -> Option<(RelPath, Vec<u8>)> {
        let (dir, name) = self.0.split_last();
        name.map(|name| (dir, name.to_vec()))
    }

    /// The name, if the path is of an entry of `dir`.
    fn split_in(&self, dir: &RelPath) -> Option<&[u8]> {
        let (its_dir, name) = self.0.split_last();
        name.filter(|_| its_dir == *dir)
    }
}

/// The lines of a list.
#[derive(Debug)]
struct Lines {
    file: OsString,
    input: BufReader<File>,
    end: u8,
    number: u64,
    line: Vec<u8>,
    over: bool,
}

impl Lines {
    fn new(file: &OsStr, input: File, end: u8) -> Self {
        let input = BufReader::with_capacity(1 << 18, input);
        Lines { file: file.to_owned(), input, end, number: 0, line: Vec::new(), over: false }
    }

    fn rewind(&mut self) -> std::io::Result<()> {
        self.number = 0;
        self.input.rewind()
    }

    /// The next line that is not empty, as a path.
    fn next_path(&mut self) -> anyhow::Result<Option<Path>> {
        while !self.over && self.read().with_context(|| self.place())? {
            if !self.line.is_empty() {
                let path = checked(&self.line);
                return path.map(|path| Some(Path(path))).with_context(|| {
                    let shown = escaped(&self.line[..self.line.len().min(SHOWN_BYTES)]);
                    let more = if self.line.len() > SHOWN_BYTES { "..." } else { "" };
                    format!("{}: '{shown}{more}' is no path below the source", self.place())
                });
            }
        }
        Ok(None)
    }

    fn place(&self) -> String {
        format!("--files-from {}: line {}", escaped(self.file.as_bytes()), self.number)
    }

    /// Reads a line, without its end; of one that is too long only so much that this is seen.
    fn read(&mut self) -> std::io::Result<bool> {
        self.line.clear();
        self.number += 1;
        let read = self.input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(self.end, &mut self.line)?;
        self.line.pop_if(|last| *last == self.end);
        Ok(read > 0)
    }
}

/// A line as a path: `./a//b/` is `a/b`, as for the system.
fn checked(line: &[u8]) -> Result<RelPath, PathError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(PathError::TooLong);
    }
    match RelPath::parse(line.to_vec()) {
        Err(PathError::Empty | PathError::Dots) => {
            let components = line.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".");
            RelPath::parse(components.collect::<Vec<_>>().join(&b'/'))
        }
        other => other,
    }
}

fn spooled(input: &mut dyn Read) -> std::io::Result<File> {
    let mut file = tempfile::tempfile()?;
    std::io::copy(input, &mut file)?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &[u8], end: u8) -> (tempfile::NamedTempFile, anyhow::Result<FilesFrom>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let opened = FilesFrom::open(file.path().as_os_str(), end);
        (file, opened)
    }

    fn picks(text: &[u8], end: u8) -> Vec<(String, Vec<String>)> {
        let tasks = list(text, end).1.unwrap().map(|task| match task {
            Task::Pick { dir, names } => {
                (escaped(dir.as_bytes()), names.iter().map(|(_, name)| escaped(name)).collect())
            }
            other => (format!("{other:?}"), Vec::new()),
        });
        tasks.collect()
    }

    fn pick(dir: &str, names: &[&str]) -> (String, Vec<String>) {
        (dir.to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn neighbours_in_one_directory_share_a_task() {
        let expected = [pick("d", &["a", "b"]), pick("", &["c"]), pick("d/e", &["f"]), pick("d", &["a"])];
        assert_eq!(picks(b"d/a\n./d/b/\n\n/c\nd//./e/f\nd/a", b'\n'), expected);
    }

    #[test]
    fn an_empty_list_is_one_task_that_picks_nothing() {
        assert_eq!(picks(b"", b'\n'), [pick("", &[])]);
        assert_eq!(picks(b"\n\n", b'\n'), [pick("", &[])]);
    }

    #[test]
    fn names_of_any_bytes_come_with_nul() {
        assert_eq!(picks(b"a\nb\0\xff/\x1b\0", 0), [pick("", &["a\\nb"]), pick("\\xff", &["\\x1b"])]);
    }

    #[test]
    fn a_line_that_is_the_root_is_the_whole_tree() {
        let root = (format!("{:?}", Task::root()), Vec::new());
        assert_eq!(picks(b"a\n./\nb\n", b'\n'), [pick("", &["a"]), root, pick("", &["b"])]);
    }

    #[test]
    fn a_task_does_not_become_too_large() {
        let text: String = (0..2 * MAX_TASK_ENTRIES + 1).map(|i| format!("d/{i}\n")).collect();
        let lens: Vec<usize> = picks(text.as_bytes(), b'\n').iter().map(|(_, names)| names.len()).collect();
        assert_eq!(lens, [MAX_TASK_ENTRIES, MAX_TASK_ENTRIES, 1]);
    }

    #[test]
    fn a_line_that_is_no_path_is_named() {
        let long = vec![b'x'; 300];
        for (text, number) in [
            (&b"a\nb/../c\n"[..], 2),
            (b"..", 1),
            (b"\n\na\0b\n", 3),
            (&long, 1),
            (&[b"a\n", &b"y/".repeat(MAX_PATH_BYTES)[..]].concat(), 2),
        ] {
            let error = format!("{:#}", list(text, b'\n').1.unwrap_err());
            assert!(error.contains(&format!("line {number}: '")) && error.len() < 1000, "{error}");
        }
    }

    #[test]
    fn a_list_that_changes_meanwhile_is_told_of() {
        let (file, opened) = list(b"a\nb/c\n", b'\n');
        std::fs::write(file.path(), "a\n../x\nb/c\n").unwrap();
        let mut opened = opened.unwrap();
        let trouble = opened.trouble();
        assert_eq!(opened.by_ref().count(), 1);
        assert!(trouble.take().unwrap().contains("line 2: '../x'"));
    }
}
