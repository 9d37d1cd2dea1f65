//! Who fetches which chunk: a plain state machine that peers' tasks take work from. No I/O, and the clock is the caller's.
//!
//! Every peer has a queue of the chunks that it holds, those that it ranks highest for first, so the holders of a group share its chunks
//! without speaking of it. A peer with an empty queue steals: it asks a second time for what another has been asked for longer than is
//! usual ([`HEDGE_FLOOR`], four times the median), once for each chunk. What a peer does not have, or sends wrong, goes to the next holder in
//! rank; a chunk that nobody is left for is lost.
//!
//! Invariant: a chunk is wanted until it is done or lost, and asked for by at most two peers at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The shortest wait before a chunk is asked for a second time.
pub(crate) const HEDGE_FLOOR: Duration = Duration::from_millis(100);

/// The longest wait of a peer that has nothing to do.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Answers that the median is taken over.
const SAMPLES: usize = 64;

/// What a peer's task is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask for this chunk.
    Ask(u32),
    /// Nothing now; look again after this time, or when something changed.
    Wait(Duration),
    /// Nothing any more.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Asked of one peer or two, first at this time.
    Asked(Instant, u8),
    Done,
    Lost,
}

#[derive(Debug)]
struct Chunk {
    state: State,
    /// Peers that may have it, by rank.
    holders: Vec<u32>,
    /// How many of them it was offered to.
    offered: usize,
    /// Of those, by place: they were asked.
    asked: u16,
}

/// The chunks of one fetch.
#[derive(Debug)]
pub(crate) struct Board {
    chunks: Vec<Chunk>,
    queues: Vec<VecDeque<u32>>,
    gone: Vec<bool>,
    left: usize,
    answers: VecDeque<Duration>,
    /// Chunks under way, the longest-asked first; some of them are done by now.
    under_way: VecDeque<u32>,
}

impl Board {
    /// Chunks by their holders (places of peers, by rank), of whom the first `primary` are asked before the others. There are `peers`.
    pub(crate) fn new(holders: Vec<Vec<u32>>, peers: usize, primary: usize) -> Board {
        let mut board = Board {
            left: holders.len(),
            chunks: Vec::with_capacity(holders.len()),
            queues: vec![VecDeque::new(); peers],
            gone: vec![false; peers],
            answers: VecDeque::new(),
            under_way: VecDeque::new(),
        };
        let most = holders.iter().map(|holders| holders.len().min(primary)).max().unwrap_or(0);
        for holders in holders {
            let holders: Vec<u32> = holders.into_iter().take(16).collect();
            let offered = holders.len().min(primary.max(1));
            board.chunks.push(Chunk { state: State::Waiting, holders, offered, asked: 0 });
        }
        for rank in 0..most {
            for (index, chunk) in board.chunks.iter().enumerate() {
                if let Some(&peer) = chunk.holders.get(rank).filter(|_| rank < chunk.offered) {
                    board.queues[peer as usize].push_back(index as u32);
                }
            }
        }
        for index in 0..board.chunks.len() {
            board.offer_more(index as u32);
        }
        board
    }

    /// Chunks that are neither done nor lost.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// The chunks that nobody could give.
    pub(crate) fn lost(&self) -> Vec<u32> {
        let chunks = self.chunks.iter().enumerate();
        chunks.filter(|(_, chunk)| chunk.state == State::Lost).map(|(index, _)| index as u32).collect()
    }

    /// What `peer` is to do at `now`.
    pub(crate) fn next(&mut self, peer: u32, now: Instant) -> Next {
        if self.left == 0 || self.gone.get(peer as usize).is_none_or(|gone| *gone) {
            return Next::Done;
        }
        while let Some(index) = self.queues[peer as usize].pop_front() {
            if self.chunks[index as usize].state == State::Waiting && self.ask(index, peer) {
                self.chunks[index as usize].state = State::Asked(now, 1);
                self.under_way.push_back(index);
                return Next::Ask(index);
            }
        }
        self.steal(peer, now)
    }

