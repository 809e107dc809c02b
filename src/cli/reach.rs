//! How a fleet is reached from the command line, and what came back is said.

use super::broker::BrokerArgs;
use super::{print_result, say};
use crate::broker::amqp::{AmqpConfig, Answers, JobState, Office, Stranger};
use crate::exit_code::ExitCode;
use crate::model::escaped;
use crate::model::filter::NameGlobs;
use crate::model::fleet::{Answer, Order};
use crate::node::NodeError;
use crate::node::json::missing_json;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::time::Duration;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Where the fleet is.
#[derive(Debug, Args)]
pub struct ReachArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Wait so long for workers that do not answer
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=600))]
    patience: u16,
}

/// Which workers are meant.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Only workers with such names (*, ?, [a-z], {a,b}); may be repeated
    #[arg(long = "node", value_name = "GLOB")]
    pub nodes: Vec<String>,
}

impl NodeArgs {
    /// The globs, if they can be understood.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn checked(&self) -> anyhow::Result<&[String]> {
        NameGlobs::new(&self.nodes).map_err(|e| anyhow::anyhow!("--node: {e}"))?;
        Ok(&self.nodes)
    }
}

impl ReachArgs {
    /// The broker.
    ///
    /// # Errors
    /// None is named, or what is wrong with it.
    pub fn config(&self) -> anyhow::Result<AmqpConfig> {
        self.broker.config()
    }

    /// A connection to it.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn office(&self) -> anyhow::Result<Office> {
        Ok(Office::connect(&self.config()?).map_err(NodeError::Broker)?)
    }

    /// How long workers are waited for.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.patience.into())
    }

    /// Gives an order.
    ///
    /// # Errors
    /// A glob that cannot be understood; [`NodeError`].
    pub fn ask(&self, nodes: &NodeArgs, order: &Order) -> anyhow::Result<Answers> {
        let nodes = nodes.checked()?;
        Ok(self.office()?.ask(nodes, order, self.patience()).map_err(NodeError::Broker)?)
    }
}

/// The job that a name, or the beginning of one, belongs to.
///
/// # Errors
/// There is none, or more than one.
pub fn find_job<'a>(jobs: &'a [JobState], prefix: &str) -> anyhow::Result<&'a JobState> {
    let mut found = jobs.iter().filter(|job| !prefix.is_empty() && job.spec.id.to_string().starts_with(prefix));
    let shown = escaped(prefix.as_bytes());
    match (found.next(), found.next()) {
        (Some(job), None) => Ok(job),
        (None, _) => anyhow::bail!("the broker knows no job '{shown}'"),
        (Some(a), Some(b)) => anyhow::bail!("'{shown}' may be {} or {}, among others", a.spec.id, b.spec.id),
    }
}

/// Says what workers did; the exit code says whether all did it.
pub fn tell_done(answers: &Answers, format: Format) -> ExitCode {
    if format == Format::Json {
        print_result(&done_json(answers).to_string());
    }
    let mut done = false;
    for (name, answer) in &answers.answers {
        let name = escaped(name.as_bytes());
        match answer {
            Answer::Done(what) => {
                done = true;
                if format == Format::Text {
                    print_result(&format!("{name}: {}", escaped(what.as_bytes())));
                }
            }
            Answer::Refused(_) => {} // said with those who are missing
            _ => say(&format!("{name} says something else")),
        }
    }
    tell_missing(answers);
    let refused = answers.answers.iter().any(|(_, answer)| !matches!(answer, Answer::Done(_)));
    if done && !refused && answers.silent == 0 { ExitCode::Complete } else { ExitCode::Infrastructure }
}

fn done_json(answers: &Answers) -> Value {
    let one = |(name, answer): &(String, Answer)| match answer {
        Answer::Done(what) => json!({"node": escaped(name.as_bytes()), "done": escaped(what.as_bytes())}),
        Answer::Refused(why) => json!({"node": escaped(name.as_bytes()), "refused": escaped(why.as_bytes())}),
        _ => json!({"node": escaped(name.as_bytes()), "refused": "says something else"}),
    };
    let mut all = missing_json(answers);
    all["answers"] = answers.answers.iter().map(one).collect();
    all
}

/// Says on stderr who is missing.
pub fn tell_missing(answers: &Answers) {
    for (name, answer) in &answers.answers {
        if let Answer::Refused(why) = answer {
            super::complain(&format!("{} refuses: {}", escaped(name.as_bytes()), escaped(why.as_bytes())));
        }
    }
    for stranger in &answers.strangers {
        super::complain(&stranger_text(stranger));
    }
    if answers.silent > 0 {
        super::complain(&silent_text(answers.silent));
    }
    if answers.answers.is_empty() {
        super::complain("treehaul: nobody answered: no worker of that name is there, or none at all");
    }
}

/// A stranger in words.
pub fn stranger_text(stranger: &Stranger) -> String {
    let (name, version) = (escaped(stranger.name.as_bytes()), escaped(stranger.version.as_bytes()));
    format!("{name} (treehaul {version}) {}", stranger.why())
}

/// How many do not answer, in words.
pub fn silent_text(silent: u32) -> String {
    match silent {
        1 => "1 worker that the broker knows did not answer in time".to_owned(),
        n => format!("{n} workers that the broker knows did not answer in time"),
    }
}

/// Rows in columns, the first row as a head.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|r| r.get(at)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_stand_below_each_other() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        assert_eq!(table(&[row(&["a", "b"]), row(&["long", "x"]), row(&["ü", ""])]), "a     b\nlong  x\nü");
    }
}
