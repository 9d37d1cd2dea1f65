//! The side of the command that somebody typed.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{MAGIC, Request, short_name, socket};

/// A running node that commands can be handed to.
pub(crate) struct Remote {
    stream: UnixStream,
}

/// The node that has the store in `directory` open, if one answers.
pub(crate) fn connect(directory: &Path) -> Option<Remote> {
    if !socket(directory).exists() {
        return None;
    }
    let (_directory, name) = short_name(directory).ok()?;
    UnixStream::connect(name).ok().map(|stream| Remote { stream })
}

impl Remote {
    /// Asks the command to stop.
    pub(crate) fn canceller(&self) -> io::Result<impl Fn() + Send + 'static> {
        let stream = self.stream.try_clone()?;
        Ok(move || {
            // A node that is gone has stopped it already.
            let _ = (&stream).write_all(b"c");
        })
    }

    /// Has the node run this process's command; its exit code.
    pub(crate) fn run(mut self) -> io::Result<u8> {
        let request = Request {
            arguments: std::env::args_os().map(|argument| argument.as_bytes().to_vec()).collect(),
            directory: std::env::current_dir()?.as_os_str().as_bytes().to_vec(),
        };
        let request = serde_json::to_vec(&request)?;
        let mut message = MAGIC.to_vec();
        message.extend_from_slice(&(request.len() as u32).to_le_bytes());
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let files = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::Error::other("there is no room for three files in a message"));
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
        self.stream.write_all(message.get(sent..).unwrap_or_default())?;
        self.stream.write_all(&request)?;
        let mut code = [0];
        self.stream.read_exact(&mut code)?;
        Ok(code[0])
    }
}

/// Whether an `error` of the socket says that the other end is gone.
pub(crate) fn means_an_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