    fn steal(&mut self, peer: u32, now: Instant) -> Next {
        let patience = self.patience();
        while let Some(&index) = self.under_way.front() {
            if matches!(self.chunks[index as usize].state, State::Asked(..)) {
                break;
            }
            self.under_way.pop_front();
        }
        // What is asked for from now on is not late before.
        let mut wait = patience.min(LOOK_AGAIN);
        for place in 0..self.under_way.len() {
            let index = self.under_way[place];
            let State::Asked(since, askers) = self.chunks[index as usize].state else { continue };
            let age = now.saturating_duration_since(since);
            if age < patience {
                wait = wait.min(patience - age);
                break;
            }
            if askers == 1 && self.ask(index, peer) {
                self.chunks[index as usize].state = State::Asked(since, 2);
                return Next::Ask(index);
            }
        }
        Next::Wait(wait)
    }

    /// Notes that `peer` is asked for a chunk; false if it is not offered it, or was asked before.
    fn ask(&mut self, index: u32, peer: u32) -> bool {
        let chunk = &mut self.chunks[index as usize];
        let place = chunk.holders.iter().take(chunk.offered).position(|holder| *holder == peer);
        match place {
            Some(place) if chunk.asked & (1 << place) == 0 => {
                chunk.asked |= 1 << place;
                true
            }
            _ => false,
        }
    }

    fn patience(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.answers.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        (4 * median).max(HEDGE_FLOOR)
    }

    /// The chunk came after `took`, and is right. False if it was there already.
    pub(crate) fn done(&mut self, index: u32, took: Duration) -> bool {
        if self.answers.len() == SAMPLES {
            self.answers.pop_front();
        }
        self.answers.push_back(took);
        let chunk = &mut self.chunks[index as usize];
        let first = !matches!(chunk.state, State::Done | State::Lost);
        if first {
            chunk.state = State::Done;
            self.left -= 1;
        }
        first
    }

    /// A peer that was asked for the chunk does not give it.
    pub(crate) fn failed(&mut self, index: u32) {
        let chunk = &mut self.chunks[index as usize];
        chunk.state = match chunk.state {
            State::Asked(since, 2) => State::Asked(since, 1),
            State::Asked(..) => State::Waiting,
            State::Waiting | State::Done | State::Lost => return,
        };
        if chunk.state == State::Waiting {
            let askable: Vec<u32> = self.askable(index).collect();
            for peer in askable {
                self.queues[peer as usize].push_front(index);
            }
            self.offer_more(index);
        }
    }

    /// `peer` is not to be asked any more. Chunks that it was asked for are to be reported as failed, each.
    pub(crate) fn gone(&mut self, peer: u32) {
        if let Some(gone) = self.gone.get_mut(peer as usize) {
            *gone = true;
        }
        for index in std::mem::take(&mut self.queues[peer as usize]) {
            self.offer_more(index);
        }
    }

    /// Peers that the chunk is offered to and that were not asked yet.
    fn askable(&self, index: u32) -> impl Iterator<Item = u32> {
        let chunk = &self.chunks[index as usize];
        let offered = chunk.holders.iter().take(chunk.offered).enumerate();
        let open = offered.filter(|(place, _)| chunk.asked & (1 << place) == 0).map(|(_, peer)| *peer);
        open.filter(|peer| !self.gone[*peer as usize])
    }

