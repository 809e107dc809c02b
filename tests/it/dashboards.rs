//! Dashboards, rules and queries: they are whole, and what they name is what the exporter really emits.

use crate::brokers::until;
use crate::monitors::*;
use crate::support::*;
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(300);
const SOURCES: [&str; 2] = ["prometheus", "graphite"];
/// Panels that Grafana has without a plugin.
const PANELS: &[&str] = &["bargauge", "heatmap", "row", "stat", "table", "timeseries"];

fn dashboard(source: &str) -> Value {
    serde_json::from_str(&ops_text(&format!("grafana/dashboards/treehaul-{source}.json"))).expect("JSON")
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], Vec::as_slice)
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(dashboard, "panels").iter().filter(|panel| panel["type"] != "row")
}

fn word<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_default()
}

/// Title and expression of every target.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let of_panel = |panel: &Value| -> Vec<(String, String)> {
        let expr = |target: &Value| format!("{}{}", word(target, "expr"), word(target, "target"));
        list(panel, "targets").iter().map(|target| (word(panel, "title").to_owned(), expr(target))).collect()
    };
    panels(dashboard).flat_map(of_panel).collect()
}

/// Every text in it.
fn texts<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => into.push(text),
        Value::Array(all) => all.iter().for_each(|one| texts(one, into)),
        Value::Object(all) => all.values().for_each(|one| texts(one, into)),
        _ => {}
    }
}

#[test]
fn dashboards_are_what_their_table_says() {
    let s = Scratch::new();
    let ran = run(Command::new("python3").arg(ops("make-dashboards.py")).arg(s.path()));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    for name in [
        "grafana/dashboards/treehaul-prometheus.json",
        "grafana/dashboards/treehaul-graphite.json",
        "graphite/treehaul-dashboard.json",
    ] {
        let made = std::fs::read_to_string(s.join(name)).expect("made");
        assert!(made == ops_text(name), "{name} is not what ops/make-dashboards.py writes: run it");
    }
}

#[test]
fn panels_have_numbers_of_their_own_and_do_not_overlap() {
    for source in SOURCES {
        let dashboard = dashboard(source);
        assert!(dashboard["schemaVersion"].as_u64().is_some_and(|n| (36..=42).contains(&n)));
        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in list(&dashboard, "panels") {
            let title = word(panel, "title");
            assert!(PANELS.contains(&word(panel, "type")), "{title}: {}", panel["type"]);
            assert!(panel["id"].as_u64().is_some_and(|id| ids.insert(id)), "{title}: {}", panel["id"]);
            let at = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("{title}: no {name}"));
            assert!(at("w") > 0 && at("h") > 0 && at("x") + at("w") <= 24, "{title}");
            let cells = (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)));
            for cell in cells {
                assert!(taken.insert(cell), "{source}: {title} lies over another panel at {cell:?}");
            }
        }
        assert!(ids.len() > 20, "{source}");
    }
}

#[test]
fn panels_ask_the_chosen_source_for_something() {
    for source in SOURCES {
        let dashboard = dashboard(source);
        for panel in panels(&dashboard) {
            let title = word(panel, "title");
            let targets = list(panel, "targets");
            let names: BTreeSet<_> = targets.iter().map(|target| word(target, "refId")).collect();
            assert!(!targets.is_empty() && names.len() == targets.len(), "{source}: {title}");
            for asks in targets.iter().chain([panel]) {
                assert_eq!(asks["datasource"]["uid"], "${datasource}", "{source}: {title}");
                assert_eq!(asks["datasource"]["type"], source, "{source}: {title}");
            }
        }
        for (title, expression) in expressions(&dashboard) {
            assert!(!expression.trim().is_empty(), "{source}: {title}");
            let open = |c: char| expression.matches(c).count();
            assert_eq!((open('('), open('{'), open('[')), (open(')'), open('}'), open(']')), "{title}: {expression}");
        }
    }
}

#[test]
fn variables_that_are_used_are_there_and_the_other_way_round() {
    let used = Regex::new(r"\$\{?(\w+)").expect("a pattern");
    for source in SOURCES {
        let dashboard = dashboard(source);
        let variables = list(&dashboard["templating"], "list");
        let there: BTreeSet<&str> = variables.iter().map(|v| word(v, "name")).collect();
        assert!(there.is_superset(&BTreeSet::from(["datasource", "job", "node"])), "{there:?}");
        let chosen = variables.iter().find(|v| v["name"] == "datasource").expect("is there");
        assert_eq!((word(chosen, "type"), word(chosen, "query")), ("datasource", source));
        let mut all = Vec::new();
        texts(&dashboard, &mut all);
        let named: BTreeSet<&str> =
            all.iter().flat_map(|text| used.captures_iter(text)).filter_map(|c| Some(c.get(1)?.as_str())).collect();
        let named: BTreeSet<&str> = named.into_iter().filter(|name| !name.starts_with("__")).collect();
        assert_eq!(named, there, "{source}");
    }
}

