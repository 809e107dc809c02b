//! A real carbon takes a real run, and a real graphite-web draws it.

use crate::brokers::until;
use crate::monitors::*;
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(300);

/// Queries of `render-urls.txt`.
fn urls() -> Vec<String> {
    let text = ops_text("graphite/render-urls.txt");
    let urls: Vec<String> = text.lines().filter(|line| line.starts_with("/render?")).map(str::to_owned).collect();
    assert!(urls.len() > 15);
    urls
}

/// Targets of Grafana's dashboard, where everything is chosen.
fn grafana_targets() -> Vec<String> {
    let text = ops_text("grafana/dashboards/treehaul-graphite.json");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let filled = |text: &str| text.replace("$prefix", "treehaul").replace("$job", "*").replace("$node", "*");
    let targets: Vec<String> = targets.filter_map(|t| t["target"].as_str()).map(filled).collect();
    assert!(targets.len() > 30);
    targets
}

/// What is between braces, one after the other.
fn alternatives(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (inside, after) = rest.split_once('}').expect("a closed brace");
    inside.split(',').flat_map(|one| alternatives(&format!("{before}{one}{after}"))).collect()
}

/// Patterns of paths in a query, without braces.
fn patterns(query: &str) -> BTreeSet<String> {
    let path = Regex::new(r"treehaul\.(?:[\w.*]|\{[\w,]+\})+").expect("a pattern");
    path.find_iter(query).flat_map(|found| alternatives(found.as_str())).collect()
}

/// A pattern as Graphite understands it: a star stays within a part.
fn matcher(pattern: &str) -> Regex {
    Regex::new(&format!("^{}$", regex::escape(pattern).replace(r"\*", "[^.]*"))).expect("a pattern")
}

/// Where pictures stay, for whoever wants to look at them.
fn gallery() -> std::path::PathBuf {
    let gallery = Path::new(env!("CARGO_TARGET_TMPDIR")).join("graphite");
    fs::create_dir_all(&gallery).expect("mkdir");
    gallery
}

#[test]
fn carbon_takes_a_run_and_every_url_draws_it() {
    let graphite = Graphite::start();
    let _busy = Busy::start("graph", &["--graphite", &format!("127.0.0.1:{}", graphite.carbon)]);

    let named: BTreeSet<String> = urls().iter().chain(&grafana_targets()).flat_map(|query| patterns(query)).collect();
    assert!(named.len() > 60, "{named:?}");
    let mut missing: Vec<Regex> = named.iter().map(|pattern| matcher(pattern)).collect();
    until("everything that is named is there", PATIENCE, || {
        let paths = graphite.paths();
        dwindle("not there", &mut missing, |pattern| paths.iter().any(|path| pattern.is_match(path)))
    });

    let render = |target: &String| format!("/render?target={}&from=-1hours", target.replace(' ', "%20"));
    let mut empty: Vec<String> = urls().into_iter().chain(grafana_targets().iter().map(render)).collect();
    until("every query gives numbers", PATIENCE, || {
        dwindle("empty", &mut empty, |query| graphite.numbers(query).iter().any(|(_, values)| !values.is_empty()))
    });

    let written =
        graphite.numbers("/render?target=sumSeries(perSecond(treehaul.*.*.{dirs,files}*.copied))&from=-1hours");
    assert!(written[0].1.iter().any(|rate| *rate > 0.0), "{written:?}");
    for (i, url) in urls().iter().enumerate().filter(|(_, url)| !url.contains("format=json")) {
        // An hour would be empty but for its end.
        let url = url.replace("from=-1hours", "from=-1minutes");
        let picture = graphite.get(&url).unwrap_or_else(|| panic!("no picture: {url}"));
        assert!(picture.starts_with(b"\x89PNG\r\n") && picture.len() > 4000, "{url}: {} bytes", picture.len());
        fs::write(gallery().join(format!("{:02}.png", i + 1)), picture).expect("write");
    }

    let file = ops("graphite/treehaul-dashboard.json");
    let ours: Value = serde_json::from_str(&fs::read_to_string(&file).expect("read")).expect("JSON");
    assert_eq!(graphite.save_dashboard(&file), ours, "graphite-web keeps it as it is");
    let drawn = urls().iter().filter(|url| !url.contains("format=json")).count();
    assert_eq!(ours["graphs"].as_array().map(Vec::len), Some(drawn));
    keeps_what_it_should(&graphite);
}

/// carbon makes minutes of seconds as each kind of figure needs it.
fn keeps_what_it_should(graphite: &Graphite) {
    let paths = graphite.paths();
    for (pattern, method) in [
        ("treehaul.*.*.files*.bytes", "last"),
        ("treehaul.jobs.*.done", "last"),
        ("treehaul.*.*.latency.*.count", "last"),
        ("treehaul.nodes.*.busy_files", "average"),
        ("treehaul.nodes.*.blocked", "max"),
        ("treehaul.jobs.*.queues.dirs.ready", "max"),
        ("treehaul.jobs.*.dead_letters", "max"),
        ("treehaul.jobs.*.target_free_bytes", "min"),
        ("treehaul.fleet.broker_up", "min"),
    ] {
        let path = paths.iter().find(|path| matcher(pattern).is_match(path)).expect(pattern);
        let kept = graphite.kept(path);
        assert!(
            kept.contains(&format!("aggregationMethod: {method}\n")) && kept.contains("xFilesFactor: 0"),
            "{path}: {kept}"
        );
    }
}