    /// Offers a waiting chunk that no peer is left for to the next in rank; where there is none, it is lost.
    fn offer_more(&mut self, index: u32) {
        while self.chunks[index as usize].state == State::Waiting && self.askable(index).next().is_none() {
            let chunk = &mut self.chunks[index as usize];
            match chunk.holders.get(chunk.offered) {
                Some(&next) => {
                    chunk.offered += 1;
                    if !self.gone[next as usize] {
                        self.queues[next as usize].push_front(index);
                    }
                }
                None => {
                    chunk.state = State::Lost;
                    self.left -= 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn holders_share_the_chunks_and_the_slow_one_loses_its_last() {
        let now = Instant::now();
        let mut board = Board::new(vec![vec![0, 1], vec![1, 0], vec![0, 1], vec![1, 0]], 2, 2);
        assert_eq!((board.next(0, now), board.next(1, now)), (Next::Ask(0), Next::Ask(1)));
        assert!(board.done(0, SOON));
        assert_eq!(board.next(0, now), Next::Ask(2));
        assert!(board.done(2, SOON));
        assert_eq!(board.next(0, now), Next::Ask(3));
        assert!(board.done(3, SOON));
        assert!(matches!(board.next(0, now + SOON), Next::Wait(_)), "the other has only just been asked");
        assert_eq!(board.next(0, now + HEDGE_FLOOR), Next::Ask(1));
        assert!(matches!(board.next(0, now + 2 * HEDGE_FLOOR), Next::Wait(_)), "twice is enough");
        assert!(board.done(1, SOON));
        assert!(!board.done(1, SOON), "the slow answer is of no use");
        assert_eq!((board.next(0, now), board.next(1, now), board.left()), (Next::Done, Next::Done, 0));
    }

    #[test]
    fn a_chunk_goes_down_the_ranks_until_it_is_lost() {
        let now = Instant::now();
        let mut board = Board::new(vec![vec![0, 1, 2, 3], vec![3]], 4, 2);
        assert_eq!(board.next(0, now), Next::Ask(0));
        board.failed(0);
        assert_eq!(board.next(0, now), Next::Wait(HEDGE_FLOOR), "it is not asked again");
        assert_eq!(board.next(2, now), Next::Wait(HEDGE_FLOOR), "the first two come first");
        board.gone(1);
        assert_eq!(board.next(1, now), Next::Done);
        assert_eq!(board.next(2, now), Next::Ask(0));
        board.failed(0);
        assert_eq!(board.next(3, now), Next::Ask(0), "the one that came back last");
        board.failed(0);
        assert_eq!((board.lost(), board.left()), (vec![0], 1));
        board.gone(3);
        assert_eq!((board.lost(), board.left()), (vec![0, 1], 0));
        assert!(Board::new(vec![vec![]], 0, 3).left() == 0, "a chunk without holders is lost at once");
    }

    proptest! {
        /// Whatever peers do, every chunk is done if one of its holders has it and stays, and the board comes to an end.
        #[test]
        fn every_chunk_that_somebody_has_is_done(
            holders in prop::collection::vec(prop::collection::vec(0_u32..6, 0..6), 1..40),
            has in prop::collection::vec(any::<bool>(), 6),
            leaves in prop::collection::vec(prop::option::of(0_usize..30), 6),
            primary in 1_usize..4,
        ) {
            let distinct = |mut ranked: Vec<u32>| { let mut seen = 0_u8; ranked.retain(|p| { let new = seen & (1 << p) == 0; seen |= 1 << p; new }); ranked };
            let holders: Vec<Vec<u32>> = holders.into_iter().map(distinct).collect();
            let mut board = Board::new(holders.clone(), 6, primary);
            let start = Instant::now();
            let mut turns = 0_usize;
            while board.left() > 0 {
                turns += 1;
                prop_assert!(turns < 10_000);
                for peer in 0..6_u32 {
                    if leaves[peer as usize].is_some_and(|at| at <= turns) {
                        board.gone(peer);
                        continue;
                    }
                    match board.next(peer, start + Duration::from_secs(turns as u64)) {
                        Next::Ask(index) if has[peer as usize] => { board.done(index, SOON); }
                        Next::Ask(index) => board.failed(index),
                        _ => {}
                    }
                }
            }
            let lost = board.lost();
            for (index, ranked) in holders.iter().enumerate() {
                let sure = ranked.iter().any(|p| has[*p as usize] && leaves[*p as usize].is_none());
                let none = ranked.iter().all(|p| !has[*p as usize]);
                prop_assert!(!(sure && lost.contains(&(index as u32))));
                prop_assert!(!none || lost.contains(&(index as u32)));
            }
        }
    }
}
