//! `treehaul dashboard`, and `--dashboard` of whatever runs a job: a page that shows what goes on.

use super::broker::BrokerArgs;
use super::failed::retry_all;
use super::{print_result, refuse, say, secret, start_logging};
use crate::broker::amqp::AmqpConfig;
use crate::exit_code::ExitCode;
use crate::model::fleet::JobEnd;
use crate::node::{Ended, Live, NodeError};
use crate::web::{Alone, Fleet, ServeError, Serving, Shown, Source, Token};
use anyhow::Context;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// The token, where no file is named.
const ENV_TOKEN: &str = "TREEHAUL_DASHBOARD_TOKEN";

/// Arguments of `dashboard`.
#[derive(Debug, Args)]
pub struct DashboardArgs {
    /// Serve the page here; port 0 is any that is free
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = parse_address)]
    listen: SocketAddr,
    /// The token with which buttons act is the first line of this file, which nobody else may read [env:
    /// TREEHAUL_DASHBOARD_TOKEN= the token itself]; without one the page is for looking only, on a loopback address
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Looking needs the token, too, also on a loopback address: other users of this machine see no names of files then
    #[arg(long)]
    private: bool,
    #[command(flatten)]
    broker: BrokerArgs,
    /// Say more; twice for everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// A page for one run.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// Serve a page that shows this run, as long as it lasts, here; port 0 is any that is free
    #[arg(long, value_name = "ADDR", value_parser = parse_address, help_heading = "Dashboard")]
    dashboard: Option<SocketAddr>,
    /// With --dashboard: the token with which its buttons act is the first line of this file [env:
    /// TREEHAUL_DASHBOARD_TOKEN= the token itself]
    #[arg(long, value_name = "FILE", requires = "dashboard", help_heading = "Dashboard")]
    dashboard_token_file: Option<PathBuf>,
}

/// An address and a port.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let local = local.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let address = local.or_else(|| text.parse().ok());
    address.ok_or_else(|| "an address and a port: 127.0.0.1:8080, [::1]:8080, localhost:8080".to_owned())
}

/// A variable of the environment counts less than a file.
fn token(file: Option<&Path>) -> anyhow::Result<Option<Token>> {
    let (text, from) = match (file, std::env::var_os(ENV_TOKEN).filter(|text| !text.is_empty())) {
        (Some(file), _) => (secret::read_password(file).context("the token")?, secret::shown(file)),
        (None, Some(text)) => (text.to_string_lossy().into_owned(), ENV_TOKEN.to_owned()),
        (None, None) => return Ok(None),
    };
    Token::new(text.trim()).map(Some).map_err(|why| anyhow::anyhow!("{from}: {why}"))
}

fn serve(address: SocketAddr, shown: Shown) -> anyhow::Result<Serving> {
    Serving::start(address, shown).map_err(|e| match e {
        ServeError::Refused(_) => NodeError::Refused(e.to_string()).into(),
        ServeError::System(..) => NodeError::System(e.to_string()).into(),
    })
}

/// The page of a broker's fleet.
fn of_fleet(config: &AmqpConfig, token: Option<Token>, is_private: bool) -> Shown {
    let shared = config.clone();
    Shown {
        source: Box::new(Fleet::new(config.clone())),
        mode: "fleet",
        title: config.to_string(),
        token,
        is_private,
        retry: Some(Box::new(move |job| retry_all(&shared, job).map_err(|e| format!("{e:#}")))),
    }
}

/// Runs the command.
pub fn run(args: &DashboardArgs) -> ExitCode {
    start_logging(args.verbose, false);
    try_run(args).unwrap_or_else(|e| refuse(&e))
}

fn try_run(args: &DashboardArgs) -> anyhow::Result<ExitCode> {
    let config = args.broker.config()?;
    let token = token(args.token_file.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the page is there: whoever saw its address may end it.
    let listen = |kind| {
        let _guard = runtime.enter();
        signal(kind).context("cannot listen for signals")
    };
    let (mut int, mut term) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let serving = serve(args.listen, of_fleet(&config, token, args.private))?;
    print_result(&serving.url());
    runtime.block_on(async {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
    });
    // Being told to stop is how it ends. Whoever watches finds it gone, and back if it is.
    drop(serving);
    Ok(ExitCode::Complete)
}

/// The page of one run.
pub struct Page {
    serving: Serving,
    live: Arc<Live>,
}

impl PageArgs {
    /// Is there to be a page?
    pub fn is_given(&self) -> bool {
        self.dashboard.is_some()
    }

    /// Serves a page, if there is to be one: the fleet's, if one does the job.
    ///
    /// # Errors
    /// The token, or the address.
    pub fn serve(&self, broker: Option<&AmqpConfig>, live: &Arc<Live>, quiet: bool) -> anyhow::Result<Option<Page>> {
        let Some(address) = self.dashboard else { return Ok(None) };
        let token = token(self.dashboard_token_file.as_deref())?;
        let alone = || -> Box<dyn Source> { Box::new(Alone(Arc::clone(live))) };
        let shown = match broker {
            Some(config) => of_fleet(config, token, false),
            None => Shown {
                source: alone(),
                mode: "alone",
                title: rustix::system::uname().nodename().to_string_lossy().into_owned(),
                token,
                is_private: false,
                retry: None,
            },
        };
        let serving = serve(address, shown)?;
        if !quiet {
            say(&format!("dashboard: {}", serving.url()));
        }
        Ok(Some(Page { serving, live: Arc::clone(live) }))
    }
}

impl Page {
    /// Shows how the run ended to those who watch, and ends.
    pub fn finish(self, ended: &Ended) {
        self.live.end(match ended {
            Ended::Complete => JobEnd::Complete,
            Ended::Aborted(why) => match why.strip_prefix("cancelled: ") {
                Some(why) => JobEnd::Cancelled(why.to_owned()),
                None => JobEnd::Aborted(why.clone()),
            },
            Ended::Signalled(number) | Ended::Left(number) => JobEnd::Aborted(format!("signal {number}")),
        });
        self.serving.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(parse_address("localhost:80"), parse_address("127.0.0.1:80"));
        assert!(parse_address("[::1]:0").is_ok());
        for text in ["", "localhost", "127.0.0.1", ":80", "example.org:80", "127.0.0.1:99999"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
