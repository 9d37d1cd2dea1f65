//! Who fetches which chunk: a plain state machine that peers' tasks take work from. No I/O, and the clock is the caller's.
//!
//! Every peer has a queue of the chunks that it holds, those that it ranks highest for first, so the holders of a group share its chunks
//! without speaking of it. A peer with an empty queue steals: it asks a second time for what another has been asked for longer than is
//! usual ([`HEDGE_FLOOR`], four times the median), once for each chunk. What a peer does not have, or sends wrong, goes to the next holder in
//! rank; a chunk that nobody is left for is lost.
//!
//! A peer that is late, or far behind what is usual, while most are not is slow, until it answers well in time again. What only slow peers are left for is offered to the next
//! in rank as well, and where there is none, the slow ones are asked for it before all else. Slow is who is slower than others: when this
//! node is what everything waits for, or all are far away, nobody is.
//!
//! Invariant: a chunk is wanted until it is done or lost, and asked for by at most two peers at once.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

pub(crate) use crate::net::under_way::Ask;
use crate::net::under_way::{Answer, UnderWay};

/// The shortest wait before a chunk is asked for a second time.
pub(crate) const HEDGE_FLOOR: Duration = Duration::from_millis(100);

/// The longest wait of a peer that has nothing to do.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often, at most, the board is looked over for peers that are slow.
const LOOK_OVER: Duration = Duration::from_millis(25);

/// Entries of a slow peer's queue that are gone through each time.
const SWEPT: usize = 1024;

/// Holders of a chunk that count, by rank.
const HOLDERS: usize = 16;

/// What a peer's task is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask for this chunk.
    Ask(Ask),
    /// Nothing now; look again after this time, or when something changed.
    Wait(Duration),
    /// Nothing any more.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// So many peers are asked, one or two; or it came, and is not verified yet.
    Asked(u8),
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
    /// It comes before all else at peers that are slow.
    urgent: bool,
}

#[derive(Debug, Default)]
struct Peer {
    /// What it may be asked for, and before that what it is asked for first; some of it is done by now.
    queue: VecDeque<u32>,
    first: VecDeque<u32>,
    gone: bool,
    /// It has given something.
    gave: bool,
    /// Chunks that it is asked for.
    asked: usize,
    slow: bool,
    /// Entries at the front of the queue that are to be gone through because it is slow.
    unswept: usize,
}

/// The chunks of one fetch.
#[derive(Debug)]
pub(crate) struct Board {
    chunks: Vec<Chunk>,
    peers: Vec<Peer>,
    left: usize,
    under_way: UnderWay,
    /// When the board was last looked over, and how long it was to be left alone then.
    looked: Option<(Instant, Duration)>,
    /// Peers with something new in their queues.
    woken: Vec<u32>,
}

