//! [`Error`]: one public error, by what a caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, to what, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key, label, version or option does not follow its syntax.
    #[error("{what} {input:?} is not valid: {why}")]
    Syntax {
        /// What was being read: `key`, `label`, `version`…
        what: &'static str,
        /// The text as given.
        input: String,
        /// The rule that it breaks.
        why: String,
    },

    /// A key, version, label, file or tensor that the store does not hold.
    #[error("no {what} {name:?} in {place}{}", suggest(.nearest))]
    NotFound {
        /// `key`, `version`, `label`, `file` or `tensor`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// Where it was looked for.
        place: String,
        /// Names that exist and are close to it, nearest first.
        nearest: Vec<String>,
    },

    /// The payload to store, or the place to restore to, is not usable as it is.
    #[error("{}: {why}", path.display())]
    Input {
        /// The path as given.
        path: PathBuf,
        /// What is wrong, and the remedy.
        why: String,
    },

    /// A file was written to while it was being read.
    #[error("{}: changed while it was being read; nothing was stored: put it again once its writer is done", path.display())]
    InputChanged {
        /// The file.
        path: PathBuf,
    },

    /// Stored bytes do not match their hash or checksum.
    #[error("damaged {what} in {place}: {why}; run `caskad verify --all` to see what it touches")]
    Damaged {
        /// `chunk`, `manifest`, `pack`, `index`, `config`…
        what: &'static str,
        /// Where: a pack and offset, a file of the store, a key.
        place: String,
        /// What does not match.
        why: String,
    },

    /// Another process has the store open.
    #[error("the store {} is in use by {}; wait for it to finish, or choose another store", path.display(), holder(.pid))]
    Locked {
        /// The store.
        path: PathBuf,
        /// The process that holds it, where it could be read.
        pid: Option<u32>,
    },

    /// The store was written by a newer caskad.
    #[error("the store {} has format {found}, this caskad reads up to {supported}; use a newer caskad", path.display())]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// The format that it has.
        found: u32,
        /// The newest format that this version knows.
        supported: u32,
    },

    /// The directory holds something else than a store.
    #[error("{} is not a caskad store: {why}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is there instead.
        why: String,
    },

    /// A change was asked of a store that can only be read.
    #[error("the store {} is read-only; nothing was changed", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },

    /// A version is protected from what would remove it.
    #[error("{name} is pinned, so it was not removed; `caskad unpin` it first")]
    Pinned {
        /// The version.
        name: String,
    },

    /// The disk, or the quota on it, is full.
    #[error("no space left while writing {}{}: earlier versions are intact; free some space and repeat", path.display(), why_no_space(source))]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// An earlier write failed, so this handle takes no more of them.
    #[error(
        "an earlier write to the store failed ({why}); open it again to go on, or restart the node that has it; committed versions are intact"
    )]
    WriteFailed {
        /// What the earlier write said.
        why: String,
    },

    /// The system refused a read or a write.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `open`…
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// The index database refused an operation.
    #[error("the index cannot {action}: {source}; deleting index.redb is safe, it is rebuilt from the packs")]
    Index {
        /// What was tried.
        action: &'static str,
        /// The database's answer.
        source: Box<redb::Error>,
    },

    /// Something is larger than caskad accepts.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// What is too large, with its unit.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// The bound, from [`crate::limits`].
        limit: u64,
    },

    /// The network, or a peer in it, does not do what is needed of it.
    #[error("the network: {what}: {why}")]
    Network {
        /// What was wanted of it.
        what: &'static str,
        /// What came instead, and the remedy.
        why: String,
    },

    /// What is not here can be asked of nobody.
    #[error(
        "no peer is connected, so nobody can be asked for {wanted}; `caskad peers` lists those that are known, \
         `caskad node --join ADDR` joins one"
    )]
    NoPeers {
        /// What was asked for.
        wanted: String,
    },

    /// What is not here could be had of none of the peers that should have it.
    #[error(
        "{chunks} of the chunks of {what} (the first is {first}) could be had from no peer; try again when more of those that keep them are in \
         reach: `caskad peers` lists who is connected"
    )]
    Unavailable {
        /// What they belong to.
        what: &'static str,
        /// Some of those who should have them could not be reached, or were lost.
        out_of_reach: bool,
        /// Chunks that did not come.
        chunks: usize,
        /// The first of them, shortened.
        first: String,
    },

    /// Fewer peers than are needed keep what was put.
    #[error(
        "{name} is stored here, but too few peers keep it: {found} of {needed} for {short} of {chunks} chunks \
         (peers known for them: {peers}, this one included{}); the node goes on trying when more peers come{}",
        if *full > 0 { format!("; {full} of them have no room for it, or no more for this node") } else { String::new() },
        if *full > 0 { " or some have more room" } else { "" }
    )]
    TooFewPeers {
        /// The version.
        name: String,
        /// The fewest peers that keep one of its chunks.
        found: usize,
        /// How many must.
        needed: usize,
        /// Chunks that are kept by too few.
        short: usize,
        /// All of its chunks.
        chunks: usize,
        /// Peers that they may go to, as far as is known, this one included.
        peers: usize,
        /// How many of those refused some of it for want of room, or for a quota.
        full: usize,
    },

    /// The caller's [`Monitor`](crate::Monitor) asked to stop.
    #[error("cancelled; what was not complete by then leaves bytes that `caskad gc` reclaims")]
    Cancelled,
}

/// What is to be said of a full disk beyond that.
fn why_no_space(source: &io::Error) -> String {
    // The system says no more than that it is full.
    if source.get_ref().is_some() { format!(" ({source})") } else { String::new() }
}

impl Error {
    /// A word for scripts: the `kind` of the command's JSON errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Syntax { .. } => "syntax",
            Error::NotFound { .. } => "not_found",
            Error::Input { .. } => "input",
            Error::InputChanged { .. } => "input_changed",
            Error::Damaged { .. } => "damaged",
            Error::Locked { .. } => "locked",
            Error::NewerFormat { .. } => "newer_format",
            Error::NotAStore { .. } => "not_a_store",
            Error::ReadOnly { .. } => "read_only",
            Error::Pinned { .. } => "pinned",
            Error::NoSpace { .. } => "no_space",
            Error::WriteFailed { .. } => "write_failed",
            Error::Io { .. } => "io",
            Error::Index { .. } => "index",
            Error::Limit { .. } => "limit",
            Error::Network { .. } => "network",
            Error::NoPeers { .. } => "no_peers",
            Error::Unavailable { .. } => "unavailable",
            Error::TooFewPeers { .. } => "too_few_peers",
            Error::Cancelled => "cancelled",
        }
    }

    /// Wraps an answer of the system, telling a full disk from the rest. An error of ours that a reader or writer passes on stays what it is.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Error {
        let source = match source.downcast() {
            Ok(own) => return own,
            Err(source) => source,
        };
        let path = path.as_ref().to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace { path, source },
            io::ErrorKind::ReadOnlyFilesystem => Error::ReadOnly { path },
            _ => Error::Io { action, path, source },
        }
    }

    /// Wraps an answer of the index database.
    pub(crate) fn index(action: &'static str, source: impl Into<redb::Error>) -> Error {
        Error::Index { action, source: Box::new(source.into()) }
    }
}

fn suggest(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(", ")),
    }
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
