//! `treehaul config`.

use super::broker::BrokerArgs;
use super::settings::KEYS;
use super::worker::NodeArgs;
use super::{print_result, refuse, start_logging};
use crate::exit_code::ExitCode;
use clap::{Args, Subcommand};

/// What is done about settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print each setting, its value, and where that comes from; secrets are masked
    Show(ShowArgs),
}

/// Arguments of `config show`: what a worker would be given.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs the command.
pub fn run(command: ConfigCommand) -> ExitCode {
    start_logging(0, true);
    let ConfigCommand::Show(args) = command;
    match table(&args) {
        Ok(table) => {
            print_result(&table);
            ExitCode::Complete
        }
        Err(e) => refuse(&e),
    }
}

fn table(args: &ShowArgs) -> anyhow::Result<String> {
    let settings = args.broker.settings(args.node.flags())?;
    let rows: Vec<[String; 3]> = KEYS
        .iter()
        .map(|key| {
            let name = if key.name.is_empty() { key.env } else { key.name };
            [name.to_owned(), settings.show(key), settings.origin(key).to_string()]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (names, values) = (width(0), width(1));
    let lines: Vec<String> =
        rows.iter().map(|[name, value, origin]| format!("{name:names$}  {value:values$}  {origin}")).collect();
    Ok(lines.join("\n"))
}
