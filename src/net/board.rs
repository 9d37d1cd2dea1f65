//! Who fetches which chunk: a plain state machine that peers' tasks take work from. No I/O, and the clock is the caller's.
//!
//! Every peer has a queue of the chunks that it holds, those that it ranks highest for first, so the holders of a group share its chunks
//! without speaking of it. A peer with an empty queue steals: it asks a second time for what another has been asked for longer than is
//! usual ([`HEDGE_FLOOR`], four times the median), once for each chunk. What a peer does not have, or sends wrong, goes to the next holder in
//! rank; a chunk that nobody is left for is lost.
//!
//! Who keeps others waiting for longer than is usual is slow, until it answers in time again. What only slow peers are left for is offered to
//! the next in rank as well, and where there is none, the slow ones are asked for it before all else.
//!
//! Invariant: a chunk is wanted until it is done or lost, and asked for by at most two peers at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The shortest wait before a chunk is asked for a second time.
pub(crate) const HEDGE_FLOOR: Duration = Duration::from_millis(100);

/// The longest wait of a peer that has nothing to do.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often a board in use is looked over for peers that are slow.
const LOOK_OVER: Duration = Duration::from_millis(25);

/// How often, at most, all that waits for a peer is gone through because it is slow.
const SWEEP: Duration = Duration::from_secs(1);

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
    Asked(Asked),
    Done,
    Lost,
}

/// Who was asked for a chunk and has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    since: Instant,
    first: u32,
    second: Option<(u32, Instant)>,
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
    /// It comes before all else at peers that are slow.
    urgent: bool,
}

#[derive(Debug, Default)]
struct Peer {
    /// What it is to be asked for; some of it others were asked for by now.
    queue: VecDeque<u32>,
    gone: bool,
    slow: bool,
    /// When its queue was last gone through for that.
    swept: Option<Instant>,
}

/// The chunks of one fetch.
#[derive(Debug)]
pub(crate) struct Board {
    chunks: Vec<Chunk>,
    peers: Vec<Peer>,
    left: usize,
    answers: VecDeque<Duration>,
    /// Chunks under way and since when, the longest-asked first; some of them are done by now.
    under_way: VecDeque<(u32, Instant)>,
    /// What takes longer is late.
    patience: Duration,
    looked: Option<Instant>,
}

impl Board {
    /// Chunks by their holders (places of peers, by rank), of whom the first `primary` are asked before the others. There are `peers`.
    pub(crate) fn new(holders: Vec<Vec<u32>>, peers: usize, primary: usize) -> Board {
        let mut board = Board {
            left: holders.len(),
            chunks: Vec::with_capacity(holders.len()),
            peers: std::iter::repeat_with(Peer::default).take(peers).collect(),
            answers: VecDeque::new(),
            under_way: VecDeque::new(),
            patience: HEDGE_FLOOR,
            looked: None,
        };
        let most = holders.iter().map(|holders| holders.len().min(primary)).max().unwrap_or(0);
        for holders in holders {
            let holders: Vec<u32> = holders.into_iter().take(16).collect();
            let offered = holders.len().min(primary.max(1));
            board.chunks.push(Chunk { state: State::Waiting, holders, offered, asked: 0, urgent: false });
        }
        for rank in 0..most {
            for (index, chunk) in board.chunks.iter().enumerate() {
                if let Some(&peer) = chunk.holders.get(rank).filter(|_| rank < chunk.offered) {
                    board.peers[peer as usize].queue.push_back(index as u32);
                }
            }
        }
        for index in 0..board.chunks.len() {
            board.provide(index as u32);
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
        if self.left == 0 || self.peers.get(peer as usize).is_none_or(|peer| peer.gone) {
            return Next::Done;
        }
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_OVER) {
            self.look_over(now);
        }
        if let Some(index) = self.take(peer, now) {
            return Next::Ask(index);
        }
        let wait = self.look_over(now);
        // What others are late with may have been offered to it.
        let index = self.take(peer, now).or_else(|| self.steal(peer, now));
        index.map_or(Next::Wait(wait), Next::Ask)
    }

    /// The first chunk that waits for `peer`.
    fn take(&mut self, peer: u32, now: Instant) -> Option<u32> {
        while let Some(index) = self.peers[peer as usize].queue.pop_front() {
            if self.chunks[index as usize].state == State::Waiting && self.ask(index, peer) {
                self.chunks[index as usize].state = State::Asked(Asked { since: now, first: peer, second: None });
                self.under_way.push_back((index, now));
                return Some(index);
            }
        }
        None
    }

