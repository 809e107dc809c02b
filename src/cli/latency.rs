//! `treehaul inspect latency`: how long calls on filesystems took.

use super::control::with_refusal;
use super::nodes::code_of;
use super::print_result;
use super::reach::{Format, NodeArgs, ReachArgs, table, tell_missing};
use crate::broker::amqp::Answers;
use crate::exit_code::ExitCode;
use crate::model::escaped;
use crate::model::fleet::{Answer, JobLatencies};
use crate::model::latency::{Call, Histogram};
use crate::node::json::missing_json;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Arguments of `inspect latency`.
#[derive(Debug, Args)]
pub struct LatencyArgs {
    #[command(flatten)]
    nodes: NodeArgs,
    /// Only of the job with this id, or the beginning of it
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// Add up all workers
    #[arg(long)]
    sum: bool,
    #[command(flatten)]
    reach: ReachArgs,
}

/// Times by node and call; the node is empty if all are added up.
type Times = BTreeMap<(String, Call), Histogram>;

/// Runs the command.
pub fn inspect(args: &LatencyArgs) -> ExitCode {
    with_refusal(|| {
        let answers = args.reach.ask(&args.nodes, &crate::model::fleet::Order::Latencies)?;
        let times = times_of(&answers, args.job.as_deref(), args.sum);
        match args.reach.format {
            Format::Json => print_result(&latency_json(&answers, &times).to_string()),
            Format::Text if answers.answers.is_empty() => {}
            Format::Text if times.is_empty() => print_result("nothing was timed"),
            Format::Text => print_result(&latency_text(&times)),
        }
        tell_missing(&answers);
        Ok(code_of(&answers))
    })
}

fn times_of(answers: &Answers, job: Option<&str>, sum: bool) -> Times {
    let mut times = Times::new();
    for (name, answer) in &answers.answers {
        let Answer::Latencies(jobs) = answer else { continue };
        let is_meant = |one: &&JobLatencies| job.is_none_or(|prefix| one.job.to_string().starts_with(prefix));
        for (call, histogram) in jobs.iter().filter(is_meant).flat_map(|one| &one.calls) {
            let node = if sum { String::new() } else { escaped(name.as_bytes()) };
            times.entry((node, *call)).or_default().add(histogram);
        }
    }
    times
}

/// A time as people read it: 1.5 ms.
pub fn seconds_text(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.0} us", s * 1e6),
    }
}

fn latency_text(times: &Times) -> String {
    let mut rows = vec![["NODE", "OPERATION", "COUNT", "MEAN", "P50 <", "P99 <"].map(str::to_owned).to_vec()];
    let text = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), seconds_text);
    for ((node, call), histogram) in times {
        rows.push(vec![
            if node.is_empty() { "(all)".to_owned() } else { node.clone() },
            call.word().to_owned(),
            histogram.count().to_string(),
            text(histogram.mean_seconds()),
            text(histogram.quantile_seconds(0.5)),
            text(histogram.quantile_seconds(0.99)),
        ]);
    }
    table(&rows)
}

fn latency_json(answers: &Answers, times: &Times) -> Value {
    let one = |((node, call), histogram): (&(String, Call), &Histogram)| {
        json!({
            "node": if node.is_empty() { Value::Null } else { node.clone().into() },
            "operation": call.word(),
            "count": histogram.count(),
            "sum_seconds": histogram.sum_ns as f64 / 1e9,
            "mean_seconds": histogram.mean_seconds(),
            "p50_seconds": histogram.quantile_seconds(0.5),
            "p99_seconds": histogram.quantile_seconds(0.99),
        })
    };
    let mut all = missing_json(answers);
    all["latency"] = times.iter().map(one).collect();
    all["answered"] = answers.answers.iter().map(|(name, _)| escaped(name.as_bytes())).collect();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::JobId;

    fn histogram(ns: &[u64]) -> Histogram {
        let mut all = Histogram::default();
        for ns in ns {
            all.counts[Histogram::bucket(*ns)] += 1;
            all.sum_ns += ns;
        }
        all
    }

    #[test]
    fn times_are_shown_by_node_or_added_up_and_of_one_job_if_wanted() {
        let (a, b) = (JobId::random(), JobId::random());
        let evil = "\x1b[2J";
        let of = |job, calls: &[(Call, &[u64])]| JobLatencies {
            job,
            calls: calls.iter().map(|(call, ns)| (*call, histogram(ns))).collect(),
        };
        let first = vec![of(a, &[(Call::Stat, &[1500, 2_500_000])]), of(b, &[(Call::Open, &[70_000_000_000])])];
        let second = vec![of(a, &[(Call::Stat, &[500])])];
        let told = |name: &str, all| (name.to_owned(), Answer::Latencies(all));
        let answers = Answers { answers: vec![told(evil, first), told("n2", second)], ..Answers::default() };

        let summed = times_of(&answers, None, true);
        let counts: Vec<_> = summed.iter().map(|((_, call), times)| (*call, times.count())).collect();
        assert_eq!(counts, [(Call::Stat, 3), (Call::Open, 1)]);
        let text = latency_text(&summed);
        assert!(text.contains("(all)  stat       3      834 us   2 us     4.10 ms"), "{text}");
        assert!(text.contains("open       1      70.00 s  67.11 s  67.11 s"), "{text}");

        let own = times_of(&answers, Some(&a.to_string()[..12]), false);
        let names: Vec<_> = own.keys().map(|(node, call)| (node.as_str(), *call)).collect();
        assert_eq!(names, [("\\x1b[2J", Call::Stat), ("n2", Call::Stat)]);
        let json = latency_json(&answers, &own);
        assert_eq!(json["latency"][1]["node"], "n2");
        assert_eq!(
            (json["latency"][0]["count"].as_u64(), json["latency"][0]["sum_seconds"].as_f64()),
            (Some(2), Some(0.002_501_5))
        );
        assert!(!latency_text(&own).contains('\x1b') && !json.to_string().contains('\x1b'));
        assert!(times_of(&answers, Some("nobody's"), false).is_empty());
    }
}
