//! What the passes share on the command line, and how a job is run from it.

use super::broker::BrokerArgs;
use super::dashboard::PageArgs;
use super::files_from::{FilesFrom, ListTrouble};
use super::html::{Hands, HtmlReport, Watching};
use super::progress::Progress;
use super::report::{ReportEnd, ReportFile};
use super::since::SinceArgs;
use super::size::parse_size;
use super::stats::StatsArgs;
use super::summary::{self, Finished};
use super::would::Lines;
use super::{given_root, refuse, start_logging};
use crate::broker::amqp::{AmqpConfig, Reads};
use crate::exit_code::ExitCode;
use crate::fs::{Side, Usage};
use crate::model::policy::{CHUNK_ALIGN_BYTES, ChunkPolicy};
use crate::model::{JobId, JobSpec, Policy, Task, Timestamp};
use crate::node::{self, Ended, Live, NodeError, PoolSizes, Prepared, Stats};
use crate::pass::{Access, Pass, PassRow};
use crate::telemetry::{self, Board, Meters, Sink, Told};
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

/// The share of a job, if nothing is said.
pub const DEFAULT_PRIORITY: u8 = 10;

/// Between which roots, and how.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Source: a directory, file:///PATH, or synth://?entries=N
    source: OsString,
    /// Target: a directory, file:///PATH, or null://
    target: OsString,
    #[command(flatten)]
    how: RunArgs,
}

/// By whom, and what is said about it.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Actors that list directories [default: by cores]
    #[arg(long, env = "TREEHAUL_DIR_ACTORS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dir_actors: Option<u16>,
    /// Actors that work on files [default: by cores]
    #[arg(long, env = "TREEHAUL_FILE_ACTORS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    file_actors: Option<u16>,

    /// With a broker: the job's share of the workers, compared with other jobs
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PRIORITY, value_parser = clap::value_parser!(u8).range(1..=100))]
    priority: u8,
    /// Submit the job and leave it to the fleet
    #[arg(skip)]
    detach: bool,
    #[command(flatten)]
    stats: StatsArgs,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    page: PageArgs,
}

/// What is said about a job.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Write everything that failed or was found to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write a page about the job to this file when it is over, however it ended; outside both trees
    #[arg(long, value_name = "FILE")]
    html_report: Option<PathBuf>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// Say nothing but what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; twice for every entry that fails as it happens
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What is kept: everything, unless it is switched off.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // flags are what a command line is made of
pub struct FidelityArgs {
    /// Leave owner and group alone
    #[arg(long)]
    no_owner: bool,
    /// Leave permission bits alone (new files 0644, directories 0755, never more than the source)
    #[arg(long)]
    no_mode: bool,
    /// Leave access and modification times alone
    #[arg(long)]
    no_times: bool,
    /// Leave extended attributes and capabilities alone
    #[arg(long)]
    no_xattrs: bool,
    /// Leave POSIX ACLs alone
    #[arg(long)]
    no_acls: bool,
    /// Take each name of an inode for a file of its own
    #[arg(long)]
    no_hard_links: bool,
    /// Leave quota projects alone
    #[arg(long)]
    no_projects: bool,
    /// Leave out fifos, sockets and devices
    #[arg(long)]
    no_specials: bool,
}

impl FidelityArgs {
    /// Puts them into a policy.
    pub fn apply(&self, policy: &mut Policy) {
        policy.owner = !self.no_owner;
        policy.mode = !self.no_mode;
        policy.times = !self.no_times;
        policy.xattrs = !self.no_xattrs;
        policy.acls = !self.no_acls;
        policy.hard_links = !self.no_hard_links;
        policy.projects = !self.no_projects;
        policy.specials = !self.no_specials;
    }
}

/// How files are written.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Compare contents instead of trusting size and modification time
    #[arg(long)]
    checksum: bool,
    /// Write new files under their final names instead of aside
    #[arg(long)]
    direct: bool,
    /// Write holes as zeros
    #[arg(long)]
    no_holes: bool,
    /// Wait for stable storage: files (each before it gets its name, and all names at the end), none
    #[arg(long, value_name = "files|none", default_value = "none", hide_possible_values = true)]
    fsync: Fsync,
}

