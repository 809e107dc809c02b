#!/usr/bin/env python3
"""Writes the dashboards from one table of panels, so that those of Grafana show the same of Prometheus and of Graphite, and
graphite-web's shows what render-urls.txt shows.

    ops/make-dashboards.py [DIRECTORY]      ops/ is the default

What is written is part of the repository: change this file or graphite/render-urls.txt, and run it.
"""

import json
import os
import sys
from urllib.parse import parse_qsl, urlencode

HERE = os.path.dirname(os.path.abspath(__file__))
# Grafana 10 and later read it as it is; Grafana upgrades older ones by itself.
SCHEMA_VERSION = 39
WIDTH = 24

JOB = 'job=~"$job"'
NODE = 'node=~"$node"'
BOTH = JOB + "," + NODE
# Counters that say what became of an entry: Prometheus family, key in memcached and Graphite, colour.
OUTCOMES = [
    ("copied", "copied", "green"),
    ("updated", "updated", "blue"),
    ("skipped", "skipped", "#808080"),
    ("deleted", "deleted", "purple"),
    ("filtered", "filtered", "#b0a080"),
    ("same", "same", "super-light-green"),
    ("different", "different", "orange"),
    ("changed", "changed", "yellow"),
    ("vanished", "vanished", "light-blue"),
    ("failed", "failed", "red"),
]
LOST = [
    ("owners", "lost_owner"),
    ("modes", "lost_mode"),
    ("times", "lost_times"),
    ("xattrs", "lost_xattrs"),
    ("acls", "lost_acls"),
    ("hard_links", "lost_links"),
    ("projects", "lost_projects"),
    ("layouts", "lost_layouts"),
    ("pools", "lost_pools"),
]
RATE = "[$__rate_interval]"


def counter(name):
    """Graphite: a counter of all actors, as a rate."""
    return f"perSecond($prefix.$job.$node.{{dirs,files}}*.{name})"


def job(name):
    return f"$prefix.jobs.$job.{name}"


def node(name):
    return f"$prefix.nodes.$node.{name}"


def calls(what):
    return f"$prefix.$job.$node.latency.*.{what}"


class Panel:
    """A panel: targets of Prometheus are (expression, legend), those of Graphite are expressions."""

    def __init__(self, kind, title, size, unit, prometheus, graphite, about=None, **more):
        self.kind, self.title, self.size, self.unit, self.about = kind, title, size, unit, about
        self.targets = {"prometheus": prometheus, "graphite": graphite}
        self.more = more

    def json(self, source, number, at):
        panel = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "datasource": {"type": source, "uid": "${datasource}"},
            "gridPos": {"x": at[0], "y": at[1], "w": self.size[0], "h": self.size[1]},
            "fieldConfig": {"defaults": self.defaults(), "overrides": self.more.get("overrides", [])},
            "options": self.options(),
            "targets": [self.target(source, i, t) for i, t in enumerate(self.targets[source])],
        }
        if self.about:
            panel["description"] = self.about
        if source == "prometheus" and "transformations" in self.more:
            panel["transformations"] = self.more["transformations"]
        return panel

    def target(self, source, i, target):
        one = {"refId": chr(ord("A") + i), "datasource": {"type": source, "uid": "${datasource}"}}
        if source == "graphite":
            return one | {"target": target, "textEditor": True}
        expr, legend = target
        one |= {"expr": expr, "legendFormat": legend, "editorMode": "code"}
        if self.kind == "table":
            return one | {"instant": True, "range": False, "format": "table"}
        if self.kind == "heatmap":
            return one | {"range": True, "format": "heatmap"}
        return one | {"range": True}

    def defaults(self):
        defaults = {"unit": self.unit, "min": 0, "color": {"mode": "palette-classic"}}
        if self.kind == "timeseries":
            stacked = self.more.get("stacked", False)
            defaults["custom"] = {
                "drawStyle": "line",
                "lineWidth": 1 if stacked else 2,
                "fillOpacity": 45 if stacked else 8,
                "showPoints": "never",
                "spanNulls": 60000,
                "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
            }
        if "steps" in self.more:
            steps = [{"color": colour, "value": value} for value, colour in self.more["steps"]]
            defaults["thresholds"] = {"mode": "absolute", "steps": steps}
            if self.kind in ("stat", "bargauge"):
                defaults["color"] = {"mode": "thresholds"}
        if "max" in self.more:
            defaults["max"] = self.more["max"]
        return defaults

    def options(self):
        last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        if self.kind == "timeseries":
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        if self.kind == "stat":
            graph = "area" if self.more.get("graph", False) else "none"
            return {"reduceOptions": last, "colorMode": "value", "graphMode": graph, "textMode": "value", "justifyMode": "center"}
        if self.kind == "bargauge":
            return {"reduceOptions": last, "orientation": "horizontal", "displayMode": "basic", "valueMode": "color"}
        if self.kind == "heatmap":
            return {"calculate": False, "color": {"mode": "scheme", "scheme": "Spectral"}, "yAxis": {"unit": self.unit}}
        return {"showHeader": True, "cellHeight": "sm"}


