//! A payload as stripes of fixed length, handed out to the threads that cut and encode it.
//!
//! Invariant: at most one stripe and one longest chunk per thread is in memory, whatever the payload's length.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::chunk::{ElementWidth, Span};
use crate::limits::CHUNK_BYTES;
use crate::split::{CutSizes, Run, Window};

/// Bytes of a stripe: a power of two, so that each is a whole subtree of the payload's BLAKE3 tree.
pub(super) const STRIPE_BYTES: u64 = 4 << 20;

/// One stripe of a payload. Its bytes, and up to a longest chunk of those that follow, are in the buffer that came with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stripe {
    pub(super) index: u64,
    pub(super) span: Span,
    /// The payload's length, once its end is known.
    pub(super) payload_len: Option<u64>,
}

impl Stripe {
    /// Stripe `index` of a payload of `len` bytes; `None` past its end.
    pub(super) fn at(index: u64, len: u64) -> Option<Stripe> {
        let offset = index.checked_mul(STRIPE_BYTES).filter(|&offset| offset < len)?;
        let span = Span::new(offset, STRIPE_BYTES.min(len - offset));
        Some(Stripe { index, span, payload_len: Some(len) })
    }
}

/// Where stripes come from.
pub(super) enum StripeSource<'a> {
    /// A file of a known length, to be cut in runs.
    File { file: &'a File, len: u64, runs: Vec<Run>, next: AtomicU64 },
    /// Bytes that arrive in order and end at some point.
    Stream(Mutex<Stream<'a>>),
}

pub(super) struct Stream<'a> {
    reader: Box<dyn Read + Send + 'a>,
    /// What was read behind the last stripe.
    carry: Vec<u8>,
    index: u64,
    ended: bool,
}

impl<'a> StripeSource<'a> {
    /// A file of `len` bytes, which `runs` cover.
    pub(super) fn file(file: &'a File, len: u64, runs: Vec<Run>) -> StripeSource<'a> {
        StripeSource::File { file, len, runs, next: AtomicU64::new(0) }
    }

    pub(super) fn stream(reader: impl Read + Send + 'a) -> StripeSource<'a> {
        StripeSource::Stream(Mutex::new(Stream { reader: Box::new(reader), carry: Vec::new(), index: 0, ended: false }))
    }

    /// How many threads could find work at once.
    pub(super) fn parallelism(&self) -> u64 {
        match self {
            StripeSource::File { len, .. } => len.div_ceil(STRIPE_BYTES).max(1),
            StripeSource::Stream(_) => u64::MAX,
        }
    }

    /// Where `stripe` may be cut. A stream is one run, whose end is known once it came.
    pub(super) fn runs(&self, stripe: &Stripe) -> Cow<'_, [Run]> {
        match self {
            StripeSource::File { runs, .. } => Cow::Borrowed(runs),
            StripeSource::Stream(_) => Cow::Owned(vec![Run {
                span: Span::new(0, stripe.payload_len.unwrap_or(u64::MAX)),
                width: ElementWidth::Unknown,
                sizes: CutSizes::OPAQUE,
            }]),
        }
    }

    /// Reads the next stripe into `buffer`; `None` at the payload's end.
    pub(super) fn next(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Stripe>> {
        match self {
            StripeSource::File { file, len, runs, next } => {
                let Some(stripe) = Stripe::at(next.fetch_add(1, Ordering::Relaxed), *len) else { return Ok(None) };
                let window = Window::needed_in(runs, stripe.span);
                buffer.resize(window.len as usize, 0);
                file.read_exact_at(buffer, window.offset)?;
                Ok(Some(stripe))
            }
            StripeSource::Stream(stream) => stream.lock().unwrap_or_else(PoisonError::into_inner).next(buffer),
        }
    }
}

impl Stream<'_> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<Stripe>> {
        let wanted = STRIPE_BYTES as usize + CHUNK_BYTES;
        std::mem::swap(buffer, &mut self.carry);
        // What the worker's buffer held before is no part of what comes next, not even where this is the end.
        self.carry.clear();
        if !self.ended {
            let missing = wanted.saturating_sub(buffer.len()) as u64;
            let n = (&mut self.reader).take(missing).read_to_end(buffer)?;
            self.ended = (n as u64) < missing;
        }
        if buffer.is_empty() {
            return Ok(None);
        }
        let offset = self.index * STRIPE_BYTES;
        let span = Span::new(offset, STRIPE_BYTES.min(buffer.len() as u64));
        let payload_len = self.ended.then_some(offset + buffer.len() as u64);
        self.carry.extend_from_slice(buffer.get(span.len as usize..).unwrap_or_default());
        self.index += 1;
        Ok(Some(Stripe { index: self.index - 1, span, payload_len }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_once_for_every_worker() {
        let payload = vec![7; STRIPE_BYTES as usize + 3000];
        let source = StripeSource::stream(payload.as_slice());
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for len in [STRIPE_BYTES, 3000] {
            let stripe = source.next(&mut one).unwrap().unwrap();
            assert_eq!(stripe.span.len, len);
        }
        for _ in 0..2 {
            assert!(source.next(&mut one).unwrap().is_none());
            assert!(source.next(&mut other).unwrap().is_none());
        }
    }
}
