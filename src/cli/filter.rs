//! The options that say what takes part in a pass.
//!
//! Invariant: rules are tried in the order in which they stand on the command line, whatever option gave them.

use super::files_from::FilesFrom;
use super::size::parse_size;
use super::time::parse_time;
use crate::model::filter::{AgeBy, Filter, Kinds, MAX_PATTERN_BYTES, Matcher, Rule, Syntax};
use crate::model::{Policy, Timestamp, escaped};
use anyhow::Context;
use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

/// What takes part.
#[derive(Debug)]
pub struct FilterArgs {
    options: Options,
    /// What gives rules, in order: the option's name, its value.
    given: Vec<(&'static str, OsString)>,
}

/// Options that give rules.
const RULES: [&str; 5] = ["exclude", "include", "exclude_regex", "include_regex", "filter_from"];

#[derive(Debug, Args)]
#[command(next_help_heading = "What takes part")]
struct Options {
    /// Leave out what matches, and with a directory all that is in it: NAME, *.SUFFIX, /FROM/ROOT, DIR/, DIR/**
    #[arg(long, value_name = "GLOB", allow_hyphen_values = true)]
    exclude: Vec<OsString>,
    /// Let in what matches; the first rule that matches decides, and without any exclude nothing else is let in
    #[arg(long, value_name = "GLOB", allow_hyphen_values = true)]
    include: Vec<OsString>,
    /// As --exclude, for paths in which a regular expression is found; those of directories end with a slash
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    exclude_regex: Vec<OsString>,
    /// As --include, for paths in which a regular expression is found
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    include_regex: Vec<OsString>,
    /// Rules from a file or - for stdin, one a line: "- GLOB", "+ GLOB", "-~ REGEX", "+~ REGEX", # and ; comments
    #[arg(long, value_name = "FILE")]
    filter_from: Vec<OsString>,
    /// Leave out smaller files (bytes, or with K, M, G, T, P)
    #[arg(long, value_name = "SIZE")]
    min_size: Option<String>,
    /// Leave out larger files
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// Only what was changed before: 2026-01-31, '2026-01-31 12:00', 2026-01-31T12:00:00Z, or an age: 30d, 12h
    #[arg(long, value_name = "TIME|AGE")]
    older_than: Option<String>,
    /// Only what was changed then or later
    #[arg(long, value_name = "TIME|AGE")]
    newer_than: Option<String>,
    /// Which time the two are about
    #[arg(long, value_name = "mtime|atime|ctime", default_value = "mtime", hide_possible_values = true)]
    age_by: Time,
    /// Only these kinds: f, d, l, p, s, b, c as in find(1), with commas; directories always
    #[arg(long = "type", value_name = "LETTERS")]
    types: Option<String>,
    /// Only so many levels: 1 is what the root holds
    #[arg(long, value_name = "N")]
    max_depth: Option<u32>,
    /// Do not enter directories on other filesystems than the source's root; they are made
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Lustre: only files with data on this OST; may be given several times
    #[arg(long, value_name = "N")]
    on_ost: Vec<u32>,
    /// Lustre: only what lies on this MDT, but for directories; may be given several times
    #[arg(long, value_name = "N")]
    on_mdt: Vec<u32>,
    /// Lustre: only files in this pool; may be given several times
    #[arg(long, value_name = "NAME")]
    pool: Vec<String>,
    /// Only the paths in this file, or - for stdin, one a line, relative to the source; directories with all in them
    #[arg(long, value_name = "FILE")]
    files_from: Option<OsString>,
    /// Paths of --files-from end with NUL instead of newline
    #[arg(short = '0', long, requires = "files_from")]
    files_from_nul: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Time {
    Mtime,
    Atime,
    Ctime,
}

impl Args for FilterArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Options::augment_args_for_update(command)
    }
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for option in RULES {
            let at = matches.indices_of(option).into_iter().flatten();
            let values = matches.get_many::<OsString>(option).into_iter().flatten();
            given.extend(at.zip(values).map(|(at, value)| (at, option, value.clone())));
        }
        given.sort_by_key(|(at, ..)| *at);
        let given = given.into_iter().map(|(_, option, value)| (option, value)).collect();
        Ok(FilterArgs { options: Options::from_arg_matches(matches)?, given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl FilterArgs {
    /// Puts them into a policy, checked.
    ///
    /// # Errors
    /// What is wrong, in which option or file, and where.
    pub fn apply(&self, policy: &mut Policy) -> anyhow::Result<()> {
        policy.filter = self.filter(Timestamp::now())?;
        Ok(())
    }

    /// The list of paths that the job is limited to, checked.
    ///
    /// # Errors
    /// A list that cannot be read, or a line that is no path below the source; nothing was touched then.
    pub fn files_from(&self) -> anyhow::Result<Option<FilesFrom>> {
        let Some(file) = &self.options.files_from else { return Ok(None) };
        let end = if self.options.files_from_nul { 0 } else { b'\n' };
        FilesFrom::open(file, end).map(Some)
    }

    fn filter(&self, now: Timestamp) -> anyhow::Result<Filter> {
        let o = &self.options;
        let size =
            |text: &Option<String>, option: &'static str| text.as_deref().map(parse_size).transpose().context(option);
        let time = |text: &Option<String>, option: &'static str| {
            text.as_deref().map(|text| parse_time(text, now)).transpose().context(option)
        };
        let filter = Filter {
            rules: self.rules()?,
            min_size: size(&o.min_size, "--min-size")?,
            max_size: size(&o.max_size, "--max-size")?,
            older_than: time(&o.older_than, "--older-than")?,
            newer_than: time(&o.newer_than, "--newer-than")?,
            age_by: match o.age_by {
                Time::Mtime => AgeBy::Mtime,
                Time::Atime => AgeBy::Atime,
                Time::Ctime => AgeBy::Ctime,
            },
            kinds: o.types.as_deref().map(parse_kinds).transpose().context("--type")?,
            max_depth: o.max_depth,
            one_file_system: o.one_file_system,
            on_osts: o.on_ost.clone(),
            on_mdts: o.on_mdt.clone(),
            pools: o.pool.clone(),
        };
        if let (Some(min), Some(max)) = (filter.min_size, filter.max_size) {
            anyhow::ensure!(min <= max, "--min-size is more than --max-size: no file is both");
        }
        if let (Some(older), Some(newer)) = (filter.older_than, filter.newer_than) {
            anyhow::ensure!(newer < older, "--newer-than is not before --older-than: nothing is both");
        }
        Matcher::new(&filter)?;
        Ok(filter)
    }

    fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        let from_stdin = self.given.iter().filter(|(option, value)| *option == "filter_from" && value == "-").count();
        let lists = usize::from(self.options.files_from.as_deref() == Some(OsStr::new("-")));
        anyhow::ensure!(from_stdin + lists <= 1, "stdin (-) can be read once only: --filter-from, --files-from");
        let mut rules = Vec::new();
        for (option, value) in &self.given {
            let syntax = if option.ends_with("regex") { Syntax::Regex } else { Syntax::Glob };
            let include = option.starts_with("include");
            if *option == "filter_from" {
                rules.extend(rules_of_file(value)?);
            } else {
                rules.push(Rule { include, syntax, pattern: value.as_bytes().to_vec() });
            }
        }
        Ok(rules)
    }
}

fn parse_kinds(text: &str) -> anyhow::Result<Kinds> {
    let mut kinds = Kinds::default();
    for (at, letter) in text.bytes().enumerate().filter(|(_, letter)| *letter != b',') {
        anyhow::ensure!(
            kinds.insert_letter(letter),
            "'{}': position {}: f, d, l, p, s, b and c are known",
            escaped(text.as_bytes()),
            at + 1
        );
    }
    anyhow::ensure!(
        kinds != Kinds::default(),
        "'{}': no letter: f, d, l, p, s, b and c are known",
        escaped(text.as_bytes())
    );
    Ok(kinds)
}

fn rules_of_file(file: &OsStr) -> anyhow::Result<Vec<Rule>> {
    let shown = escaped(file.as_bytes());
    let mut text = Vec::new();
    // As much as there may be, with room for comments.
    let limit = 4 * MAX_PATTERN_BYTES;
    let read = if file == "-" {
        std::io::stdin().lock().take(limit as u64 + 1).read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|f| f.take(limit as u64 + 1).read_to_end(&mut text))
    };
    read.with_context(|| format!("--filter-from {shown}"))?;
    anyhow::ensure!(
        text.len() <= limit,
        "--filter-from {shown}: more than {limit} bytes; name paths with --files-from instead"
    );
    let lines = text.split(|b| *b == b'\n').enumerate();
    let rules = lines.filter_map(|(i, line)| {
        let rule = rule_of_line(line.strip_suffix(b"\r").unwrap_or(line)).transpose()?;
        Some(rule.map_err(|(at, why)| {
            anyhow::anyhow!(
                "--filter-from {shown}: line {}{}: {why}",
                i + 1,
                at.map_or_else(String::new, |at| format!(", position {at}"))
            )
        }))
    });
    rules.collect()
}