def stat(title, unit, prometheus, graphite, about=None, **more):
    return Panel("stat", title, (4, 4), unit, [(prometheus, "")], [graphite], about, **more)


def lines(title, width, unit, prometheus, graphite, about=None, **more):
    return Panel("timeseries", title, (width, 8), unit, prometheus, graphite, about, **more)


def coloured(name, colour):
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def column(name, *properties):
    return {"matcher": {"id": "byName", "options": name}, "properties": [{"id": i, "value": v} for i, v in properties]}


GOOD_IS_ONE = [(None, "red"), (1, "green")]
GOOD_IS_ZERO = [(None, "green"), (1, "red")]

JOBS_TABLE = Panel(
    "table",
    "Jobs",
    (24, 7),
    "short",
    [
        (f"treehaul_job_info{{{JOB}}}", ""),
        (f"job:treehaul_done:ratio{{{JOB}}}", ""),
        (f"job:treehaul_entries_done:rate2m{{{JOB}}}", ""),
        (f"job:treehaul_copied_bytes:rate2m{{{JOB}}}", ""),
        (f"job:treehaul_remaining:seconds{{{JOB}}}", ""),
        (f"treehaul_job_elapsed_seconds{{{JOB}}}", ""),
        (f"treehaul_job_entries_failed{{{JOB}}}", ""),
        (f"treehaul_job_refusing_nodes{{{JOB}}}", ""),
    ],
    [],
    "How far each job is, of what has been found by now: while the walk goes on, more is found.",
    transformations=[
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True, "instance": True, "__name__": True, "Value #A": True},
                "indexByName": {n: i for i, n in enumerate(["job", "pass", "source", "target", "standing"])},
                "renameByName": {
                    "Value #B": "done",
                    "Value #C": "entries/s",
                    "Value #D": "data/s",
                    "Value #E": "time left",
                    "Value #F": "since",
                    "Value #G": "failed",
                    "Value #H": "nodes that refuse",
                },
            },
        },
    ],
    overrides=[
        column("done", ("unit", "percentunit"), ("max", 1), ("custom.cellOptions", {"type": "gauge", "mode": "basic"})),
        column("entries/s", ("decimals", 0)),
        column("data/s", ("unit", "binBps")),
        column("time left", ("unit", "dtdurations")),
        column("since", ("unit", "dtdurations")),
        column("failed", ("custom.cellOptions", {"type": "color-text"}), ("color", {"mode": "thresholds"}),
               ("thresholds", {"mode": "absolute", "steps": [{"color": "text", "value": None}, {"color": "red", "value": 1}]})),
    ],
)

