//! Cutting one payload with several threads, with exactly the cut points of one.
//!
//! A payload is divided into stripes at fixed offsets. Each thread cuts a stripe as if a cut fell on its start: the guess is wrong, but a
//! content-defined cutter forgets where it began, and within a few chunks it falls in with the serial one. Once the cutter before it has
//! arrived, a stripe is *settled*: re-cut from the true entry until a cut meets a guessed one, and from there on the guess holds.
//!
//! Invariant: settling the stripes in order gives the chunks of [`cut_all`], for every content and every stripe size. Content without
//! cut points of its own (a constant, a short period) makes settling slower, never different.

use crate::chunk::{ElementWidth, Span};
use crate::limits::CHUNK_BYTES;

use super::run::Run;

/// Bytes at the start of a stripe that are looked at to see whether it is constant: more than the hash of FastCDC remembers.
const CONSTANT_PROBE_BYTES: usize = 64;

/// A part of a payload that is in memory.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    offset: u64,
    bytes: &'a [u8],
}

impl<'a> Window<'a> {
    /// `bytes`, which lie at `offset` of the payload.
    pub const fn new(offset: u64, bytes: &'a [u8]) -> Window<'a> {
        Window { offset, bytes }
    }

    /// What the window of `stripe` has to hold in a payload of `len` bytes: the stripe, and a longest chunk more, since a chunk may start at
    /// its last byte.
    pub fn needed(stripe: Span, len: u64) -> Span {
        let end = stripe.end().saturating_add(CHUNK_BYTES as u64).min(len);
        Span::new(stripe.offset, end.saturating_sub(stripe.offset))
    }

    /// As [`needed`](Window::needed), where the runs are known: no chunk reaches past the run that it starts in.
    pub fn needed_in(runs: &[Run], stripe: Span) -> Span {
        let last = stripe.end().saturating_sub(1);
        let passed = runs.partition_point(|run| run.span.end() <= last);
        let end = runs.get(passed).map_or(stripe.end(), |run| {
            let longest = stripe.end().saturating_add(run.sizes.max() as u64);
            longest.min(run.span.end()).max(stripe.end())
        });
        Span::new(stripe.offset, end - stripe.offset)
    }

    /// The bytes of `span`.
    ///
    /// # Panics
    /// If they are not all in the window: going on with fewer would give cut points that no other machine finds.
    fn bytes(&self, span: Span) -> &'a [u8] {
        let start = span.offset.checked_sub(self.offset);
        let range = start.and_then(|start| Some((usize::try_from(start).ok()?, usize::try_from(span.len).ok()?)));
        let bytes = range.and_then(|(start, len)| self.bytes.get(start..)?.get(..len));
        assert!(bytes.is_some(), "the window at {} of {} bytes lacks {span:?}", self.offset, self.bytes.len());
        bytes.unwrap_or_default()
    }
}

/// The serial cutter: chunks one after another from a forced cut or any earlier cut.
struct Cutter<'a> {
    runs: &'a [Run],
    window: Window<'a>,
    at: u64,
}

impl<'a> Cutter<'a> {
    fn new(runs: &'a [Run], window: Window<'a>, at: u64) -> Cutter<'a> {
        let passed = runs.partition_point(|run| run.span.end() <= at);
        Cutter { runs: &runs[passed..], window, at }
    }
}

impl Iterator for Cutter<'_> {
    type Item = (Span, ElementWidth);

    fn next(&mut self) -> Option<(Span, ElementWidth)> {
        let run = self.runs.first()?;
        let rest = run.span.end() - self.at;
        let view = rest.min(run.sizes.max() as u64);
        let len = run.sizes.next_cut(self.window.bytes(Span::new(self.at, view)), view == rest)? as u64;
        let chunk = Span::new(self.at, len);
        self.at += len;
        if len == rest {
            self.runs = &self.runs[1..];
        }
        Some((chunk, run.width))
    }
}

/// The chunks of a whole payload, cut by one thread: the definition that stripes must reproduce.
///
/// # Panics
/// If the runs reach past `bytes`.
pub fn cut_all(runs: &[Run], bytes: &[u8]) -> Vec<(Span, ElementWidth)> {
    Cutter::new(runs, Window::new(0, bytes), 0).collect()
}

/// A stripe cut on the guess that a cut falls on its start.
#[derive(Debug, Clone)]
pub struct Speculation {
    stripe: Span,
    chunks: Vec<(Span, ElementWidth)>,
}

/// The true chunks of a stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The chunks that start inside the stripe, in order.
    pub chunks: Vec<(Span, ElementWidth)>,
    /// How many of them, from the first, had to be cut anew. The rest are the last ones of [`Speculation::chunks`].
    pub recut: usize,
    /// Where the last chunk ends: the entry of the next stripe.
    pub exit: u64,
}

impl Speculation {
    /// Cuts `stripe` from its start, through every run that begins inside it, until the first cut at its end or past it.
    ///
    /// # Panics
    /// If `window` is short of [`Window::needed`].
    pub fn cut(runs: &[Run], window: Window<'_>, stripe: Span) -> Speculation {
        let mut cutter = Cutter::new(runs, window, guess(runs, window, stripe));
        let mut chunks = Vec::new();
        while cutter.at < stripe.end() {
            let Some(chunk) = cutter.next() else { break };
            chunks.push(chunk);
        }
        Speculation { stripe, chunks }
    }

    /// The chunks as guessed; those that [`settle`](Speculation::settle) keeps are the last of them.
    pub fn chunks(&self) -> &[(Span, ElementWidth)] {
        &self.chunks
    }

