//! How a connection is written and read: small writes leave with the next large one, and a long read makes way for others.
//!
//! yamux writes the twelve bytes of a frame's header by themselves. Below it that would be a TLS record, a system call and a TCP segment
//! of their own for each frame. And it reads for as long as there is something to read; whoever is to work with what came would wait until
//! then, and the other end meanwhile for their answer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};

/// Writes that are shorter wait for what follows, or for a flush.
const SMALL: usize = 1 << 10;

/// Bytes that wait at most.
const HELD_BYTES: usize = 4 << 10;

/// Bytes that are read in one go.
const BURST_BYTES: usize = 1 << 20;

/// A stream whose small writes are held back until there is more to write, or a flush.
pub(super) struct Gather<T> {
    inner: T,
    held: Vec<u8>,
    /// Since it was last waited for.
    read_bytes: usize,
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    pub(super) fn new(inner: T) -> Gather<T> {
        Gather { inner, held: Vec::with_capacity(HELD_BYTES), read_bytes: 0 }
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if bytes.len() < SMALL {
            if this.held.len() + bytes.len() > HELD_BYTES {
                ready!(this.poll_held(cx))?;
            }
            this.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        while !this.held.is_empty() {
            let both = [IoSlice::new(&this.held), IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_held = written.min(this.held.len());
            this.held.drain(..of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.read_bytes >= BURST_BYTES {
            self.read_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        self.read_bytes = match &read {
            Poll::Ready(Ok(bytes)) => self.read_bytes + bytes,
            _ => 0,
        };
        read
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use proptest::prelude::*;

    use super::*;

    /// Takes so many bytes at a time, and counts the writes.
    #[derive(Default)]
    struct Sink {
        taken: Vec<u8>,
        writes: usize,
        most: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = all.len().min(self.most);
            self.taken.extend_from_slice(&all[..taken]);
            self.writes += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn what_is_written_arrives_in_order_and_whole_with_a_flush(
            writes in prop::collection::vec((0..6000_usize, any::<bool>()), 1..40), most in 1..9000_usize,
        ) {
            let mut gather = Gather::new(Sink { most, ..Sink::default() });
            let mut all = Vec::new();
            for (number, (len, flush)) in writes.into_iter().enumerate() {
                let bytes = vec![number as u8; len];
                all.extend_from_slice(&bytes);
                block_on(gather.write_all(&bytes)).unwrap();
                if flush {
                    block_on(gather.flush()).unwrap();
                    prop_assert_eq!(&gather.inner.taken, &all);
                }
            }
            block_on(gather.close()).unwrap();
            prop_assert_eq!(&gather.inner.taken, &all);
        }
    }

    #[test]
    fn a_header_leaves_with_its_body() {
        let mut gather = Gather::new(Sink { most: usize::MAX, ..Sink::default() });
        block_on(async {
            gather.write_all(&[1; 12]).await.unwrap();
            assert_eq!(gather.inner.writes, 0);
            gather.write_all(&[2; 65536]).await.unwrap();
            gather.flush().await.unwrap();
        });
        assert_eq!((gather.inner.writes, gather.inner.taken.len()), (1, 65548));
    }

    #[test]
    fn a_long_read_makes_way_for_others() {
        let mut gather = Gather::new(futures::io::AllowStdIo::new(std::io::Cursor::new(vec![7; 3 * BURST_BYTES])));
        let mut read = vec![0; 3 * BURST_BYTES];
        let mut reading = Box::pin(async {
            for part in read.chunks_mut(64 << 10) {
                gather.read_exact(part).await.unwrap();
            }
        });
        let (mut waits, mut cx) = (0, Context::from_waker(std::task::Waker::noop()));
        while reading.as_mut().poll(&mut cx).is_pending() {
            waits += 1;
        }
        drop(reading);
        assert_eq!(waits, 2);
        assert!(read.iter().all(|byte| *byte == 7));
    }
}
