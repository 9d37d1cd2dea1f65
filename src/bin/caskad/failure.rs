//! [`Failure`]: how a command can end other than well, in words, in JSON and as an exit code.

use std::error::Error as _;
use std::io::{self, Write};
use std::process::ExitCode;

use caskad::Error;
use serde_json::{Map, Value, json};

use crate::console::Console;
use crate::output::plain;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

const EXIT_UNVERIFIED: u8 = 1;
pub(crate) const EXIT_ERROR: u8 = 2;
const EXIT_NOT_FOUND: u8 = 3;
const EXIT_TOO_FEW_PEERS: u8 = 4;
const EXIT_LOCKED: u8 = 5;
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// The end of a command that could do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    /// A verification found damage, and its report says where.
    Unverified,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Unverified => EXIT_UNVERIFIED,
        }
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the library said.
    Library(Error),
    /// What the library said, with more for scripts: an object.
    Detailed(Error, Value),
    /// Arguments that do not fit together or do not fit what is stored.
    Usage(String),
    /// A get was interrupted, and the next one goes on.
    Resumable,
    /// Standard output took no more.
    Output(io::Error),
    /// The node that carried the command out is gone.
    NodeEnded,
    /// The node met a defect of its own while it carried the command out.
    Panicked,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            // The only pipe that is written to is standard output.
            Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => Failure::Output(source),
            error => Failure::Library(error),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl Failure {
    /// True if the command was asked to stop.
    pub(crate) fn is_interruption(&self) -> bool {
        self.exit_code() == EXIT_INTERRUPTED
    }

    /// Tells the user, and gives the exit code. A reader that closed the pipe has seen all it wanted: that is no failure.
    pub(crate) fn report(&self, json: bool, console: &Console) -> u8 {
        if matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            return 0;
        }
        let text = match json {
            true => {
                let mut details = self.details();
                details.insert("kind".to_owned(), self.kind().into());
                details.insert("message".to_owned(), self.message().into());
                json!({ "error": details }).to_string()
            }
            false => format!("caskad: {}", plain(&self.message())),
        };
        console.tell(&text);
        self.exit_code()
    }

    /// Prints a line about something that did not stop the command.
    pub(crate) fn warn(message: &str, console: &Console) {
        console.tell(&format!("caskad: warning: {}", plain(message)));
    }

    fn exit_code(&self) -> u8 {
        match self {
            Failure::Library(error) | Failure::Detailed(error, _) => match error {
                Error::Damaged { .. } => EXIT_UNVERIFIED,
                Error::NotFound { .. } => EXIT_NOT_FOUND,
                Error::TooFewPeers { .. } | Error::NoPeers { .. } | Error::Unavailable { .. } => EXIT_TOO_FEW_PEERS,
                Error::Locked { .. } => EXIT_LOCKED,
                Error::Cancelled => EXIT_INTERRUPTED,
                _ => EXIT_ERROR,
            },
            Failure::Resumable => EXIT_INTERRUPTED,
            Failure::Usage(_) | Failure::Output(_) | Failure::NodeEnded | Failure::Panicked => EXIT_ERROR,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Failure::Library(error) | Failure::Detailed(error, _) => error.kind(),
            Failure::Usage(_) => "usage",
            Failure::Resumable => Error::Cancelled.kind(),
            Failure::Output(_) => "io",
            Failure::NodeEnded => "node_ended",
            Failure::Panicked => "panicked",
        }
    }

    fn message(&self) -> String {
        match self {
            Failure::Library(error) | Failure::Detailed(error, _) => error.to_string(),
            Failure::Usage(message) => message.clone(),
            Failure::Resumable => "cancelled; the same command again goes on where this one stopped".to_owned(),
            Failure::Output(error) => format!("cannot write to standard output: {error}"),
            Failure::NodeEnded => "the node on this store ended before the command was done; \
                                   what it was storing may be stored: look with `caskad log`"
                .to_owned(),
            Failure::Panicked => {
                "the node on this store met a defect of its own, which its log describes: please report it; \
                                  what the command was storing may be stored: look with `caskad log`"
                    .to_owned()
            }
        }
    }

    /// What scripts would otherwise read out of the message.
    fn details(&self) -> Map<String, Value> {
        let details = match self {
            Failure::Library(error) => match error {
                Error::Syntax { what, input, why } => json!({ "what": what, "input": input, "why": why }),
                Error::NotFound { what, name, place, nearest } => {
                    json!({ "what": what, "name": name, "place": place, "nearest": nearest })
                }
                Error::Input { path, why } => json!({ "path": path.display().to_string(), "why": why }),
                Error::Damaged { what, place, why } => json!({ "what": what, "place": place, "why": why }),
                Error::Locked { path, pid } => json!({ "path": path.display().to_string(), "pid": pid }),
                Error::NewerFormat { path, found, supported } => {
                    json!({ "path": path.display().to_string(), "found": found, "supported": supported })
                }
                Error::InputChanged { path }
                | Error::NotAStore { path, .. }
                | Error::ReadOnly { path }
                | Error::NoSpace { path, .. }
                | Error::Io { path, .. } => json!({ "path": path.display().to_string() }),
                Error::TooFewPeers { name, found, needed, short, chunks, peers, full } => json!({
                    "name": name, "found": found, "needed": needed, "short": short, "chunks": chunks, "peers": peers,
                    "full": full
                }),
                Error::Unavailable { what, out_of_reach, chunks, first } => {
                    json!({ "what": what, "out_of_reach": out_of_reach, "chunks": chunks, "first": first })
                }
                Error::NoPeers { wanted } => json!({ "wanted": wanted }),
                Error::Pinned { name } => json!({ "name": name }),
                Error::Network { what, why } => json!({ "what": what, "why": why }),
                Error::Limit { what, found, limit } => json!({ "what": what, "found": found, "limit": limit }),
                _ => Value::Null,
            },
            Failure::Detailed(_, details) => details.clone(),
            _ => Value::Null,
        };
        match details {
            Value::Object(details) => details,
            _ => Map::new(),
        }
    }
}

/// Tells the user what clap has to say: its help on standard output, or what is wrong with the arguments.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    // The arguments were not understood, so `--json` is looked for among them as they are.
    let json = std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
    if !json || !error.use_stderr() {
        // A reader that closed the pipe has seen enough of the help.
        let _ = error.print();
        return if error.use_stderr() { EXIT_ERROR.into() } else { ExitCode::SUCCESS };
    }
    let kind = error.source().and_then(|source| source.downcast_ref::<Error>()).map_or("usage", Error::kind);
    let text = error.render().to_string();
    let end = ["\n\nUsage:", "\n\nFor more information"].into_iter().filter_map(|end| text.find(end)).min();
    let message = text.get(..end.unwrap_or(text.len())).unwrap_or_default().trim().trim_start_matches("error: ");
    let _ = writeln!(io::stderr(), "{}", json!({ "error": { "kind": kind, "message": message } }));
    EXIT_ERROR.into()
}