    /// The chunk that another was asked for longest ago, if that is late and `peer` may have it.
    fn steal(&mut self, peer: u32, now: Instant) -> Option<u32> {
        for place in 0..self.under_way.len() {
            let (index, since) = self.under_way[place];
            let Some(asked) = self.asked(index, since) else { continue };
            if now.saturating_duration_since(since) < self.patience {
                break;
            }
            // One slow peer more would only keep those away that are not.
            let better = self.peers[peer as usize].slow && self.askable(index).any(|peer| !self.is_slow(peer));
            if asked.second.is_none() && !better && self.ask(index, peer) {
                self.chunks[index as usize].state = State::Asked(Asked { second: Some((peer, now)), ..asked });
                return Some(index);
            }
        }
        None
    }

    /// Finds out which peers are slow, and offers what they were asked for to others; answers with how long nothing more is late.
    fn look_over(&mut self, now: Instant) -> Duration {
        self.looked = Some(now);
        let mut sorted: Vec<Duration> = self.answers.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        self.patience = (4 * median).max(HEDGE_FLOOR);
        while self.under_way.front().is_some_and(|(index, since)| self.asked(*index, *since).is_none()) {
            self.under_way.pop_front();
        }
        // What is asked for from now on is not late before.
        let mut wait = self.patience.min(LOOK_AGAIN);
        let mut late = Vec::new();
        for (index, since) in &self.under_way {
            let Some(asked) = self.asked(*index, *since) else { continue };
            let age = now.saturating_duration_since(*since);
            if age < self.patience {
                wait = wait.min(self.patience - age);
                break;
            }
            // As long as nobody has answered, nobody is slower than others: they may all be far away.
            if asked.second.is_none() && (!self.answers.is_empty() || age >= LOOK_AGAIN) {
                late.push((*index, asked.first));
            }
        }
        for (_, peer) in &late {
            self.peers[*peer as usize].slow = true;
        }
        for (index, peer) in late {
            self.sweep(peer, now);
            self.offer(index);
        }
        wait
    }

