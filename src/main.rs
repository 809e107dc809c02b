//! Parse, run, exit.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A reader that goes away (`| head`) must not look like a crash.
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        eprintln!("treehaul: internal error: {}", treehaul::model::escaped(text.as_bytes()));
    }));
    let args = match treehaul::cli::Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print(); // nobody is left to tell
            return if e.use_stderr() { treehaul::exit_code::ExitCode::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    treehaul::cli::run(args).into()
}
