//! The `caskad` command: arguments in, one call of the library, its report out.
//!
//! Standard output carries results and nothing else; errors, warnings and progress go to standard error. The exit code says what kind
//! of end it was: see [`failure`].

mod args;
mod commands;
mod context;
mod failure;
mod output;
mod progress;
mod table;
mod target;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caskad::Monitor;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Global};
use crate::context::Context;
use crate::failure::{EXIT_INTERRUPTED, Failure};

/// How long an interrupted command gets to stop in good order. Past it the process ends, as after `kill -9`, which a store survives.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::refuse(&error),
    };
    start_log(&cli.global);
    let json = cli.global.json;
    let context = Context::new(cli.global);
    let handled = ctrlc::set_handler({
        let monitor = context.monitor().clone();
        let interrupted = AtomicBool::new(false);
        move || interrupt(&monitor, &interrupted)
    });
    if let Err(error) = handled {
        tracing::warn!("an interrupt will end the command at once: {error}");
    }
    let outcome = cli.command.run(&context);
    context.monitor().finish();
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(json),
    }
}

/// The first interrupt asks the operation to stop; the second one ends the process.
fn interrupt(monitor: &Monitor, interrupted: &AtomicBool) {
    if interrupted.swap(true, Ordering::Relaxed) {
        std::process::exit(EXIT_INTERRUPTED.into());
    }
    monitor.cancel();
    // A command that waits for its standard input does not see that it was cancelled.
    std::thread::spawn(|| {
        std::thread::sleep(GRACE);
        std::process::exit(EXIT_INTERRUPTED.into());
    });
}

/// Log lines go to standard error. With `--json` they would mix with what a script parses there, so then only on request.
fn start_log(global: &Global) {
    let level = match (global.verbose, global.quiet, global.json) {
        (0, false, false) => "warn",
        (0, true, false) => "error",
        (0, _, true) => "off",
        (1, ..) => "caskad=debug,warn",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_ansi(std::io::stderr().is_terminal()).with_target(false);
    let started = if global.verbose == 0 { log.without_time().try_init() } else { log.try_init() };
    if let Err(error) = started {
        Failure::warn(&format!("no log: {error}"));
    }
}