/// None for what is blank or a comment. An error is a position in the line, if there is one, and why.
fn rule_of_line(line: &[u8]) -> Result<Option<Rule>, (Option<usize>, String)> {
    let body = line.trim_ascii_start();
    if body.is_empty() || body.starts_with(b"#") || body.starts_with(b";") {
        return Ok(None);
    }
    let before = line.len() - body.len();
    let (include, syntax, pattern) = match body {
        [b'+', b' ', pattern @ ..] => (true, Syntax::Glob, pattern),
        [b'-', b' ', pattern @ ..] => (false, Syntax::Glob, pattern),
        [b'+', b'~', b' ', pattern @ ..] => (true, Syntax::Regex, pattern),
        [b'-', b'~', b' ', pattern @ ..] => (false, Syntax::Regex, pattern),
        _ => return Err((Some(before + 1), "a rule begins with '+ ', '- ', '+~ ' or '-~ '".to_owned())),
    };
    let rule = Rule { include, syntax, pattern: pattern.to_vec() };
    let start = line.len() - pattern.len();
    rule.check().map_err(|e| (e.position.map(|at| start + at), e.why))?;
    Ok(Some(rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        filter: FilterArgs,
    }

    fn filter(args: &[&[u8]]) -> anyhow::Result<Filter> {
        let args = std::iter::once(&b"x"[..]).chain(args.iter().copied());
        Line::try_parse_from(args.map(OsStr::from_bytes))?.filter.filter(Timestamp { sec: 1_000_000, ns: 1 })
    }

    #[test]
    fn rules_keep_the_order_of_the_command_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# comment\n\n ; another\n+ in\r\n  - out \n-~ re$\n+~ ^x\n").unwrap();
        let from = [b"--filter-from=", file.path().as_os_str().as_bytes()].concat();
        let args: [&[u8]; 6] =
            [b"--include", b"-a", b"--exclude-regex=b\xff", &from, b"--exclude=c", b"--include-regex=d"];
        let rules = filter(&args).unwrap().rules;
        let told: Vec<(&str, &[u8])> = rules.iter().map(|r| (r.option(), r.pattern.as_slice())).collect();
        let expected: [(&str, &[u8]); 8] = [
            ("--include", b"-a"),
            ("--exclude-regex", b"b\xff"),
            ("--include", b"in"),
            ("--exclude", b"out "),
            ("--exclude-regex", b"re$"),
            ("--include-regex", b"^x"),
            ("--exclude", b"c"),
            ("--include-regex", b"d"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn nothing_asked_is_an_empty_filter() {
        assert!(filter(&[]).unwrap().is_empty());
    }

    #[test]
    fn everything_else_arrives() {
        let args: [&[u8]; 9] = [
            b"--min-size=1K",
            b"--max-size=1M",
            b"--older-than=1d",
            b"--newer-than=2d",
            b"--age-by=ctime",
            b"--type=f,l",
            b"--max-depth=3",
            b"-x",
            b"--exclude=a",
        ];
        let f = filter(&args).unwrap();
        let at = |sec| Some(Timestamp { sec, ns: 1 });
        assert_eq!((f.min_size, f.max_size, f.max_depth), (Some(1024), Some(1 << 20), Some(3)));
        assert_eq!(
            (f.older_than, f.newer_than, f.age_by),
            (at(1_000_000 - 86_400), at(1_000_000 - 172_800), AgeBy::Ctime)
        );
        let kinds = f.kinds.unwrap();
        assert!(f.one_file_system && kinds == parse_kinds("lf").unwrap() && kinds != parse_kinds("f").unwrap());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let from = [b"--filter-from=", file.path().as_os_str().as_bytes()].concat();
        for (text, place) in [
            (&b"+ fine\n  - a[b\n"[..], "line 2, position 6: this '[' is never closed"),
            (b"\nexclude this\n", "line 2, position 1: a rule begins with"),
            (b"- ok\n-~ a(b\n", "line 2, position 5: unclosed group"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = format!("{:#}", filter(&[&from]).unwrap_err());
            assert!(error.contains(place) && error.contains("--filter-from"), "{error}");
        }
        let cases: [(&[&[u8]], &str); 9] = [
            (&[b"--exclude=a[b"], "--exclude 'a[b': position 2: this '[' is never closed"),
            (&[b"--min-size=x"], "--min-size: 'x' is no size"),
            (&[b"--older-than=soon"], "--older-than: 'soon' is no time"),
            (&[b"--type=f,q"], "--type: 'f,q': position 3: "),
            (&[b"--type=,"], "--type: ',': no letter"),
            (&[b"--min-size=2", b"--max-size=1"], "no file is both"),
            (&[b"--older-than=2d", b"--newer-than=1d"], "nothing is both"),
            (&[b"--filter-from=/no/such\n"], "--filter-from /no/such\\n: No such file"),
            (&[b"--filter-from=-", b"--files-from=-"], "stdin (-) can be read once only"),
        ];
        for (args, message) in cases {
            let error = format!("{:#}", filter(args).unwrap_err());
            assert!(error.contains(message), "{error}");
        }
    }
}
