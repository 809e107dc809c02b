//! Parse, run, exit.

use clap::Parser;
use std::panic::catch_unwind;
use std::process::ExitCode;
use treehaul::cli::{self, Args, complain};
use treehaul::exit_code;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        complain(&format!("treehaul: internal error: {}", treehaul::model::escaped(panic.to_string().as_bytes())));
    }));
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) if e.use_stderr() => {
            // What was typed may come from a shell's glob, so it may be anybody's file name.
            complain(cli::escaped_lines(&e.to_string()).trim_end());
            return exit_code::ExitCode::Usage.into();
        }
        Err(help) => {
            let _ = help.print(); // a reader that went away has seen enough
            return ExitCode::SUCCESS;
        }
    };
    catch_unwind(|| cli::run(args)).unwrap_or(exit_code::ExitCode::Internal).into()
}
