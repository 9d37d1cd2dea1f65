//! Commands on a store that a node has open go through that node: the client hands over its arguments, its directory and its open files, and
//! the node runs the command as if it were the client.
//!
//! The socket is `node.sock` in the store's directory, which its user alone can open; whoever connects must be of the same user. A request is
//! [`MAGIC`], the length of what follows (4 bytes, little-endian) and a [`Request`] in JSON, sent with three file descriptors: standard input,
//! output and error. The client may then send one byte to have the command stop; so does its end. The answer is one byte: the exit code.

mod client;
mod server;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use client::{Remote, connect, means_an_end};
pub(crate) use server::Server;

const MAGIC: [u8; 4] = *b"ckc1";

/// Longest request, in bytes.
const REQUEST_BYTES: usize = 1 << 20;

/// What the client wants run.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Its arguments, the program's name first, byte for byte.
    arguments: Vec<Vec<u8>>,
    /// The directory that its relative paths start from.
    directory: Vec<u8>,
}

/// The socket of the store in `directory`.
pub(crate) fn socket(directory: &Path) -> PathBuf {
    directory.join("node.sock")
}

/// A name for the socket that is short enough for the system, whatever the directory is called: by way of an open descriptor of it.
fn short_name(directory: &Path) -> std::io::Result<(std::fs::File, PathBuf)> {
    use std::os::fd::AsRawFd as _;
    let opened = std::fs::File::open(directory)?;
    let name = PathBuf::from(format!("/proc/self/fd/{}/node.sock", opened.as_raw_fd()));
    Ok((opened, name))
}
