//! How fast a peer gives what it is asked for, and so how much it is asked for ahead.

use std::time::{Duration, Instant};

use crate::net::board::HEDGE_FLOOR;

/// Plain bytes under way to one peer: at least, and at most. Few at first: a peer may turn out to be slow, and what it alone has then waits
/// behind the rest.
const WINDOW_BYTES: std::ops::RangeInclusive<u64> = (128 << 10)..=(16 << 20);

/// To a peer that gives as much before others would be asked in its place, so many are under way, however near it is. What comes is then
/// still in the processor's cache when it is verified.
const BRISK_BYTES: u64 = 512 << 10;

/// How much may be under way to one peer: twice the bandwidth-delay product, or what a peer gives in the time after which others are asked.
#[derive(Default)]
pub(super) struct Pace {
    fastest: Option<Duration>,
    bytes_per_second: f64,
    since: Option<Instant>,
    bytes: u64,
}

impl Pace {
    /// Notes that so many plain bytes came after `took`.
    pub(super) fn note(&mut self, bytes: u64, took: Duration) {
        self.fastest = Some(self.fastest.map_or(took, |fastest| fastest.min(took)));
        self.bytes += bytes;
        let since = *self.since.get_or_insert_with(Instant::now);
        let elapsed = since.elapsed().as_secs_f64();
        // The first estimate soon: until there is one, little is asked for.
        let enough = if self.bytes_per_second == 0.0 { 0.005 } else { 0.05 };
        if elapsed > enough {
            self.bytes_per_second = self.bytes as f64 / elapsed;
            (self.since, self.bytes) = (Some(Instant::now()), 0);
        }
    }

    /// Plain bytes that may be under way.
    pub(super) fn bytes(&self) -> u64 {
        let product = self.bytes_per_second * self.fastest.unwrap_or_default().as_secs_f64();
        let brisk = (self.bytes_per_second * HEDGE_FLOOR.as_secs_f64()) as u64;
        ((2.0 * product) as u64).max(brisk.min(BRISK_BYTES)).clamp(*WINDOW_BYTES.start(), *WINDOW_BYTES.end())
    }
}
