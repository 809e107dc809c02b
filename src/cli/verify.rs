//! `treehaul verify`.

use super::certificate::{Certificate, Destination};
use super::filter::FilterArgs;
use super::job::{FidelityArgs, JobArgs, Order, Tell};
use super::load::LoadArgs;
use super::summary::{self, Finished};
use crate::exit_code::ExitCode;
use crate::model::{Policy, escaped};
use crate::node::json::{escaped_once, finding_json};
use anyhow::Context;
use clap::Args;
use indicatif::{HumanBytes, HumanCount};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    what: WhatArgs,
    #[command(flatten)]
    fidelity: FidelityArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

/// What is compared beyond attributes, and how.
#[derive(Debug, Args)]
struct WhatArgs {
    /// Read the contents of all files on both sides and compare them
    #[arg(long)]
    content: bool,
    /// With --content: of so many of a hundred files only, chosen by a hash of the path
    #[arg(long, value_name = "P%", value_parser = sample, requires = "content")]
    sample: Option<u32>,
    /// With --content: read from the medium, not from this machine's memory, and leave nothing there
    #[arg(long, requires = "content")]
    no_cache: bool,
    /// Compare times at this granularity (1, 2, 0.001) [default: what both filesystems keep]
    #[arg(long, value_name = "SECONDS", value_parser = granularity)]
    modify_window: Option<u32>,
    /// Write a certificate to this file, if the trees are the same
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

/// Parts of a million, from a percentage.
fn sample(text: &str) -> Result<u32, String> {
    let percent: f64 = text.strip_suffix('%').unwrap_or(text).parse().map_err(|_| "no percentage".to_owned())?;
    let ppm = (percent * 10_000.0).round();
    if !(1.0..=1_000_000.0).contains(&ppm) {
        return Err("a percentage from 0.0001 to 100".into());
    }
    Ok(ppm as u32)
}

/// Nanoseconds, from seconds: whole ones up to 4, or a part that divides one.
fn granularity(text: &str) -> Result<u32, String> {
    const SECOND: f64 = 1e9;
    let ns = (text.parse::<f64>().map_err(|_| "no number of seconds".to_owned())? * SECOND).round();
    let is_whole = (1.0..=4.0).contains(&(ns / SECOND)) && ns % SECOND == 0.0;
    let divides = (1.0..SECOND).contains(&ns) && SECOND % ns == 0.0;
    if is_whole || divides { Ok(ns as u32) } else { Err("1, 2, 3 or 4, or a part that divides a second: 0.001".into()) }
}

/// A key for the job's hashes.
fn salt() -> anyhow::Result<[u8; 32]> {
    let mut salt = [0; 32];
    let got = rustix::rand::getrandom(&mut salt[..], rustix::rand::GetRandomFlags::empty());
    anyhow::ensure!(got.context("the system gives no random numbers")? == salt.len(), "too few random numbers");
    Ok(salt)
}

impl VerifyArgs {
    /// Only submits the job.
    pub fn detach(&mut self) {
        self.job.detach();
    }
}

/// Runs the command.
pub fn run(args: VerifyArgs) -> ExitCode {
    let VerifyArgs { job, what, fidelity, filter, load } = args;
    let fleet = job.has_fleet();
    let destination = match what.certificate.as_deref().map(|file| Destination::new(file, job.roots())).transpose() {
        Ok(destination) => destination,
        Err(e) => return super::refuse(&e),
    };
    let order = || {
        load.be_nice(fleet)?;
        let mut policy = Policy { limits: load.limits(), ..Policy::default() };
        fidelity.apply(&mut policy);
        policy.verify.content = what.content;
        policy.verify.sample_ppm = what.sample.unwrap_or(1_000_000);
        policy.verify.no_cache = what.no_cache;
        policy.verify.granularity_ns = what.modify_window.unwrap_or(1);
        policy.verify.salt = salt()?;
        filter.apply(&mut policy)?;
        Ok(Order { files: filter.files_from()?, ..Order::new("verify", policy) })
    };
    job.run_and(order, |f, tell| say(f, tell, destination.as_ref()))
}

/// Says how it ended.
pub fn tell(f: &Finished<'_>, tell: Tell) -> ExitCode {
    say(f, tell, None)
}

/// Says how it ended, and writes the certificate if there is to be one.
fn say(f: &Finished<'_>, tell: Tell, destination: Option<&Destination>) -> ExitCode {
    let written = destination.map(|d| Certificate::of(f).and_then(|c| d.write(&c).map_err(|e| format!("{e:#}"))));
    if tell.json {
        super::print_result(&json(f, written.as_ref()).to_string());
    } else if !tell.quiet {
        super::print_result(text(f).trim_end());
    }
    let mut trouble = summary::trouble(f);
    let code = match (written, f.exit_code()) {
        (Some(Err(why)), code) => {
            let _ = writeln!(trouble, "treehaul: no certificate was written: {why}");
            if code == ExitCode::Complete { ExitCode::FailedEntries } else { code }
        }
        (Some(Ok(())), code) => {
            if let (false, false, Some(d)) = (tell.json, tell.quiet, destination) {
                super::print_result(&format!("  certificate: {}", d.shown()));
            }
            code
        }
        (None, code) => code,
    };
    if !trouble.is_empty() {
        super::complain(trouble.trim_end());
    }
    code
}

/// Why the sums cannot be relied on.
pub const UNCERTAIN: &str = "the fingerprint is not certain: a worker died, was stopped or lost the broker, and \
                             what it had in hand may have been counted twice; verify once more";

fn json(f: &Finished<'_>, written: Option<&Result<(), String>>) -> serde_json::Value {
    let mut object = summary::json(f);
    let [source, target] = f.snapshot.sums.map(|s| s.fingerprint().to_string());
    object["fingerprint"] = serde_json::json!({
        "source": source,
        "target": target,
        "certain": !f.snapshot.uncertain,
    });
    object["differences"] = serde_json::json!(f.snapshot.kinds);
    object["findings"] = f.snapshot.findings.iter().map(finding_json).collect();
    if let Some(written) = written {
        object["certificate"] = written.is_ok().into();
        object["certificate_reason"] = written.as_ref().err().map(|why| escaped(why.as_bytes())).into();
    }
    object
}

fn text(f: &Finished<'_>) -> String {
    let (s, t) = (&f.snapshot, &f.snapshot.totals);
    let verdict = match f.exit_code() {
        ExitCode::Complete => "the same",
        ExitCode::Different => "different",
        _ => f.status(),
    };
    let mut out = format!(
        "{verdict}: {} entries in {}: {} the same, {} different",
        HumanCount(t.found),
        summary::duration(s.elapsed),
        HumanCount(t.same),
        HumanCount(t.different),
    );
    for (n, what) in [
        (t.failed, "could not be compared"),
        (t.vanished, "vanished while they were compared"),
        (t.filtered, "left out"),
    ] {
        if n > 0 {
            let _ = write!(out, ", {} {what}", HumanCount(n));
        }
    }
    let _ = write!(out, "\n  {} files of {}", HumanCount(t.files), HumanBytes(t.bytes_found));
    if t.bytes_read > 0 {
        let rate = t.bytes_read as f64 / s.elapsed.as_secs_f64().max(1e-9);
        let _ = write!(out, ", {} read and compared at {}/s", HumanBytes(t.bytes_read), HumanBytes(rate as u64));
    }
    let [source, target] = s.sums.map(|sum| sum.fingerprint());
    let _ = write!(out, "\n  fingerprint of the source: {source}\n  fingerprint of the target: {target}");
    if s.uncertain {
        let _ = write!(out, "\n  {UNCERTAIN}");
    }
    for (kind, n) in &s.kinds {
        let words = match kind.as_str() {
            "missing" => "only in the source".to_owned(),
            "extra" => "only in the target".to_owned(),
            other => format!("different {}", escaped_once(other)),
        };
        let _ = write!(out, "\n  {words}: {}", HumanCount(*n));
    }
    for found in &s.findings {
        let path = if found.path.is_empty() { ".".to_owned() } else { escaped(&found.path) };
        let [what, expected, there] = [&found.what, &found.expected, &found.found].map(|words| escaped_once(words));
        let _ = match what.as_str() {
            "missing" => write!(out, "\n  {path}: only in the source"),
            "extra" => write!(out, "\n  {path}: only in the target"),
            _ => write!(out, "\n  {path}: {what}: {expected} in the source, {there} in the target"),
        };
    }
    let more = s.kinds.values().sum::<u64>().saturating_sub(s.findings.len() as u64);
    if more > 0 {
        let _ = write!(out, "\n  ... and {} more differences; --report FILE lists all", HumanCount(more));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_and_granularities_are_what_was_meant_or_refused() {
        assert_eq!([sample("5%"), sample("0.01"), sample("100")], [Ok(50_000), Ok(100), Ok(1_000_000)]);
        assert!(["0", "101", "-1", "x", "nan"].iter().all(|t| sample(t).is_err()));
        assert_eq!(
            [granularity("2"), granularity("0.001"), granularity("1")],
            [Ok(2_000_000_000), Ok(1_000_000), Ok(1_000_000_000)]
        );
        assert!(["0", "0.003", "1.5", "5", "-1", "nan", "inf"].iter().all(|t| granularity(t).is_err()));
    }
}