impl WriteArgs {
    /// Puts them into a policy.
    pub fn apply(&self, policy: &mut Policy) {
        policy.checksum = self.checksum;
        policy.direct = self.direct;
        policy.holes = !self.no_holes;
        policy.fsync = self.fsync == Fsync::Files;
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fsync {
    Files,
    None,
}

/// How large files are cut up.
#[derive(Debug, Args)]
pub struct ChunkArgs {
    /// Copy files of this size and more in chunks, by several actors and nodes; none: never
    #[arg(long, value_name = "SIZE|none", default_value = "1G", value_parser = parse_from)]
    chunk_from: u64,
    /// Size of a chunk, a multiple of 1M
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_chunk)]
    chunk_size: u64,
}

impl ChunkArgs {
    /// Puts them into a policy.
    pub fn apply(&self, policy: &mut Policy) {
        policy.chunks = ChunkPolicy { from_bytes: self.chunk_from, chunk_bytes: self.chunk_size };
    }
}

fn parse_from(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(u64::MAX) } else { parse_size(text).map_err(|e| e.to_string()) }
}

fn parse_chunk(text: &str) -> Result<u64, String> {
    match parse_size(text).map_err(|e| e.to_string())? {
        bytes if bytes > 0 && bytes.is_multiple_of(CHUNK_ALIGN_BYTES) => Ok(bytes),
        _ => Err("a chunk is a multiple of 1M".into()),
    }
}

/// A pass, and what it needs beside its roots.
pub struct Order {
    /// The pass, by its registry name.
    pub pass: &'static str,
    /// How.
    pub policy: Policy,
    /// Only these paths, instead of the whole tree.
    pub files: Option<FilesFrom>,
    /// Only what changed since then.
    pub since: Option<SinceArgs>,
}

impl Order {
    /// A pass over whole trees.
    pub fn new(pass: &'static str, policy: Policy) -> Self {
        Order { pass, policy, files: None, since: None }
    }
}

impl JobArgs {
    /// Do workers do it?
    pub fn has_fleet(&self) -> bool {
        self.how.broker.is_given()
    }

    /// Starts the log, makes the order and runs the job.
    pub fn run(self, order: impl FnOnce() -> anyhow::Result<Order>) -> ExitCode {
        self.run_and(order, summary::tell)
    }

    /// As [`JobArgs::run`]; `tell` says how it ended.
    pub fn run_and(
        self,
        order: impl FnOnce() -> anyhow::Result<Order>,
        tell: impl FnOnce(&Finished<'_>, Tell) -> ExitCode,
    ) -> ExitCode {
        self.how.run([self.source, self.target], order, tell)
    }

    /// Only submits the job.
    pub fn detach(&mut self) {
        self.how.detach = true;
    }

    /// Source and target, as given.
    pub fn roots(&self) -> [&OsString; 2] {
        [&self.source, &self.target]
    }
}

impl ShowArgs {
    /// Begins to log as much as that asks for.
    pub fn start_logging(&self) {
        start_logging(self.verbose, self.quiet || self.verbose == 0);
    }

    /// The page that is wanted of a job between two roots, if it can be written.
    fn html(&self, roots: [&[u8]; 2]) -> anyhow::Result<Option<HtmlReport>> {
        let is_file = |path: &PathBuf| path.metadata().ok().map(|m| (m.dev(), m.ino()));
        let both = [&self.report, &self.html_report].map(|path| path.as_ref().and_then(is_file));
        anyhow::ensure!(both[0].is_none() || both[0] != both[1], "--report and --html-report name the same file");
        self.html_report.as_deref().map(|path| HtmlReport::new(path, roots)).transpose()
    }
}

/// How much is said at the end.
#[derive(Debug, Clone, Copy)]
pub struct Tell {
    /// One JSON object on stdout.
    pub json: bool,
    /// Only what went wrong.
    pub quiet: bool,
}

impl RunArgs {
    fn sizes(&self) -> PoolSizes {
        let usual = PoolSizes::for_this_machine();
        PoolSizes {
            dirs: self.dir_actors.map_or(usual.dirs, usize::from),
            files: self.file_actors.map_or(usual.files, usize::from),
        }
    }

