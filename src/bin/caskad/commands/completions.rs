//! `caskad completions`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::args::Cli;
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad completions bash > ~/.local/share/bash-completion/completions/caskad
  caskad completions zsh > ~/.zfunc/_caskad
  caskad completions fish > ~/.config/fish/completions/caskad.fish")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "caskad", &mut script);
        context.console().print(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}
