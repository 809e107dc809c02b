//! `treehaul export`: counters and queues for Graphite, statsd and Prometheus.

use super::broker::BrokerArgs;
use super::settings::{Flag, GRAPHITE, MEMCACHED, METRICS_PREFIX, PROMETHEUS, STATSD, Settings};
use super::{print_result, refuse, say, start_logging};
use crate::exit_code::ExitCode;
use crate::node::NodeError;
use crate::node::export::{Exporter, Manner, Sinks, Sources};
use crate::node::history::state_dir;
use crate::telemetry::export::{Graphite, Labels, Page, State, Statsd};
use crate::web::{self, Server};
use anyhow::{Context, bail, ensure};
use clap::Args;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Prints what a Prometheus would scrape.
const STDOUT: &str = "-";
/// Between two cycles, at least and at most, in seconds.
const EVERY: (u64, u64) = (1, 3600);
/// The state, if nobody names another.
const STATE_FILE: &str = "export.state";

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Read counters from this memcached [env: TREEHAUL_MEMCACHED=]
    #[arg(long, value_name = "HOST:PORT", help_heading = "From")]
    memcached: Option<OsString>,
    /// Send to this Graphite, in plaintext over TCP [env: TREEHAUL_GRAPHITE=]
    #[arg(long, value_name = "HOST:PORT", help_heading = "To")]
    graphite: Option<OsString>,
    /// Send to this statsd, over UDP [env: TREEHAUL_STATSD=]
    #[arg(long, value_name = "HOST:PORT", help_heading = "To")]
    statsd: Option<OsString>,
    /// Serve /metrics for Prometheus here, and /healthz, /readyz; with --once, `-` prints it [env: TREEHAUL_PROMETHEUS=]
    #[arg(long, value_name = "ADDRESS:PORT|-", help_heading = "To")]
    prometheus: Option<OsString>,
    /// Answer /healthz and /readyz there, as 127.0.0.1:9465; --prometheus does so, too
    #[arg(long, env = "TREEHAUL_HEALTH", value_name = "ADDR", help_heading = "To")]
    health: Option<SocketAddr>,
    /// Paths of Graphite and statsd begin with this [env: TREEHAUL_METRICS_PREFIX=] [default: treehaul]
    #[arg(long, value_name = "PATH", help_heading = "How")]
    prefix: Option<OsString>,
    /// Between two cycles: seconds, or 10s, 5m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_every, help_heading = "How")]
    every: Duration,
    /// Look once, tell, and end; without anybody to tell, print metrics in Prometheus's text format
    #[arg(long, help_heading = "How")]
    once: bool,
    /// Prometheus: sums over all jobs
    #[arg(long, help_heading = "How")]
    no_job_label: bool,
    /// Prometheus: sums over all nodes
    #[arg(long, help_heading = "How")]
    no_node_label: bool,
    /// Graphite and statsd: sums over the actors of each kind
    #[arg(long, help_heading = "How")]
    no_actors: bool,
    /// Keep what was last seen here, so that statsd is told everything once [default: export.state in the state directory]
    #[arg(long, value_name = "FILE", help_heading = "How")]
    state: Option<PathBuf>,
    /// Say nothing but what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

fn parse_every(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    let seconds = seconds.filter(|n| (EVERY.0..=EVERY.1).contains(n));
    seconds.map(Duration::from_secs).ok_or_else(|| "give 1s to 60m".to_owned())
}

/// Runs the command.
pub fn run(args: ExportArgs) -> ExitCode {
    start_logging(args.verbose, args.quiet);
    match try_run(&args) {
        Ok(code) => code,
        Err(e) => refuse(&e),
    }
}