impl Board {
    /// Chunks by their holders (places of peers, by rank), of whom the first `primary` are asked before the others. There are `peers`.
    pub(crate) fn new(holders: Vec<Vec<u32>>, peers: usize, primary: usize) -> Board {
        let mut board = Board {
            left: holders.len(),
            chunks: Vec::with_capacity(holders.len()),
            peers: std::iter::repeat_with(Peer::default).take(peers).collect(),
            under_way: UnderWay::new(),
            looked: None,
            woken: Vec::new(),
        };
        let most = holders.iter().map(|holders| holders.len().min(primary)).max().unwrap_or(0);
        for holders in holders {
            let holders: Vec<u32> = holders.into_iter().take(HOLDERS).collect();
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

    /// Peers that may have something to do since the last time.
    pub(crate) fn woken(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.woken)
    }

    /// What `peer` is to do at `now`.
    pub(crate) fn next(&mut self, peer: u32, now: Instant) -> Next {
        let next = self.peek(peer, now);
        if let Next::Ask(ask) = next {
            let chunk = &mut self.chunks[ask.chunk as usize];
            let askers = if let State::Asked(askers) = chunk.state { askers } else { 0 };
            chunk.state = State::Asked(askers + 1);
            let place = chunk.holders.iter().position(|holder| *holder == peer);
            chunk.asked |= place.map_or(0, |place| 1 << place);
            self.peers[peer as usize].asked += 1;
            self.under_way.add(ask, peer);
        }
        next
    }

    /// As [`next`](Board::next); what it says is not taken to be done.
    pub(crate) fn peek(&mut self, peer: u32, now: Instant) -> Next {
        if self.left == 0 || self.peers.get(peer as usize).is_none_or(|peer| peer.gone) {
            return Next::Done;
        }
        let wait = self.look_over(now);
        let chunk = self.first_for(peer).or_else(|| self.late_for(peer, now));
        chunk.map_or(Next::Wait(wait), |chunk| Next::Ask(Ask { chunk, since: now }))
    }

    /// The first chunk that waits for `peer`.
    fn first_for(&mut self, peer: u32) -> Option<u32> {
        loop {
            let Peer { first, queue, .. } = &self.peers[peer as usize];
            let index = *first.front().or(queue.front())?;
            if self.chunks[index as usize].state == State::Waiting && self.may_ask(index, peer) {
                return Some(index);
            }
            let peer = &mut self.peers[peer as usize];
            if peer.first.pop_front().is_none() {
                peer.queue.pop_front();
                peer.unswept = peer.unswept.saturating_sub(1);
            }
        }
    }

    /// The chunk that another has been asked for longest, if that is late and `peer` may be asked as well.
    fn late_for(&self, peer: u32, now: Instant) -> Option<u32> {
        let mut late = self.under_way.late(now).map(|(ask, _)| ask.chunk);
        // One slow peer more would only keep those away that are not.
        let better = |index| self.is_slow(peer) && self.askable(index).any(|peer| !self.is_slow(peer));
        late.find(|index| self.is_asked_once(*index) && self.may_ask(*index, peer) && !better(*index))
    }

    fn is_asked_once(&self, index: u32) -> bool {
        self.chunks[index as usize].state == State::Asked(1)
    }

    fn is_slow(&self, peer: u32) -> bool {
        self.peers[peer as usize].slow
    }

    /// Whether the chunk is offered to `peer`, which was not asked for it yet.
    fn may_ask(&self, index: u32, peer: u32) -> bool {
        self.askable(index).any(|other| other == peer)
    }

    /// Peers that the chunk is offered to and that were not asked yet.
    fn askable(&self, index: u32) -> impl Iterator<Item = u32> {
        let chunk = &self.chunks[index as usize];
        let offered = chunk.holders.iter().take(chunk.offered).enumerate();
        let open = offered.filter(|(place, _)| chunk.asked & (1 << place) == 0).map(|(_, peer)| *peer);
        open.filter(|peer| !self.peers[*peer as usize].gone)
    }

    /// `peer` sent the chunk, which is yet to be verified.
    pub(crate) fn came(&mut self, ask: Ask, peer: u32, now: Instant) {
        let answer = self.under_way.note(ask, now);
        self.answered(ask, peer);
        self.peers[peer as usize].gave = true;
        match answer {
            Answer::WellInTime => self.peers[peer as usize].slow = false,
            Answer::InTime => {}
            Answer::Behind => {
                let slow = self.peers.iter().filter(|peer| peer.slow).count();
                if self.are_few(slow + 1) {
                    self.slows_down(peer);
                    self.sweep(peer as usize);
                }
            }
        }
    }

    fn answered(&mut self, ask: Ask, peer: u32) {
        if self.under_way.remove(ask, peer) {
            self.peers[peer as usize].asked -= 1;
        }
    }

    /// The chunk came and is right. False if it was there already.
    pub(crate) fn done(&mut self, index: u32) -> bool {
        let chunk = &mut self.chunks[index as usize];
        let first = !matches!(chunk.state, State::Done | State::Lost);
        if first {
            chunk.state = State::Done;
            self.left -= 1;
        }
        first
    }

    /// `peer`, which was asked for the chunk, does not give it, or gave something else.
    pub(crate) fn failed(&mut self, ask: Ask, peer: u32) {
        self.answered(ask, peer);
        let chunk = &mut self.chunks[ask.chunk as usize];
        match chunk.state {
            State::Asked(2) => chunk.state = State::Asked(1),
            State::Asked(_) => {
                chunk.state = State::Waiting;
                self.recall(ask.chunk);
                self.provide(ask.chunk);
            }
            State::Waiting | State::Done | State::Lost => {}
        }
    }

    /// `peer` is not to be asked any more. Chunks that it was asked for are to be reported as failed, each.
    pub(crate) fn gone(&mut self, peer: u32) {
        let Some(peer) = self.peers.get_mut(peer as usize) else { return };
        (peer.gone, peer.unswept) = (true, 0);
        let (first, queue) = (std::mem::take(&mut peer.first), std::mem::take(&mut peer.queue));
        first.into_iter().chain(queue).for_each(|index| self.provide(index));
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

    /// Offers a chunk that only slow peers are left for, or none, to the next in rank.
    fn offer(&mut self, index: u32) {
        while self.askable(index).all(|peer| self.is_slow(peer)) {
            let chunk = &mut self.chunks[index as usize];
            let Some(&next) = chunk.holders.get(chunk.offered) else { break };
            chunk.offered += 1;
            self.hand(index, next);
        }
    }

    /// Has those that may be asked for a chunk be asked for it first.
    fn recall(&mut self, index: u32) {
        let askable: Vec<u32> = self.askable(index).collect();
        askable.into_iter().for_each(|peer| self.hand(index, peer));
    }

    fn hand(&mut self, index: u32, to: u32) {
        let peer = &mut self.peers[to as usize];
        if !peer.gone {
            peer.first.push_back(index);
            self.woken.push(to);
        }
    }

    /// Finds out who is slow, and provides for what they are asked for and what waits for them. Answers with how long nothing more is
    /// late.
    fn look_over(&mut self, now: Instant) -> Duration {
        if let Some((looked, wait)) = self.looked {
            let ago = now.saturating_duration_since(looked);
            if ago < LOOK_OVER {
                return wait.saturating_sub(ago).max(Duration::from_millis(1));
            }
        }
        self.under_way.measure();
        let late: Vec<(Ask, u32)> = self.under_way.late(now).collect();
        self.note_slow(&late);
        for (ask, peer) in &late {
            // Where there is nobody to compare it with, after a while.
            let hopeless = now.saturating_duration_since(ask.since) >= LOOK_AGAIN;
            if self.is_asked_once(ask.chunk) && (self.is_slow(*peer) || hopeless) {
                self.offer(ask.chunk);
            }
        }
        (0..self.peers.len()).for_each(|peer| self.sweep(peer));
        let wait = self.under_way.calm(now).min(LOOK_AGAIN);
        self.looked = Some((now, wait));
        wait
    }

    /// Notes who of those that are late is slow.
    fn note_slow(&mut self, late: &[(Ask, u32)]) {
        let late_peers: BTreeSet<u32> = late.iter().map(|(_, peer)| *peer).collect();
        let few = self.are_few(late_peers.len());
        for (ask, peer) in late {
            if few || self.under_way.is_outrun(*ask) {
                self.slows_down(*peer);
            }
        }
    }

    /// Whether so many are at most half of those that take part.
    fn are_few(&self, peers: usize) -> bool {
        let taking_part = self.peers.iter().filter(|peer| !peer.gone && (peer.gave || peer.asked > 0)).count();
        2 * peers <= taking_part
    }

    fn slows_down(&mut self, peer: u32) {
        let peer = &mut self.peers[peer as usize];
        if !peer.slow {
            peer.slow = true;
            peer.unswept = peer.queue.len();
        }
    }

    /// Goes through a part of what waits for a slow peer, and provides for what it should not wait for. The rest comes behind.
    fn sweep(&mut self, peer: usize) {
        let Peer { slow: true, unswept: unswept @ 1.., .. } = &mut self.peers[peer] else { return };
        let part = (*unswept).min(SWEPT);
        *unswept -= part;
        let part: Vec<u32> = self.peers[peer].queue.drain(..part).collect();
        for index in part {
            if self.chunks[index as usize].state == State::Waiting {
                self.peers[peer].queue.push_back(index);
                self.provide(index);
            }
        }
    }
}

#[cfg(test)]
mod tests;
