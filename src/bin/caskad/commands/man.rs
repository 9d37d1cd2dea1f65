//! `caskad man`: the man pages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use caskad::Error;
use clap::{Args, CommandFactory};
use clap_mangen::{Man as Page, generate_to};

use crate::args::Cli;
use crate::context::Context;
use crate::failure::{Exit, Result};

/// Print the man page, or write one for each command
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad man | man -l -
  caskad man --dir ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// Write caskad.1, caskad-put.1 and so on into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        match &self.dir {
            None => {
                let mut page = Vec::new();
                Page::new(Cli::command()).render(&mut page)?;
                context.console().print(&String::from_utf8_lossy(&page))?;
            }
            Some(dir) => {
                let dir = &context.path(dir);
                fs::create_dir_all(dir).map_err(|error| failed("create", dir, error))?;
                generate_to(Cli::command(), dir).map_err(|error| failed("write", dir, error))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}