fn try_run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let settings = args.settings()?;
    let sources = Sources::new(settings.text(&MEMCACHED), args.broker.optional()?)?;
    ensure!(
        settings.text(&MEMCACHED).is_some() || args.broker.is_given(),
        "there is nothing to read: give --memcached HOST:PORT, --broker URL, or both"
    );
    let manner = args.manner(&settings)?;
    let scraped = settings.text(&PROMETHEUS).filter(|at| *at != STDOUT && !args.once);
    let health = args.health.filter(|_| !args.once);
    let is_printed = settings.text(&PROMETHEUS) == Some(STDOUT);
    ensure!(args.once || !is_printed, "--prometheus - prints one look: give --once, too");
    ensure!(
        !args.once || is_printed || args.prometheus.is_none(),
        "with --once nobody is there to be scraped: give --prometheus -"
    );
    let start = if args.once { Graphite::once } else { Graphite::start };
    let graphite = settings.text(&GRAPHITE).map(start);
    let sinks = Sinks {
        graphite: graphite.transpose().context("cannot start a thread")?.map(Arc::new),
        statsd: settings.text(&STATSD).map(|address| Statsd::new(address, &manner.prefix)),
        page: (scraped.is_some() || health.is_some()).then(|| Page::new(args.every)),
    };
    let has_none = sinks.graphite.is_none() && sinks.statsd.is_none();
    ensure!(
        args.once || !has_none || scraped.is_some(),
        "there is nobody to tell: give --graphite, --statsd or --prometheus, or --once to print"
    );
    let state = if sinks.statsd.is_some() || scraped.is_some() { Some(args.open_state()?) } else { None };
    let page = sinks.page.clone();
    let exporter = Exporter::new(sources, sinks, manner, state);
    if args.once {
        return Ok(once(exporter, is_printed || has_none));
    }
    let servers = (serve(scraped, page.as_ref())?, serve_health(health, page.as_ref())?);
    let signal = exporter.run(args.every)?;
    drop(servers);
    // Being told to stop is how it ends.
    Ok(if signal == libc::SIGTERM { ExitCode::Complete } else { ExitCode::Interrupted })
}

fn serve(address: Option<&str>, page: Option<&Arc<Page>>) -> anyhow::Result<Option<Server>> {
    let (Some(text), Some(page)) = (address, page) else { return Ok(None) };
    let shown = crate::model::escaped(text.as_bytes());
    let address: SocketAddr = text.parse().ok().with_context(|| {
        format!("--prometheus '{shown}': give an address of this machine and a port, as 127.0.0.1:9464 or [::]:9464")
    })?;
    let server = Server::start(address, web::metrics(page));
    let server = server.map_err(|e| NodeError::System(format!("cannot listen at {shown}: {e}")))?;
    say(&format!("treehaul: serving http://{}/metrics", server.address()));
    Ok(Some(server))
}

fn serve_health(address: Option<SocketAddr>, page: Option<&Arc<Page>>) -> anyhow::Result<Option<Server>> {
    let (Some(address), Some(page)) = (address, page) else { return Ok(None) };
    let server = Server::start(address, web::health_of(page));
    Ok(Some(server.map_err(|e| NodeError::System(format!("cannot listen at {address}: {e}")))?))
}

fn once(mut exporter: Exporter, is_printed: bool) -> ExitCode {
    let cycled = exporter.cycle();
    if is_printed {
        print_result(exporter.render(&cycled.cycle, false).plain().trim_end());
    }
    let has_arrived = exporter.finish();
    if cycled.is_short || !has_arrived { ExitCode::Infrastructure } else { ExitCode::Complete }
}

impl ExportArgs {
    fn settings(&self) -> anyhow::Result<Settings> {
        let given = [
            (&MEMCACHED, &self.memcached),
            (&GRAPHITE, &self.graphite),
            (&STATSD, &self.statsd),
            (&PROMETHEUS, &self.prometheus),
            (&METRICS_PREFIX, &self.prefix),
        ];
        let flags: Vec<Flag> = given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
        self.broker.settings(flags)
    }

    fn manner(&self, settings: &Settings) -> anyhow::Result<Manner> {
        let prefix = settings.text(&METRICS_PREFIX).unwrap_or_default();
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        ensure!(
            prefix.split('.').all(is_part),
            "the prefix '{}' is no path: letters, digits, - and _ are expected between dots",
            crate::model::escaped(prefix.as_bytes())
        );
        let labels = Labels { job: !self.no_job_label, node: !self.no_node_label };
        Ok(Manner { prefix: prefix.to_owned(), labels, by_actor: !self.no_actors })
    }

    fn open_state(&self) -> anyhow::Result<State> {
        let path = self.state.clone().or_else(|| Some(state_dir()?.join(STATE_FILE)));
        let Some(path) = path else { bail!("there is no state directory: give --state FILE") };
        Ok(State::open(&path)?)
    }
}