ROWS = [
    (
        "Jobs",
        [
            stat("Jobs under way", "short", f"sum(treehaul_job_running{{{JOB}}})", f"sumSeries({job('running')})"),
            stat("Workers", "short", "treehaul_nodes", "$prefix.fleet.nodes", steps=[(None, "red"), (1, "green")]),
            stat("Entries a second", "cps", f"sum(job:treehaul_entries_done:rate2m{{{JOB}}})",
                 f"sumSeries(perSecond({job('done')}))", graph=True),
            stat("Data a second", "binBps", f"sum(job:treehaul_copied_bytes:rate2m{{{JOB}}})",
                 f"sumSeries(perSecond({job('bytes')}))", graph=True),
            stat("Failed entries", "short", f"sum(treehaul_job_entries_failed{{{JOB}}})", f"sumSeries({job('failed')})",
                 steps=GOOD_IS_ZERO),
            stat("Actors at work", "percentunit",
                 f"sum(treehaul_node_busy_actors{{{NODE}}}) / sum(treehaul_node_actors{{{NODE}}})",
                 f"divideSeries(sumSeries({node('busy_*')}),sumSeries({node('actors_*')}))", graph=True),
            JOBS_TABLE,
            Panel("bargauge", "Done", (24, 5), "percent", [],
                  [f"aliasByNode(asPercent({job('done')},{job('found')},-2),-2)"],
                  "Of what has been found by now: while the walk goes on, more is found.", max=100, steps=[(None, "blue")]),
            lines("Entries by job", 12, "cps", [(f"job:treehaul_entries_done:rate2m{{{JOB}}}", "{{job}}")],
                  [f"aliasByNode(perSecond({job('done')}),-2)"]),
            lines("Data by job", 12, "binBps", [(f"job:treehaul_copied_bytes:rate2m{{{JOB}}}", "{{job}}")],
                  [f"aliasByNode(perSecond({job('bytes')}),-2)"]),
            lines("Done, of what has been found", 8, "percentunit", [(f"job:treehaul_done:ratio{{{JOB}}}", "{{job}}")],
                  [f"aliasByNode(divideSeriesLists({job('done')},{job('found')}),-2)"], max=1),
            lines("Time left", 8, "dtdurations", [(f"job:treehaul_remaining:seconds{{{JOB}}}", "{{job}}")],
                  [f"aliasByNode(divideSeriesLists(diffSeriesLists({job('found')},{job('done')}),"
                   f"movingAverage(perSecond({job('done')}),'10min')),-2)"],
                  "At the pace of the last ten minutes, of what has been found by now."),
            lines("Failed entries by job", 8, "short", [(f"treehaul_job_entries_failed{{{JOB}}}", "{{job}}")],
                  [f"aliasByNode({job('failed')},-2)"], "A retry takes failures back."),
            lines("What becomes of entries", 12, "cps",
                  [(f"sum(rate(treehaul_{name}_entries_total{{{BOTH}}}{RATE}))", key) for name, key, _ in OUTCOMES],
                  ["groupByNode(" + counter("{" + ",".join(key for _, key, _ in OUTCOMES) + "}") + ",-1,'sum')"],
                  stacked=True, overrides=[coloured(key, colour) for _, key, colour in OUTCOMES]),
            lines("Not kept", 12, "short",
                  [(f"sum(treehaul_lost_{name}_total{{{BOTH}}})", key) for name, key in LOST],
                  ["groupByNode($prefix.$job.$node.{dirs,files}*.lost_*,-1,'sum')"],
                  "What the target could not keep; treehaul doctor says why."),
        ],
    ),
    (
        "Nodes",
        [
            lines("Data by node", 12, "binBps", [(f"sum by (node) (job_node:treehaul_copied_bytes:rate2m{{{BOTH}}})", "{{node}}")],
                  ["groupByNode(" + counter("bytes") + ",-3,'sum')"], stacked=True),
            lines("Tasks by node", 12, "cps", [(f"sum by (node) (job_node:treehaul_tasks:rate2m{{{BOTH}}})", "{{node}}")],
                  ["groupByNode(" + counter("tasks") + ",-3,'sum')"], stacked=True),
            lines("Actors", 8, "short",
                  [(f"sum by (pool) (treehaul_node_actors{{{NODE}}})", "{{pool}}"),
                   (f"sum by (pool) (treehaul_node_busy_actors{{{NODE}}})", "{{pool}} at work")],
                  [f"alias(sumSeries({node('actors_dirs')}),'dirs')", f"alias(sumSeries({node('actors_files')}),'files')",
                   f"alias(sumSeries({node('busy_dirs')}),'dirs at work')",
                   f"alias(sumSeries({node('busy_files')}),'files at work')"]),
            lines("Wait of tasks", 8, "s", [(f"treehaul_node_queue_wait_seconds{{{NODE}}}", "{{node}}")],
                  [f"aliasByNode({node('queue_wait_seconds')},-2)"],
                  "How long tasks that were taken lately had waited since they were posted."),
            lines("Tasks in flight", 8, "short", [(f"treehaul_node_in_flight_tasks{{{NODE}}}", "{{node}}")],
                  [f"aliasByNode({node('in_flight')},-2)"], "Deliveries that a node holds."),
            lines("Memory", 8, "bytes", [(f"treehaul_node_resident_memory_bytes{{{NODE}}}", "{{node}}")],
                  [f"aliasByNode({node('rss_bytes')},-2)"]),
            lines("Load", 8, "short", [(f"treehaul_node_load1{{{NODE}}}", "{{node}}")], [f"aliasByNode({node('load1')},-2)"]),
            lines("Nodes that do not work", 8, "short",
                  [("treehaul_silent_nodes", "silent"), ("treehaul_stranger_nodes", "strangers"),
                   (f"sum(treehaul_node_paused{{{NODE}}})", "paused"),
                   (f"sum(treehaul_node_broker_blocked{{{NODE}}})", "blocked by the broker"),
                   (f"sum(treehaul_job_refusing_nodes{{{JOB}}})", "refuse a job")],
                  ["alias($prefix.fleet.silent,'silent')", "alias($prefix.fleet.strangers,'strangers')",
                   f"alias(sumSeries({node('paused')}),'paused')", f"alias(sumSeries({node('blocked')}),'blocked by the broker')",
                   f"alias(sumSeries({job('refusing_nodes')}),'refuse a job')"]),
        ],
    ),
    (
        "Queues",
        [
            lines("Messages that wait", 12, "short", [(f"sum by (queue) (treehaul_queue_ready_messages{{{JOB}}})", "{{queue}}")],
                  ["groupByNode($prefix.jobs.$job.queues.{dirs,files,dirtimes}.ready,-2,'sum')"]),
            lines("Messages in hands", 6, "short", [(f"treehaul_unacknowledged_messages{{{JOB}}}", "{{job}}")],
                  [f"aliasByNode({job('unacknowledged')},-2)"]),
            lines("Dead letters", 6, "short", [(f"treehaul_dead_letters{{{JOB}}}", "{{job}}")],
                  [f"aliasByNode({job('dead_letters')},-2)"], "Tasks that were set aside: they killed workers, or cannot be read."),
        ],
    ),
    (
        "Calls on filesystems",
        [
            lines("Median by operation", 12, "s",
                  [(f"max by (operation) (job_operation:treehaul_operation_duration_seconds:p50{{{JOB}}})", "{{operation}}")],
                  ["groupByNode(" + calls("p50_seconds") + ",-2,'max')"]),
            lines("99th percentile by operation", 12, "s",
                  [(f"max by (operation) (job_operation:treehaul_operation_duration_seconds:p99{{{JOB}}})", "{{operation}}")],
                  ["groupByNode(" + calls("p99_seconds") + ",-2,'max')"]),
            lines("Calls a second by operation", 12, "cps",
                  [(f"sum by (operation) (rate(treehaul_operation_duration_seconds_count{{{BOTH}}}{RATE}))", "{{operation}}")],
                  ["groupByNode(perSecond(" + calls("count") + "),-2,'sum')"], stacked=True),
            lines("Time in calls, in threads", 12, "short",
                  [(f"sum by (operation) (rate(treehaul_operation_duration_seconds_sum{{{BOTH}}}{RATE}))", "{{operation}}")],
                  ["groupByNode(perSecond(" + calls("sum_seconds") + "),-2,'sum')"],
                  "Seconds a second: so many actors were in this call at a time.", stacked=True),
            Panel("heatmap", "How long calls take", (24, 8), "s",
                  [(f"sum by (le) (rate(treehaul_operation_duration_seconds_bucket{{{BOTH}}}{RATE}))", "{{le}}")], []),
        ],
    ),
    (
        "Targets",
        [
            lines("Space left", 8, "percentunit",
                  [(f"treehaul_target_free_bytes{{{JOB}}} / (treehaul_target_size_bytes{{{JOB}}} > 0)", "{{job}}")],
                  [f"aliasByNode(divideSeriesLists({job('target_free_bytes')},{job('target_size_bytes')}),-2)"], max=1),
            lines("Bytes left", 8, "bytes", [(f"treehaul_target_free_bytes{{{JOB}}}", "{{job}}")],
                  [f"aliasByNode({job('target_free_bytes')},-2)"]),
            lines("Inodes left", 8, "percentunit",
                  [(f"treehaul_target_free_inodes{{{JOB}}} / (treehaul_target_inodes{{{JOB}}} > 0)", "{{job}}")],
                  [f"aliasByNode(divideSeriesLists({job('target_free_inodes')},{job('target_inodes')}),-2)"],
                  "Nothing where a filesystem does not count them.", max=1),
        ],
    ),
    (
        "Broker and figures",
        [
            stat("Broker", "short", "treehaul_broker_up", "$prefix.fleet.broker_up", "1: it answers.", steps=GOOD_IS_ONE),
            stat("memcached", "short", "treehaul_memcached_up", "$prefix.fleet.memcached_up", "1: it answers.", steps=GOOD_IS_ONE),
            stat("Silent workers", "short", "treehaul_silent_nodes", "$prefix.fleet.silent",
                 "They are with the broker and do not answer.", steps=GOOD_IS_ZERO),
            stat("Strangers", "short", "treehaul_stranger_nodes", "$prefix.fleet.strangers",
                 "They do not have the fleet's key.", steps=GOOD_IS_ZERO),
            Panel("stat", "A cycle of the exporter", (4, 4), "s", [("treehaul_export_cycle_seconds", "")], []),
            Panel("stat", "Refusals", (4, 4), "short", [(f"sum(treehaul_job_refusing_nodes{{{JOB}}})", "")],
                  [f"sumSeries({job('refusing_nodes')})"], "Nodes that take no part in a job.", steps=GOOD_IS_ZERO),
        ],
    ),
]