    /// The chunks of the stripe for a cutter that enters it at `entry`: the exit of the stripe before, 0 for the first. A chunk that spans
    /// the stripe whole leaves it none.
    ///
    /// # Panics
    /// If `window` is short of [`Window::needed`], or `entry` lies before the stripe.
    pub fn settle(&self, entry: u64, runs: &[Run], window: Window<'_>) -> Settled {
        let mut cutter = Cutter::new(runs, window, entry);
        let mut chunks = Vec::new();
        let mut guessed = self.chunks.as_slice();
        let kept: &[(Span, ElementWidth)] = loop {
            if cutter.at >= self.stripe.end() {
                break &[];
            }
            let passed = guessed.iter().take_while(|(span, _)| span.offset < cutter.at).count();
            guessed = &guessed[passed..];
            if guessed.first().is_some_and(|(span, _)| span.offset == cutter.at) {
                break guessed;
            }
            match cutter.next() {
                Some(chunk) => chunks.push(chunk),
                None => break &[],
            }
        };
        let recut = chunks.len();
        let exit = kept.last().map_or(cutter.at, |(span, _)| span.end());
        chunks.extend_from_slice(kept);
        Settled { chunks, recut, exit }
    }
}

/// Where to start cutting a stripe: on its first byte, or on the next one where the serial cutter can cut at all.
///
/// In constant content, such as a tensor of zeros, no cut is ever found and every chunk is a longest one. There the guess is a multiple
/// of that from the run's start, which is right where the run was constant so far, and never met by cutting where it is not.
fn guess(runs: &[Run], window: Window<'_>, stripe: Span) -> u64 {
    let passed = runs.partition_point(|run| run.span.end() <= stripe.offset);
    let Some(Run { span, sizes, .. }) = runs.get(passed) else { return stripe.offset };
    let inside = stripe.offset.saturating_sub(span.offset);
    let probe_len = stripe.len.min(span.end() - stripe.offset).min(CONSTANT_PROBE_BYTES as u64);
    let probe = window.bytes(Span::new(stripe.offset, probe_len));
    let constant = probe.windows(2).all(|pair| pair[0] == pair[1]);
    let step = if constant { sizes.constant_step() } else { sizes.align() };
    (span.offset + inside.next_multiple_of(step as u64)).min(span.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::cut::CutSizes;

    fn run(offset: u64, len: u64, sizes: CutSizes) -> Run {
        Run { span: Span::new(offset, len), width: ElementWidth::Unknown, sizes }
    }

    fn settle_all(runs: &[Run], bytes: &[u8], stripe_len: u64) -> (Vec<(Span, ElementWidth)>, usize) {
        let (mut chunks, mut recut, mut entry) = (Vec::new(), 0, 0);
        for offset in (0..bytes.len() as u64).step_by(stripe_len as usize) {
            let stripe = Span::new(offset, stripe_len.min(bytes.len() as u64 - offset));
            let needed = Window::needed_in(runs, stripe);
            assert!(needed.end() <= Window::needed(stripe, bytes.len() as u64).end());
            let window = Window::new(offset, &bytes[offset as usize..needed.end() as usize]);
            let speculation = Speculation::cut(runs, window, stripe);
            let settled = speculation.settle(entry, runs, window);
            let kept = settled.chunks.len() - settled.recut;
            assert!(
                speculation.chunks().ends_with(&settled.chunks[settled.recut..]) && kept <= speculation.chunks().len()
            );
            chunks.extend(settled.chunks);
            recut += settled.recut;
            entry = settled.exit;
        }
        (chunks, recut)
    }

    #[test]
    fn zeros_are_met_by_the_guess_wherever_their_run_starts() {
        let bytes = vec![0; 12 << 20];
        for sizes in [CutSizes::OPAQUE, CutSizes::TENSOR, CutSizes::new(64 << 10, 256 << 10, 1 << 20, 8).unwrap()] {
            let runs = [run(0, 1003, CutSizes::OPAQUE), run(1003, bytes.len() as u64 - 1003, sizes)];
            let (chunks, recut) = settle_all(&runs, &bytes, 4 << 20);
            assert_eq!(chunks, cut_all(&runs, &bytes));
            assert!(recut <= 2, "{recut} of {} chunks", chunks.len());
        }
    }

    #[test]
    fn the_guess_is_met_within_a_few_chunks() {
        let mut bytes = vec![0; 24 << 20];
        blake3::Hasher::new().update(b"stripes").finalize_xof().fill(&mut bytes);
        for sizes in [CutSizes::TENSOR, CutSizes::OPAQUE, CutSizes::new(64 << 10, 256 << 10, 1 << 20, 8).unwrap()] {
            let runs = [run(0, 1001, sizes), run(1001, bytes.len() as u64 - 1001, sizes)];
            let (chunks, recut) = settle_all(&runs, &bytes, 3 << 20);
            assert_eq!(chunks, cut_all(&runs, &bytes));
            // Eight stripes: about three chunks each before the guess is met.
            assert!(recut <= 32 && recut < chunks.len() / 2, "{recut} of {} chunks", chunks.len());
        }
    }

    #[test]
    fn a_chunk_that_spans_stripes_leaves_them_empty() {
        let bytes = vec![0; 5 << 20];
        let runs = [run(0, bytes.len() as u64, CutSizes::TENSOR)];
        assert_eq!(settle_all(&runs, &bytes, 100_001).0, cut_all(&runs, &bytes));
    }

    #[test]
    #[should_panic(expected = "lacks")]
    fn a_short_window_is_not_cut() {
        let bytes = vec![7; 1 << 20];
        let runs = [run(0, 4 << 20, CutSizes::TENSOR)];
        Speculation::cut(&runs, Window::new(0, &bytes), Span::new(0, (1 << 20) + 1));
    }
}
