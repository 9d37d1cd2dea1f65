//! [`Console`]: where a command reads and writes, and which directory its relative paths start from. For a command that another process
//! asked for, these are that process's own: it has handed its open files over.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use caskad::Monitor;
use indicatif::ProgressDrawTarget;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Bytes of a pipe that payloads go through: the most that Linux grants anyone by default.
const PIPE_BYTES: usize = 1 << 20;

/// How often a command that waits for its standard input looks whether it was cancelled.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

#[derive(Debug)]
pub(crate) struct Console {
    stdin: File,
    stdout: File,
    stderr: File,
    /// `None`: this process's own directory.
    directory: Option<PathBuf>,
}

/// Standard input. The other end may be a terminal, at which nothing is written for ever.
struct Stdin {
    file: File,
    monitor: Monitor,
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.monitor.check().map_err(io::Error::other)?;
            let mut wanted = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut wanted, Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => {}
                // Its end counts as something to read. Somebody else who reads it may have been quicker.
                Ok(_) => match self.file.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                },
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Console {
    /// That of this process.
    pub(crate) fn own() -> io::Result<Console> {
        Ok(Console {
            stdin: io::stdin().as_fd().try_clone_to_owned()?.into(),
            stdout: io::stdout().as_fd().try_clone_to_owned()?.into(),
            stderr: io::stderr().as_fd().try_clone_to_owned()?.into(),
            directory: None,
        })
    }

    /// That of another process.
    pub(crate) fn of_another([stdin, stdout, stderr]: [File; 3], directory: PathBuf) -> Console {
        Console { stdin, stdout, stderr, directory: Some(directory) }
    }

    /// `path` as this process must name it.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        match &self.directory {
            Some(directory) => directory.join(path),
            None => path.to_owned(),
        }
    }

    /// `path` as the user would name it.
    pub(crate) fn shown<'p>(&self, path: &'p Path) -> std::path::Display<'p> {
        let directory = self.directory.as_deref();
        directory.and_then(|directory| path.strip_prefix(directory).ok()).unwrap_or(path).display()
    }

    /// What is read fails once `monitor` is cancelled, were there something to read or not.
    pub(crate) fn stdin(&self, monitor: &Monitor) -> io::Result<impl Read + Send + 'static> {
        Ok(Stdin { file: self.stdin.try_clone()?, monitor: monitor.clone() })
    }

    pub(crate) fn stdout(&self) -> io::Result<impl Write + 'static> {
        // A longer pipe spares both of its ends most of their waits. Refused for what is no pipe, and where users may not have that much.
        let _ = rustix::pipe::fcntl_setpipe_size(&self.stdout, PIPE_BYTES);
        self.stdout.try_clone()
    }

    /// Prints `text` as it is.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        (&self.stdout).write_all(text.as_bytes())
    }

    /// Prints a line on standard error. Where that is gone there is nobody left to tell.
    pub(crate) fn tell(&self, text: &str) {
        let _ = (&self.stderr).write_all(format!("{text}\n").as_bytes());
    }

    /// Where progress is drawn; `None` where standard error is no terminal.
    pub(crate) fn terminal(&self) -> Option<ProgressDrawTarget> {
        if !self.stderr.is_terminal() {
            return None;
        }
        let (read, write) = (self.stderr.try_clone().ok()?, self.stderr.try_clone().ok()?);
        Some(ProgressDrawTarget::term(console::Term::read_write_pair(read, write), 20))
    }
}