def panels(source):
    """Rows of panels, from left to right and downwards."""
    out, y = [], 0
    for title, row in ROWS:
        out.append({"id": len(out) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
                    "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        x, y, height = 0, y + 1, 0
        for panel in row:
            if not panel.targets[source]:
                continue
            if x + panel.size[0] > WIDTH:
                x, y, height = 0, y + height, 0
            out.append(panel.json(source, len(out) + 1, (x, y)))
            x, height = x + panel.size[0], max(height, panel.size[1])
        y += height
    return out


def variable(name, label, query, all_value):
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": {"uid": "${datasource}"},
        "query": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": all_value,
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
    }


def variables(source):
    name = "Prometheus" if source == "prometheus" else "Graphite"
    chosen = [{"name": "datasource", "label": name, "type": "datasource", "query": source, "hide": 0, "current": {}}]
    if source == "prometheus":
        values = {"job": "label_values(treehaul_job_running, job)", "node": "label_values(treehaul_node_actors, node)"}
        return chosen + [
            variable("job", "Job", values["job"], ".*"),
            variable("node", "Node", values["node"], ".*"),
        ]
    prefix = {"name": "prefix", "label": "Prefix", "type": "textbox", "query": "treehaul", "hide": 0,
              "current": {"text": "treehaul", "value": "treehaul"}}
    return chosen + [
        prefix,
        variable("job", "Job", "$prefix.jobs.*", "*"),
        variable("node", "Node", "$prefix.nodes.*", "*"),
    ]


def grafana(source):
    annotations = []
    if source == "prometheus":
        annotations = [{
            "name": "Alerts", "enable": True, "iconColor": "red", "datasource": {"type": source, "uid": "${datasource}"},
            "expr": 'ALERTS{alertname=~"Treehaul.*",alertstate="firing"}', "titleFormat": "{{alertname}}", "step": "60s",
        }]
    return {
        "uid": f"treehaul-{source}",
        "title": "treehaul" if source == "prometheus" else "treehaul (Graphite)",
        "description": "Jobs, nodes, queues and filesystems of a treehaul fleet",
        "tags": ["treehaul"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": annotations},
        "templating": {"list": variables(source)},
        "links": [],
        "panels": panels(source),
    }


def graphite_web(urls):
    """The state of a dashboard, as graphite-web saves and loads it: of each graph its targets, parameters and URL."""
    size = {"width": 560, "height": 280}
    defaults = {"from": "-1hours", "until": "now", "width": str(size["width"]), "height": str(size["height"])}
    graphs = []
    for url in urls:
        pairs = parse_qsl(url.partition("?")[2])
        targets = [value for name, value in pairs if name == "target"]
        params = {name: value for name, value in pairs if name not in ("target", "from", "until", "width", "height", "format")}
        params["target"] = targets
        graphs.append([urlencode({"target": targets}, True), params, "/render?" + urlencode(pairs)])
    return {
        "name": "treehaul",
        "timeConfig": {
            "type": "relative", "relativeStartQuantity": "1", "relativeStartUnits": "hours",
            "relativeUntilQuantity": "", "relativeUntilUnits": "now",
            "startDate": "2026-01-01T00:00:00.000Z", "startTime": "9:00 AM",
            "endDate": "2026-01-01T00:00:00.000Z", "endTime": "5:00 PM",
        },
        "refreshConfig": {"enabled": True, "interval": 30000},
        "graphSize": size,
        "defaultGraphParams": defaults,
        "graphs": graphs,
    }


def write(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def main():
    into = sys.argv[1] if len(sys.argv) > 1 else HERE
    for source in ("prometheus", "graphite"):
        write(os.path.join(into, "grafana", "dashboards", f"treehaul-{source}.json"), grafana(source))
    with open(os.path.join(HERE, "graphite", "render-urls.txt"), encoding="utf-8") as file:
        urls = [line.strip() for line in file if line.startswith("/render?")]
    graphs = [url for url in urls if "format=json" not in url]
    write(os.path.join(into, "graphite", "treehaul-dashboard.json"), graphite_web(graphs))


main()
