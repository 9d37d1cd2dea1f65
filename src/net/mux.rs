//! Several streams over one connection: yamux, set up for long transfers.
//!
//! libp2p's own wrapper around the `yamux` crate does not let its user choose the size of data frames. At its 16 KiB the headers, the
//! wake-ups and the small writes are a good part of what a transfer costs; with [`SPLIT_BYTES`] they are not. On the wire this is
//! yamux 1.0.0 like any other (<https://github.com/hashicorp/yamux/blob/master/spec.md>).
//!
//! Invariant: a peer that opens streams faster than they are taken finds the ones above [`INBOUND_STREAMS`] closed; nothing grows with
//! what it sends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::net::gather::Gather;
use futures::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use yamux::{Connection, ConnectionError, Mode, Stream};

/// Bytes of a data frame at most.
const SPLIT_BYTES: usize = 128 << 10;

/// Streams that wait to be taken.
const INBOUND_STREAMS: usize = 64;

/// Streams of one connection, and the bytes that all of them together may have under way.
const STREAMS: usize = 128;
const WINDOW_BYTES: usize = 64 << 20;

/// The upgrade of an encrypted connection to one with streams.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MuxUpgrade;

impl UpgradeInfo for MuxUpgrade {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for MuxUpgrade {
    type Output = Mux<C>;
    type Error = Infallible;
    type Future = Ready<Result<Mux<C>, Infallible>>;

    fn upgrade_inbound(self, connection: C, _: &'static str) -> Self::Future {
        ready(Ok(Mux::new(connection, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for MuxUpgrade {
    type Output = Mux<C>;
    type Error = Infallible;
    type Future = Ready<Result<Mux<C>, Infallible>>;

    fn upgrade_outbound(self, connection: C, _: &'static str) -> Self::Future {
        ready(Ok(Mux::new(connection, Mode::Client)))
    }
}

/// A connection with streams.
pub(super) struct Mux<C> {
    connection: Connection<Gather<C>>,
    /// Streams that the other side opened, until they are asked for.
    inbound: VecDeque<Stream>,
    /// Whoever waits for one.
    waiting: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> Mux<C> {
    fn new(connection: C, mode: Mode) -> Mux<C> {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(STREAMS);
        config.set_max_connection_receive_window(Some(WINDOW_BYTES));
        config.set_split_send_size(SPLIT_BYTES);
        config.set_read_after_close(true);
        Mux {
            connection: Connection::new(Gather::new(connection), config, mode),
            inbound: VecDeque::new(),
            waiting: None,
        }
    }

    /// Drives the connection; all of its streams move only while somebody does.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        match self.connection.poll_next_inbound(cx) {
            Poll::Ready(Some(stream)) => Poll::Ready(stream),
            Poll::Ready(None) => Poll::Ready(Err(ConnectionError::Closed)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> StreamMuxer for Mux<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.inbound.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let found = self.poll_connection(cx);
        if found.is_pending() {
            self.waiting = Some(cx.waker().clone());
        }
        found
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        self.connection.poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let stream = match self.poll_connection(cx) {
            Poll::Ready(stream) => stream?,
            Poll::Pending => return Poll::Pending,
        };
        // Dropped, a stream is reset: the other side sees that it asked for too many.
        if self.inbound.len() < INBOUND_STREAMS {
            self.inbound.push_back(stream);
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
