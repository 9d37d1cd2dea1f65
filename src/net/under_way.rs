//! What peers are asked for and have not sent yet, and which of it is late: asked for longer ago than is usual. The clock is the caller's.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::net::board::{HEDGE_FLOOR, LOOK_AGAIN};

/// Answers that the median is taken over.
const SAMPLES: usize = 64;

/// So many times the median is late.
const LATE: u32 = 4;

/// A chunk that a peer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Its place on the board.
    pub(crate) chunk: u32,
    pub(super) since: Instant,
}

/// How an answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// In half of what is late, at most.
    WellInTime,
    InTime,
    /// After several times what is usual, were it late or not.
    Behind,
}

/// The questions of one fetch that are open.
#[derive(Debug)]
pub(super) struct UnderWay {
    /// Since when, for which chunk, to which peer.
    questions: BTreeSet<(Instant, u32, u32)>,
    /// How long the last answers took.
    answers: VecDeque<Duration>,
    /// Their median, once there is one.
    usual: Option<Duration>,
    /// What takes longer is late: [`HEDGE_FLOOR`], or [`LATE`] times the median.
    patience: Duration,
    /// The latest question that was answered.
    freshest: Option<Instant>,
}

impl UnderWay {
    pub(super) fn new() -> UnderWay {
        UnderWay {
            questions: BTreeSet::new(),
            answers: VecDeque::new(),
            usual: None,
            patience: HEDGE_FLOOR,
            freshest: None,
        }
    }

    pub(super) fn add(&mut self, ask: Ask, peer: u32) {
        self.questions.insert((ask.since, ask.chunk, peer));
    }

    /// False if the question was not open any more.
    pub(super) fn remove(&mut self, ask: Ask, peer: u32) -> bool {
        self.questions.remove(&(ask.since, ask.chunk, peer))
    }

    /// Notes an answer, and says how it came.
    pub(super) fn note(&mut self, ask: Ask, now: Instant) -> Answer {
        let took = now.saturating_duration_since(ask.since);
        if self.answers.len() == SAMPLES {
            self.answers.pop_front();
        }
        self.answers.push_back(took);
        self.freshest = self.freshest.max(Some(ask.since));
        match self.usual {
            _ if 2 * took < self.patience => Answer::WellInTime,
            Some(usual) if took >= LATE * usual => Answer::Behind,
            _ => Answer::InTime,
        }
    }

    /// Finds out anew what is usual.
    pub(super) fn measure(&mut self) {
        let mut sorted: Vec<Duration> = self.answers.iter().copied().collect();
        sorted.sort_unstable();
        self.usual = sorted.get(sorted.len() / 2).copied();
        self.patience = self.usual.map_or(HEDGE_FLOOR, |usual| HEDGE_FLOOR.max(LATE * usual));
    }

    /// The questions that are late, the oldest first, and to whom.
    pub(super) fn late(&self, now: Instant) -> impl Iterator<Item = (Ask, u32)> {
        let patience = self.patience;
        let late =
            self.questions.iter().take_while(move |(since, ..)| now.saturating_duration_since(*since) >= patience);
        late.map(|(since, chunk, peer)| (Ask { chunk: *chunk, since: *since }, *peer))
    }

    /// How long nothing is late that is not yet, whatever is asked for meanwhile.
    pub(super) fn calm(&self, now: Instant) -> Duration {
        let ages = self.questions.iter().map(|(since, ..)| now.saturating_duration_since(*since));
        ages.map(|age| self.patience.saturating_sub(age)).find(|left| !left.is_zero()).unwrap_or(self.patience)
    }

    /// Whether what was asked for much later has come.
    pub(super) fn is_outrun(&self, ask: Ask) -> bool {
        self.freshest.is_some_and(|freshest| freshest >= ask.since + LOOK_AGAIN)
    }
}
