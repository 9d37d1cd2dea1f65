//! The command line: what it accepts, and the words of `--help`, of the man pages and of the shell completions.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    Alias, Compact, Completions, Demo, Diff, Export, Gc, Get, Gradient, Health, Id, Import, Log, Ls, Man, Node, Peers,
    Pin, Put, Rm, Show, Stat, Tag, Unpin, Verify,
};
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Keeps many versions of model checkpoints at the price of what changed, and proves every byte by hash.
#[derive(Debug, Parser)]
#[command(name = "caskad", version, max_term_width = 110, after_help = EXAMPLES, after_long_help = LONG_HELP)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  caskad put model.safetensors --as runs/llama@epoch-1
  caskad log runs/llama
  caskad get runs/llama@epoch-1 -o restored.safetensors
  caskad verify --all

`caskad COMMAND --help` tells more of each; `caskad --help` adds names and exit codes.";

const LONG_HELP: &str = "\
Examples:
  caskad put model.safetensors --as runs/llama@epoch-1
  caskad log runs/llama
  caskad get runs/llama@epoch-1 -o restored.safetensors
  caskad verify --all

Names:
  KEY        letters, digits, `. _ - :`, in segments joined by `/`: runs/llama
  KEY@V      a version of it: a number (runs/llama@3), a label (runs/llama@best), or the first hex
             digits of its manifest (runs/llama@b3-1f0c2a); without @V the latest is meant
  @SCOPE/KEY a key that another store publishes: SCOPE is an alias, or what `caskad id` prints there

Exit codes:
  0  done
  1  verification failed: what is stored does not match its hash
  2  wrong usage, or any other error
  3  no such key, version, label, file or tensor
  4  too few peers: those that keep what was put, which is stored here; or none is connected that could be asked
  5  another process has the store open
  130  interrupted";

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The store; created by the first `put` or `import` [default: $CASKAD_STORE, else ~/.local/share/caskad (XDG)]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Where the store keeps its packs: s3://BUCKET/PREFIX?endpoint=URL&region=NAME, redis://HOST:PORT/DB/PREFIX, `memory:` or
    /// `files:`; credentials are taken from the environment [default: what `backend` in config.toml says, else where it has them]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) backend: Option<String>,
    /// Make the place that --backend names this store's, if it is another's whose machine is gone
    #[arg(long, global = true)]
    pub(crate) take_over: bool,
    /// Threads of one operation [default: one per core, at most 8]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Print one JSON object or array on standard output, and errors as JSON on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress, no warnings, no confirmation; results of listings and errors remain
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log what happens to standard error; twice for more (RUST_LOG chooses freely)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log as JSON, a line for each event; warnings and errors without --verbose
    #[arg(long, global = true)]
    pub(crate) log_json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Put(Put),
    Get(Get),
    Verify(Verify),
    Ls(Ls),
    Log(Log),
    Show(Show),
    Diff(Diff),
    Tag(Tag),
    Pin(Pin),
    Unpin(Unpin),
    Rm(Rm),
    Gc(Gc),
    Compact(Compact),
    Stat(Stat),
    Export(Export),
    Import(Import),
    Node(Node),
    Peers(Peers),
    Health(Health),
    Id(Id),
    Gradient(Gradient),
    Demo(Demo),
    Alias(Alias),
    Completions(Completions),
    Man(Man),
}

impl Command {
    /// Whether a node that has the store open carries the command out.
    pub(crate) fn goes_through_a_node(&self) -> bool {
        !matches!(self, Command::Node(_) | Command::Demo(_) | Command::Completions(_) | Command::Man(_))
    }

    /// Whether a node may put the command off while it runs many others. How it is can always be asked; and who waits for the others of a
    /// round waits for no turn besides.
    pub(crate) fn takes_turns(&self) -> bool {
        !matches!(self, Command::Health(_) | Command::Peers(_) | Command::Id(_) | Command::Gradient(_))
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        match self {
            Command::Put(put) => put.run(context),
            Command::Get(get) => get.run(context),
            Command::Verify(verify) => verify.run(context),
            Command::Ls(ls) => ls.run(context),
            Command::Log(log) => log.run(context),
            Command::Show(show) => show.run(context),
            Command::Diff(diff) => diff.run(context),
            Command::Tag(tag) => tag.run(context),
            Command::Pin(pin) => pin.run(context),
            Command::Unpin(unpin) => unpin.run(context),
            Command::Rm(rm) => rm.run(context),
            Command::Gc(gc) => gc.run(context),
            Command::Compact(compact) => compact.run(context),
            Command::Stat(stat) => stat.run(context),
            Command::Export(export) => export.run(context),
            Command::Import(import) => import.run(context),
            Command::Node(node) => node.run(context),
            Command::Peers(peers) => peers.run(context),
            Command::Health(health) => health.run(context),
            Command::Id(id) => id.run(context),
            Command::Gradient(gradient) => gradient.run(context),
            Command::Demo(demo) => demo.run(context),
            Command::Alias(alias) => alias.run(context),
            Command::Completions(completions) => completions.run(context),
            Command::Man(man) => man.run(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