    /// Provides for what only `peer`, which is slow, and others like it are left for.
    fn sweep(&mut self, peer: u32, now: Instant) {
        let peer = &mut self.peers[peer as usize];
        if peer.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            peer.swept = Some(now);
            for index in peer.queue.clone() {
                self.provide(index);
            }
        }
    }

    fn is_slow(&self, peer: u32) -> bool {
        self.peers[peer as usize].slow
    }

    /// Who is asked for the chunk since then.
    fn asked(&self, index: u32, since: Instant) -> Option<Asked> {
        match self.chunks[index as usize].state {
            State::Asked(asked) if asked.since == since => Some(asked),
            _ => None,
        }
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

    /// `peer` gave the chunk after `took`, and it is right. False if it was there already.
    pub(crate) fn done(&mut self, index: u32, peer: u32, took: Duration) -> bool {
        if self.answers.len() == SAMPLES {
            self.answers.pop_front();
        }
        self.answers.push_back(took);
        if took < self.patience {
            self.peers[peer as usize].slow = false;
        }
        let chunk = &mut self.chunks[index as usize];
        let first = !matches!(chunk.state, State::Done | State::Lost);
        if first {
            chunk.state = State::Done;
            self.left -= 1;
        }
        first
    }

    /// `peer`, which was asked for the chunk, does not give it.
    pub(crate) fn failed(&mut self, index: u32, peer: u32) {
        let chunk = &mut self.chunks[index as usize];
        let State::Asked(asked) = chunk.state else { return };
        match asked.second {
            Some((second, _)) if second == peer => chunk.state = State::Asked(Asked { second: None, ..asked }),
            Some((second, since)) => {
                chunk.state = State::Asked(Asked { since, first: second, second: None });
                self.under_way.push_back((index, since));
            }
            None => {
                chunk.state = State::Waiting;
                self.recall(index);
                self.provide(index);
            }
        }
    }

    /// `peer` is not to be asked any more. Chunks that it was asked for are to be reported as failed, each.
    pub(crate) fn gone(&mut self, peer: u32) {
        let Some(peer) = self.peers.get_mut(peer as usize) else { return };
        peer.gone = true;
        for index in std::mem::take(&mut peer.queue) {
            self.provide(index);
        }
    }

    /// Peers that the chunk is offered to and that were not asked yet.
    fn askable(&self, index: u32) -> impl Iterator<Item = u32> {
        let chunk = &self.chunks[index as usize];
        let offered = chunk.holders.iter().take(chunk.offered).enumerate();
        let open = offered.filter(|(place, _)| chunk.asked & (1 << place) == 0).map(|(_, peer)| *peer);
        open.filter(|peer| !self.peers[*peer as usize].gone)
    }

    /// Puts a chunk first in the queues of those that may be asked for it.
    fn recall(&mut self, index: u32) {
        let askable: Vec<u32> = self.askable(index).collect();
        for peer in askable {
            self.peers[peer as usize].queue.push_front(index);
        }
    }

    /// Offers a chunk that only slow peers are left for, or none, to the next in rank.
    fn offer(&mut self, index: u32) {
        while self.askable(index).all(|peer| self.is_slow(peer)) {
            let chunk = &mut self.chunks[index as usize];
            let Some(&next) = chunk.holders.get(chunk.offered) else { break };
            chunk.offered += 1;
            if !self.peers[next as usize].gone {
                self.peers[next as usize].queue.push_front(index);
            }
        }
    }

    /// Sees to it that a waiting chunk does not wait in vain: it is offered to more peers where that is necessary, comes first at the slow
    /// ones where they are all there is, and is lost where there is nobody.
    fn provide(&mut self, index: u32) {
        if self.chunks[index as usize].state != State::Waiting {
            return;
        }
        self.offer(index);
        if self.askable(index).next().is_none() {
            self.chunks[index as usize].state = State::Lost;
            self.left -= 1;
        } else if !self.chunks[index as usize].urgent && self.askable(index).all(|peer| self.is_slow(peer)) {
            self.chunks[index as usize].urgent = true;
            self.recall(index);
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
        assert!(board.done(0, 0, SOON));
        assert_eq!(board.next(0, now), Next::Ask(2));
        assert!(board.done(2, 0, SOON));
        assert_eq!(board.next(0, now), Next::Ask(3));
        assert!(board.done(3, 0, SOON));
        assert!(matches!(board.next(0, now + SOON), Next::Wait(_)), "the other has only just been asked");
        assert_eq!(board.next(0, now + HEDGE_FLOOR), Next::Ask(1));
        assert!(matches!(board.next(0, now + 2 * HEDGE_FLOOR), Next::Wait(_)), "twice is enough");
        assert!(board.done(1, 0, SOON));
        assert!(!board.done(1, 1, SOON), "the slow answer is of no use");
        assert_eq!((board.next(0, now), board.next(1, now), board.left()), (Next::Done, Next::Done, 0));
    }

    #[test]
    fn a_chunk_goes_down_the_ranks_until_it_is_lost() {
        let now = Instant::now();
        let mut board = Board::new(vec![vec![0, 1, 2, 3], vec![3]], 4, 2);
        assert_eq!(board.next(0, now), Next::Ask(0));
        board.failed(0, 0);
        assert_eq!(board.next(0, now), Next::Wait(HEDGE_FLOOR), "it is not asked again");
        assert_eq!(board.next(2, now), Next::Wait(HEDGE_FLOOR), "the first two come first");
        board.gone(1);
        assert_eq!(board.next(1, now), Next::Done);
        assert_eq!(board.next(2, now), Next::Ask(0));
        board.failed(0, 2);
        assert_eq!(board.next(3, now), Next::Ask(0), "the one that came back last");
        board.failed(0, 3);
        assert_eq!((board.lost(), board.left()), (vec![0], 1));
        board.gone(3);
        assert_eq!((board.lost(), board.left()), (vec![0, 1], 0));
        assert!(Board::new(vec![vec![]], 0, 3).left() == 0, "a chunk without holders is lost at once");
    }

    #[test]
    fn what_only_a_slow_peer_has_is_what_it_is_asked_for() {
        let now = Instant::now();
        let mut board = Board::new(vec![vec![0, 1], vec![0, 1], vec![0, 1], vec![0, 1], vec![0], vec![0, 2]], 3, 2);
        board.gone(2);
        assert_eq!((board.next(0, now), board.next(1, now)), (Next::Ask(0), Next::Ask(1)));
        assert!(board.done(1, 1, SOON));
        let late = now + HEDGE_FLOOR;
        assert_eq!(board.next(1, late), Next::Ask(2));
        assert_eq!((board.next(0, late), board.next(0, late)), (Next::Ask(5), Next::Ask(4)), "not the third");
        assert_eq!((board.next(1, late), board.next(1, late)), (Next::Ask(3), Next::Ask(0)));
    }

    #[test]
    fn what_only_slow_peers_are_left_for_is_offered_to_the_next_in_rank() {
        let now = Instant::now();
        let mut board = Board::new(vec![vec![0, 1, 2], vec![0, 1, 2], vec![3], vec![0, 1, 2]], 4, 2);
        assert_eq!((board.next(0, now), board.next(1, now)), (Next::Ask(0), Next::Ask(1)));
        assert_eq!(board.next(3, now), Next::Ask(2));
        assert_eq!(board.next(2, now + HEDGE_FLOOR), Next::Wait(HEDGE_FLOOR), "nobody has answered yet");
        assert!(board.done(2, 3, SOON));
        let late = now + HEDGE_FLOOR;
        assert_eq!(board.next(2, late), Next::Ask(3));
        assert_eq!((board.next(2, late), board.next(2, late)), (Next::Ask(0), Next::Ask(1)));
        assert!(matches!(board.next(0, late), Next::Wait(_)));
        assert!(board.done(0, 0, SOON), "it answers in time again");
        board.failed(1, 2);
        assert_eq!(board.next(0, late), Next::Ask(1));
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
                        Next::Ask(index) if has[peer as usize] => { board.done(index, peer, SOON); }
                        Next::Ask(index) => board.failed(index, peer),
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
