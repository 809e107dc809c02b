//! What a dashboard knows, as OpenMetrics: jobs, queues, nodes. Counters of actors are the exporter's business.

use super::source::Seen;
use std::fmt::Write as _;

/// The content type of what is rendered.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels with their values.
type Labels<'a> = [(&'a str, &'a str)];

/// Families, one after the other.
struct Text(String);

impl Text {
    /// A family of gauges.
    fn family<'a, L: AsRef<Labels<'a>>>(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (L, f64)>) {
        // A string takes everything.
        let _ = writeln!(self.0, "# TYPE {name} gauge\n# HELP {name} {help}");
        for (labels, value) in series {
            self.0.push_str(name);
            for (at, (key, value)) in labels.as_ref().iter().enumerate() {
                let open = if at == 0 { '{' } else { ',' };
                let _ = write!(self.0, "{open}{key}=\"{}\"", quoted(value));
            }
            let close = if labels.as_ref().is_empty() { "" } else { "}" };
            let _ = writeln!(self.0, "{close} {value}");
        }
    }

    fn one(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, [([], value)]);
    }
}

fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Renders what was seen last, if it still holds.
pub fn render(seen: Option<&Seen>, is_up: bool) -> String {
    let mut text = Text(String::new());
    text.one("treehaul_broker_up", "What is watched answered the last look", truth(is_up));
    text.family("treehaul_build_info", "The dashboard", [([("version", env!("TREEHAUL_VERSION"))], 1.0)]);
    if let Some(seen) = seen.filter(|_| is_up) {
        jobs(&mut text, seen);
        queues(&mut text, seen);
        nodes(&mut text, seen);
    }
    text.0.push_str("# EOF\n");
    text.0
}

fn jobs(text: &mut Text, seen: &Seen) {
    let all: Vec<_> = seen.look.jobs.iter().map(|job| (job.state.spec.id.to_string(), job)).collect();
    let known: Vec<_> = all
        .iter()
        .filter_map(|(id, job)| {
            let sealed = job.state.end.as_ref().map(|(_, totals)| *totals);
            Some((id, sealed.or_else(|| job.progress.as_ref().map(|progress| progress.totals))?))
        })
        .collect();
    let states = |is: fn(&crate::node::JobLook) -> bool| {
        all.iter().map(move |(id, job)| ([("job", id.as_str())], truth(is(job))))
    };
    text.family("treehaul_job_running", "The job is not over", states(|job| !job.state.is_over()));
    text.family("treehaul_job_paused", "Nobody takes a task of the job", states(|job| job.state.paused));
    for (name, help, of) in [
        ("treehaul_job_entries_found", "Entries found", (|t| t.found) as fn(&crate::model::Totals) -> u64),
        ("treehaul_job_entries_done", "Entries that are done with", |t| t.done()),
        ("treehaul_job_entries_failed", "Entries that failed", |t| t.failed),
        ("treehaul_job_copied_bytes", "Data written", |t| t.bytes_copied),
    ] {
        text.family(name, help, known.iter().map(|(id, totals)| ([("job", id.as_str())], of(totals) as f64)));
    }
    let elapsed = all
        .iter()
        .filter_map(|(id, job)| Some(([("job", id.as_str())], job.progress.as_ref()?.elapsed_ms as f64 / 1000.0)));
    text.family("treehaul_job_elapsed_seconds", "Since the job was submitted", elapsed);
    let refusing = all.iter().map(|(id, job)| ([("job", id.as_str())], seen.look.refusals(job).count() as f64));
    text.family("treehaul_job_refusing_nodes", "Nodes that take no task of the job", refusing);
}

fn queues(text: &mut Text, seen: &Seen) {
    let all: Vec<_> = seen.look.jobs.iter().map(|job| (job.state.spec.id.to_string(), job)).collect();
    let tasks = || all.iter().flat_map(|(id, job)| job.queues.iter().map(move |queue| (id.as_str(), queue)));
    let of = |id, queue| [("job", id), ("queue", queue)];
    let ready = tasks().map(|(id, queue)| (of(id, queue.name), f64::from(queue.ready)));
    text.family("treehaul_queue_ready_messages", "Messages that wait", ready);
    let consumers = tasks().map(|(id, queue)| (of(id, queue.name), f64::from(queue.consumers)));
    text.family("treehaul_queue_consumers", "Those who take messages", consumers);
    let unsettled = all.iter().map(|(id, job)| ([("job", id.as_str())], job.unsettled as f64));
    text.family("treehaul_unacknowledged_messages", "Deliveries that nodes hold", unsettled);
    let dead = all.iter().map(|(id, job)| ([("job", id.as_str())], f64::from(job.ready("dead").unwrap_or(0))));
    text.family("treehaul_dead_letters", "Messages that could not be worked on", dead);
}

fn nodes(text: &mut Text, seen: &Seen) {
    let look = &seen.look;
    text.one("treehaul_nodes", "Nodes that answered", look.nodes.len() as f64);
    text.one("treehaul_silent_nodes", "Nodes that did not answer in time", f64::from(look.answers.silent));
    text.one("treehaul_stranger_nodes", "Nodes of other versions", look.answers.strangers.len() as f64);
    let all: Vec<_> = look.nodes.iter().map(|(name, info)| (crate::model::escaped(name.as_bytes()), info)).collect();
    let by_pool = |of: fn(&crate::model::fleet::NodeInfo) -> [u32; 2]| {
        all.iter().flat_map(move |(name, info)| {
            let pools = ["dirs", "files"].into_iter().zip(of(info));
            pools.map(move |(pool, n)| ([("node", name.as_str()), ("pool", pool)], f64::from(n)))
        })
    };
    text.family("treehaul_node_actors", "Actors", by_pool(|info| info.actors));
    text.family("treehaul_node_busy_actors", "Actors that have a task in hand", by_pool(|info| info.busy));
    for (name, help, of) in [
        (
            "treehaul_node_resident_memory_bytes",
            "Memory that the process holds",
            (|info| info.rss_bytes as f64) as fn(&crate::model::fleet::NodeInfo) -> f64,
        ),
        ("treehaul_node_load1", "Load of the host over a minute", |info| f64::from(info.load_milli) / 1000.0),
        ("treehaul_node_paused", "It takes no task", |info| truth(info.paused)),
        ("treehaul_node_broker_blocked", "The broker takes nothing from it", |info| truth(info.blocked)),
        ("treehaul_node_queue_wait_seconds", "How long tasks waited", |info| info.queue_wait_us as f64 / 1e6),
    ] {
        text.family(name, help, all.iter().map(|(node, info)| ([("node", node.as_str())], of(info))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_and_quotes_what_would_end_a_label() {
        let text = render(None, false);
        assert!(text.starts_with("# TYPE treehaul_broker_up gauge\n") && text.ends_with("\n# EOF\n"), "{text}");
        assert!(text.contains("\ntreehaul_broker_up 0\n"), "{text}");
        assert_eq!(quoted("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