#[test]
fn provisioning_names_both_sources_and_the_folder_of_the_dashboards() {
    let read = |name: &str| {
        let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
        run(Command::new("/usr/bin/python3").args(["-c", script]).arg(ops(name))).json()
    };
    let sources = read("grafana/provisioning/datasources/treehaul.yml");
    let kinds: Vec<&str> = list(&sources, "datasources").iter().map(|one| word(one, "type")).collect();
    assert_eq!(kinds, SOURCES);
    let providers = read("grafana/provisioning/dashboards/treehaul.yml");
    let folder = word(&providers["providers"][0]["options"], "path").to_owned();
    assert!(ops_text("README.md").contains(&format!("-t {folder} ops/grafana/dashboards/*.json")), "{folder}");
}

#[test]
fn prometheus_understands_configuration_and_rules_and_alerts_fire_when_they_must() {
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "treehaul.rules.yml"],
        ["test", "rules", "treehaul.rules.test.yml"],
    ] {
        let ran = run(Command::new("promtool").args(arguments).current_dir(ops("prometheus")));
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    }
}

#[test]
fn every_alert_is_tried_and_says_what_to_do() {
    let (rules, tests) = (ops_text("prometheus/treehaul.rules.yml"), ops_text("prometheus/treehaul.rules.test.yml"));
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 15);
    for alert in alerts {
        let name = alert.lines().next().expect("a name");
        assert!(tests.contains(&format!("alertname=\"{name}\",alertstate=\"firing\"")), "{name} is not tried");
        let severity = ["critical", "warning", "info"].iter().any(|s| alert.contains(&format!("severity: {s}\n")));
        assert!(severity && alert.contains("summary: ") && alert.contains("description: >-"), "{name}");
    }
}

#[test]
fn carbon_understands_how_long_to_keep_what() {
    let name = "graphite/storage-schemas.conf";
    let ran = run(Command::new("validate-storage-schemas").arg(ops(name)));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let retentions = ops_text(name);
    let retentions: Vec<&str> = retentions.lines().filter(|line| line.starts_with("retentions")).collect();
    assert_eq!(retentions.len(), 2);
    assert!(retentions.iter().all(|line| line.starts_with("retentions = 10s:")), "the exporter's default interval");
}

/// Names of metrics in an expression of Prometheus; those of recorded ones have colons.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let texts = Regex::new(r#""[^"]*""#).expect("a pattern");
    let names = Regex::new(r"\b(?:\w+:)?treehaul_\w+(?::\w+)?").expect("a pattern");
    names.find_iter(&texts.replace_all(expression, "")).map(|name| name.as_str().to_owned()).collect()
}

/// As Grafana fills it in where everything is chosen.
fn filled(expression: &str, wildcard: &str) -> String {
    let filled = expression.replace("$__rate_interval", "20s").replace("$prefix", "treehaul");
    filled.replace("$job", wildcard).replace("$node", wildcard)
}

#[test]
fn prometheus_finds_every_name_and_shows_a_job() {
    let busy = Busy::start("proms", &[]);
    let prometheus = Prometheus::start(busy.metrics);
    let rules = prometheus.rules();
    let recorded: BTreeSet<String> =
        rules.iter().filter(|r| r["type"] == "recording").map(|r| word(r, "name").to_owned()).collect();
    assert!(recorded.len() > 5 && rules.len() > recorded.len() + 15, "{rules:?}");

    let asked = expressions(&dashboard("prometheus"));
    let mut named: BTreeSet<String> = rules.iter().flat_map(|rule| metrics_of(word(rule, "query"))).collect();
    named.extend(asked.iter().flat_map(|(_, expression)| metrics_of(expression)));
    for variable in list(&dashboard("prometheus")["templating"], "list") {
        named.extend(metrics_of(word(variable, "query")));
    }
    // The first figures of calls come some seconds after the first calls.
    let mut missing = Vec::from_iter(named);
    until("everything that is named is emitted", PATIENCE, || {
        let text = busy.text().unwrap_or_default();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let emitted: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
        dwindle("not emitted", &mut missing, |name| emitted.contains(name.as_str()) || recorded.contains(name))
    });

    let mut empty = asked;
    until("every panel shows something", PATIENCE, || {
        dwindle("empty", &mut empty, |(title, expression)| {
            let found = prometheus.query(&filled(expression, ".*"));
            let found = found.unwrap_or_else(|error| panic!("{title}: {expression}: {error}"));
            found.iter().any(|(_, value)| value.is_finite())
        })
    });
    let up = prometheus.query("up{job=\"treehaul\"}").expect("understood");
    assert_eq!(up.len(), 1, "the exporter is found under its own name");
    // A fleet at work is nothing to be called for; how full this machine is, others decide.
    let firing = "ALERTS{alertstate=\"firing\",alertname!~\"TreehaulTarget.+\"}";
    let alerts = prometheus.query(firing).expect("understood");
    assert!(alerts.is_empty(), "{alerts:?}");
    let ill: Vec<&Value> = rules.iter().filter(|rule| !word(rule, "lastError").is_empty()).collect();
    assert!(ill.is_empty(), "{ill:?}");
}