    /// Starts the log, makes the order and runs the job between two roots; `tell` says how it ended.
    pub fn run(
        self,
        roots: [OsString; 2],
        order: impl FnOnce() -> anyhow::Result<Order>,
        tell: impl FnOnce(&Finished<'_>, Tell) -> ExitCode,
    ) -> ExitCode {
        self.show.start_logging();
        match order().and_then(|order| try_run(self, roots, order, tell)) {
            Ok(code) => code,
            Err(e) => refuse(&e),
        }
    }
}

fn try_run(
    args: RunArgs,
    roots: [OsString; 2],
    order: Order,
    tell: impl FnOnce(&Finished<'_>, Tell) -> ExitCode,
) -> anyhow::Result<ExitCode> {
    let broker = args.broker.optional()?;
    anyhow::ensure!(!args.detach || broker.is_some(), "only a fleet can be left alone with a job: name its --broker");
    anyhow::ensure!(
        !args.detach || args.show.html_report.is_none(),
        "--html-report is written by who waits for the job's end: give it to `treehaul follow`"
    );
    anyhow::ensure!(!args.detach || !args.page.is_given(), "--dashboard ends with its run: use `treehaul dashboard`");
    let stats = args.stats.of_job(&args.broker, broker.is_some(), args.page.is_given())?;
    let report = args.show.report.as_deref().map(ReportFile::open).transpose()?;
    let [source, target] = roots;
    let (source, target) = (given_root(source)?, given_root(target)?);
    let html = args.show.html([&source, &target])?;
    let ready = ready([source, target], order, args.priority, broker.as_ref(), stats.meters.as_deref())?;
    let _about = telemetry::attend(ready.spec.id);
    let mut watched = Watched::start(&ready.spec, report, &args.show, 0)?;
    if let Some(id) = ready.running {
        watched.board.note(&format!("job {id} does this already: following it"));
    }
    let usage = ready.work.as_ref().and_then(|(_, prepared)| prepared.roots().source.usage());
    let (spec, list) = (ready.spec.clone(), ready.list.clone());
    if ready.work.as_ref().is_some_and(|(row, _)| row.access == Access::Make) && !args.show.quiet {
        node::doctor::cheap(&spec.source, &spec.target).iter().for_each(|loss| watched.board.note(loss));
    }
    if let Some((_, prepared)) = ready.work.as_ref().filter(|(row, _)| row.access == Access::Make) {
        let (source, target) = (&prepared.roots().source, prepared.roots().target.as_ref());
        let lost = node::lost_projects(&spec.policy, &source.traits(), &target.traits());
        lost.iter().for_each(|note| watched.board.note(note));
        node::missing_mdts(&spec.policy.lustre, target).iter().for_each(|note| watched.board.note(note));
    }
    if args.detach {
        let held = ready.submit(broker.as_ref())?;
        super::print_result(&spec.id.to_string());
        drop(held);
        return Ok(ExitCode::Complete);
    }
    let live = Live::new(spec.clone(), Arc::clone(&watched.board));
    if let Some(meters) = stats.meters.clone() {
        live.set_times(Box::new(move || meters.latencies()));
    }
    let page = args.page.serve(broker.as_ref(), &live, args.show.quiet)?;
    watched.write_html(html, Hands::of(broker.is_some(), args.sizes()));
    let progress = watched.progress(usage);
    let ended = run_job(ready, args.sizes(), broker.as_ref(), &watched.board, stats, &live);
    progress.finish();
    let ended = ended?;
    let code = watched.finish(&spec, ended.clone(), tell, || list.as_ref().and_then(ListTrouble::take));
    if let Some(page) = page {
        page.finish(&ended);
    }
    if list.is_none() {
        // A job that looked at some paths only proves nothing about the others.
        node::history::remember(&spec, code.number());
    }
    Ok(code)
}

/// What is shown and written of a job, wherever it runs.
pub struct Watched {
    job: JobId,
    /// Its board.
    pub board: Arc<Board>,
    report: ReportEnd,
    html: Option<Watching>,
    lines: Option<Lines>,
    tell: Tell,
}

impl Watched {
    fn start(spec: &JobSpec, report: Option<ReportFile>, args: &ShowArgs, retries: u64) -> anyhow::Result<Self> {
        let (sink, report) = report.map_or_else(|| Ok(ReportFile::none()), ReportFile::into_sink)?;
        let sink = after(retries, sink);
        let (sink, lines) = if spec.policy.dry_run && !args.json && !args.quiet {
            let (sink, lines) = Lines::before(sink);
            (sink, Some(lines))
        } else {
            (sink, None)
        };
        let tell = Tell { json: args.json, quiet: args.quiet };
        Ok(Watched { job: spec.id, board: Arc::new(Board::new(sink)), report, html: None, lines, tell })
    }

    /// Writes a page at the end, too.
    fn write_html(&mut self, html: Option<HtmlReport>, hands: Hands) {
        self.html = html.map(|html| html.watch(&self.board, hands));
    }

    fn progress(&self, usage: Option<Usage>) -> Progress {
        // Lines on the same terminal are progress enough.
        let quiet = self.tell.quiet || (self.lines.is_some() && std::io::stdout().is_terminal());
        Progress::start(self.job, Arc::clone(&self.board), usage, quiet)
    }

    /// Judges, says how it ended, and writes it down. What else went wrong is asked for once that was said.
    fn finish(
        self,
        spec: &JobSpec,
        ended: Ended,
        tell: impl FnOnce(&Finished<'_>, Tell) -> ExitCode,
        also: impl FnOnce() -> Option<String>,
    ) -> ExitCode {
        let ended = match ended {
            Ended::Complete => {
                self.board.settle(&spec.policy.verify.salt).map_or_else(Ended::Aborted, |()| Ended::Complete)
            }
            other => other,
        };
        if let Some(lines) = self.lines {
            lines.finish();
        }
        let mut snapshot = self.board.snapshot();
        if matches!(ended, Ended::Left(_)) {
            snapshot.totals = self.board.progress();
        }
        let finished = Finished { spec, snapshot, ended: &ended };
        let mut code = tell(&finished, self.tell);
        let mut trouble = Vec::new();
        let mut is_wrong = |why: String| {
            super::complain(&format!("treehaul: {why}"));
            trouble.push(why);
            if code == ExitCode::Complete {
                code = ExitCode::Infrastructure;
            }
        };
        if let Err(e) = self.report.finish() {
            is_wrong(format!("{e:#}"));
        }
        if let Some(why) = also() {
            is_wrong(why);
        }
        let Some(html) = self.html else { return code };
        let Err(e) = html.finish(&self.board, &finished, (code, trouble)) else { return code };
        super::complain(&format!("treehaul: {e:#}"));
        if code == ExitCode::Complete { ExitCode::Infrastructure } else { code }
    }
}

/// Passes on what is told after failed entries were tried again so many times.
fn after(mut retries: u64, mut next: Sink) -> Sink {
    Box::new(move |told: Told<'_>| match told {
        Told::TakenBack(_) => retries = retries.saturating_sub(1),
        told if retries == 0 => next(told),
        _ => {}
    })
}

/// A job that can be run, or that is under way.
struct Ready {
    spec: JobSpec,
    /// None if it is under way.
    work: Option<(&'static PassRow, Prepared)>,
    running: Option<JobId>,
    first: Box<dyn Iterator<Item = Task> + Send>,
    /// What went wrong with a list of paths while the job ran.
    list: Option<ListTrouble>,
}

impl Ready {
    /// Gives the job to the fleet, unless it has it. What is given back holds the target's mark.
    fn submit(self, broker: Option<&AmqpConfig>) -> anyhow::Result<Option<Arc<dyn Pass>>> {
        match (self.work, broker) {
            (Some((row, Prepared::Tree(roots))), Some(config)) => {
                Ok(Some(node::submit(&self.spec, row, roots, self.first, config, None, &super::say)?))
            }
            (Some(_), Some(_)) => anyhow::bail!("a single file is not worth a fleet: copy it without --broker"),
            _ => Ok(None),
        }
    }
}

/// Checks everything that can be checked before anything is touched.
fn ready(
    [source, target]: [Vec<u8>; 2],
    mut order: Order,
    priority: u8,
    broker: Option<&AmqpConfig>,
    meters: Option<&Meters>,
) -> anyhow::Result<Ready> {
    let job = JobId::random();
    if let Some(since) = &order.since {
        anyhow::ensure!(
            !(since.is_time() && order.policy.filter.older_than.is_some()),
            "--since TIME with --older-than would never copy what was too new then: name the job, or leave one of them out"
        );
        order.policy.since = since.resolve(&source, &target, &order.policy)?;
    }
    // Before the target is made: a broker that cannot be reached must leave nothing.
    if let Some(config) = broker
        && let Some(state) = node::running_between(config, &source, &target)?
        && !order.policy.dry_run
    {
        return already_running(state.spec, &order);
    }
    let row = crate::pass::row(order.pass).with_context(|| format!("no pass '{}'", order.pass))?;
    let timings = meters.map(|meters| meters.timings(job));
    let prepared = node::prepare(&source, &target, job, row.access, &order.policy, timings.as_ref())?;
    anyhow::ensure!(
        order.files.is_none() || matches!(prepared, Prepared::Tree(_)),
        "--files-from lists what is in a directory, and the source is none"
    );
    anyhow::ensure!(
        order.policy.delete.is_none() || matches!(prepared, Prepared::Tree(_)),
        "--delete needs a directory as its source: of a single file nothing can be too much"
    );
    let list = order.files.as_ref().map(FilesFrom::trouble);
    let first: Box<dyn Iterator<Item = Task> + Send> = match order.files {
        Some(files) => Box::new(files),
        None => Box::new(std::iter::once(Task::root())),
    };
    let roots = prepared.roots();
    let source_root = roots.source.identity().map_err(NodeError::Target).context("source")?;
    let target_root = roots.target.identity().map_err(NodeError::Target).context("target")?;
    let mut policy = order.policy;
    if row.access.side() == Side::Source {
        policy.verify.target_ino = Some(target_root.ino);
    }
    // Two nodes must not find out different things.
    for root in [&roots.source, &roots.target] {
        policy.verify.granularity_ns = policy.verify.granularity_ns.max(root.traits().time_granularity_ns);
    }
    let pass = order.pass.into();
    let submitted = Timestamp::now();
    let spec = JobSpec { id: job, pass, source, target, policy, priority, submitted, source_root, target_root };
    Ok(Ready { spec, work: Some((row, prepared)), running: None, first, list })
}

/// The same command again comes back to its job; another one between the same roots must not run beside it.
fn already_running(spec: JobSpec, order: &Order) -> anyhow::Result<Ready> {
    let id = spec.id;
    let mut policy = spec.policy.clone();
    // What is not the user's choice.
    policy.verify.salt = order.policy.verify.salt;

    policy.verify.granularity_ns = order.policy.verify.granularity_ns;
    anyhow::ensure!(
        spec.pass == order.pass && policy == order.policy && order.files.is_none(),
        "job {id} ({}) is under way between the same roots, and is not the same: wait for it with `treehaul follow \
         {id}`, or end it with `treehaul cancel {id}`",
        spec.pass
    );
    Ok(Ready { spec, work: None, running: Some(id), first: Box::new(std::iter::empty()), list: None })
}

fn run_job(
    ready: Ready,
    sizes: PoolSizes,
    broker: Option<&AmqpConfig>,
    board: &Arc<Board>,
    stats: Stats,
    live: &Live,
) -> anyhow::Result<Ended> {
    let Ready { spec, work, first, .. } = ready;
    Ok(match (work, broker) {
        // One entry is not worth a message.
        (Some((_, Prepared::Single { roots, name, target_name })), _) => {
            node::run_single(&spec, roots, &name, &target_name, board)?
        }
        (Some((row, Prepared::Tree(roots))), None) => node::run_alone(live, row, roots, first, sizes, stats)?,
        (Some((row, Prepared::Tree(roots))), Some(config)) => {
            // The target's mark is held until the end.
            let reader = Reads::new();
            let _held = node::submit(&spec, row, roots, first, config, Some(reader), &|text| board.note(text))?;
            node::follow(spec.id, config, reader, board)?
        }
        (None, Some(config)) => node::follow(spec.id, config, Reads::new(), board)?,
        (None, None) => anyhow::bail!("a job of nobody"),
    })
}

/// Follows a job that is, or was, on the broker, and says how it ended. What failed before so many retries is not told.
pub fn follow_job(
    args: &ShowArgs,
    config: &AmqpConfig,
    spec: &JobSpec,
    reader: Reads,
    retries: u64,
    tell: impl FnOnce(&Finished<'_>, Tell) -> ExitCode,
) -> anyhow::Result<ExitCode> {
    let report = args.report.as_deref().map(ReportFile::open).transpose()?;
    let html = args.html([&spec.source, &spec.target])?;
    let _about = telemetry::attend(spec.id);
    let mut watched = Watched::start(spec, report, args, retries)?;
    watched.write_html(html, Hands::Fleet);
    let progress = watched.progress(None);
    let ended = node::follow(spec.id, config, reader, &watched.board);
    progress.finish();
    let code = watched.finish(spec, ended?, tell, || None);
    node::history::remember(spec, code.number());
    Ok(code)
}
