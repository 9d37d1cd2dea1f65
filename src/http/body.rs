//! Bodies between an async connection and a thread that blocks: short channels with a bound on how long either side waits.

use std::io::{self, Read, Write};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Buffers that wait to be sent or read.
const BUFFERS: usize = 4;

/// Most bytes in one of them.
const BUFFER_BYTES: usize = 256 << 10;

/// The end of a body that a thread writes to. An error of the writer's cuts the body short, which the client notices.
pub(super) struct BodyWriter {
    runtime: Handle,
    sender: mpsc::Sender<io::Result<Bytes>>,
    stall: Duration,
}

/// A body, and where to write it. To be called in the runtime that sends it.
pub(super) fn pipe(stall: Duration) -> (Body, BodyWriter) {
    let (sender, mut receiver) = mpsc::channel(BUFFERS);
    let stream = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    (Body::from_stream(stream), BodyWriter { runtime: Handle::current(), sender, stall })
}

impl BodyWriter {
    /// Ends the body with an error.
    pub(super) fn fail(&self, why: &str) {
        let _ = self.send(Err(io::Error::other(why.to_owned())));
    }

    fn send(&self, piece: io::Result<Bytes>) -> io::Result<()> {
        // Called on threads that may block only.
        let sent = self.runtime.block_on(async { tokio::time::timeout(self.stall, self.sender.send(piece)).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client is gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")),
        }
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(BUFFER_BYTES)];
        self.send(Ok(Bytes::copy_from_slice(piece)))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why the body of a request ended early.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ClientFault(String);

/// The body of a request, for whichever thread reads it: a put has others read for it, which know of no runtime.
pub(super) struct BodyReader {
    runtime: Handle,
    body: BodyDataStream,
    left: Bytes,
    stall: Duration,
    /// Bytes that may still come.
    room: u64,
}

impl BodyReader {
    /// Gives up to `most` bytes of the body, and an error where there are more. To be called in the runtime that the body comes from.
    pub(super) fn new(body: Body, stall: Duration, most: u64) -> BodyReader {
        BodyReader { runtime: Handle::current(), body: body.into_data_stream(), left: Bytes::new(), stall, room: most }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            let next = self.runtime.block_on(async { tokio::time::timeout(self.stall, self.body.next()).await });
            match next {
                Ok(Some(Ok(bytes))) => {
                    self.room = self.room.checked_sub(bytes.len() as u64).ok_or_else(|| {
                        let why = "the upload is longer than this node takes".to_owned();
                        io::Error::new(io::ErrorKind::FileTooLarge, ClientFault(why))
                    })?;
                    self.left = bytes;
                }
                Ok(None) => return Ok(0),
                Ok(Some(Err(error))) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, ClientFault(error.to_string())));
                }
                Err(_) => {
                    let why = "the client stopped sending".to_owned();
                    return Err(io::Error::new(io::ErrorKind::TimedOut, ClientFault(why)));
                }
            }
        }
        let n = self.left.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.left.split_to(n));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_thread_may_read_and_write() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (body, mut writer) = runtime.block_on(async { pipe(Duration::from_secs(60)) });
        let mut reader = runtime.block_on(async { BodyReader::new(body, Duration::from_secs(60), 100) });
        std::thread::spawn(move || writer.write_all(b"some bytes").unwrap());
        let read = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        });
        assert_eq!(read.join().unwrap(), b"some bytes");
    }
}
