//! The board: a plain clock, peers that are slow, that hang, that go, and whatever else they may do.

use super::*;
use proptest::prelude::*;

const SOON: Duration = Duration::from_millis(10);

/// A board, and a clock for it.
struct Played {
    board: Board,
    now: Instant,
}

impl Played {
    fn new(holders: Vec<Vec<u32>>, peers: usize, primary: usize) -> Played {
        Played { board: Board::new(holders, peers, primary), now: Instant::now() }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// What `peer` is to ask for; whether it is to wait, where there is nothing.
    fn ask(&mut self, peer: u32) -> Result<Ask, bool> {
        match self.board.next(peer, self.now) {
            Next::Ask(ask) => Ok(ask),
            next => Err(matches!(next, Next::Wait(_))),
        }
    }

    fn chunk(&mut self, peer: u32) -> Option<u32> {
        self.ask(peer).ok().map(|ask| ask.chunk)
    }

    fn give(&mut self, ask: Ask, peer: u32) -> bool {
        self.board.came(ask, peer, self.now);
        self.board.done(ask.chunk)
    }
}

#[test]
fn holders_share_the_chunks_and_the_slow_one_loses_its_last() {
    let mut played = Played::new(vec![vec![0, 1], vec![1, 0], vec![0, 1], vec![1, 0]], 2, 2);
    let (first, slow) = (played.ask(0).unwrap(), played.ask(1).unwrap());
    assert_eq!((first.chunk, slow.chunk), (0, 1));
    assert!(played.give(first, 0));
    for expected in [2, 3] {
        let ask = played.ask(0).unwrap();
        assert_eq!(ask.chunk, expected);
        assert!(played.give(ask, 0));
    }
    played.pass(SOON);
    assert_eq!(played.ask(0), Err(true), "the other has only just been asked");
    played.pass(HEDGE_FLOOR);
    let again = played.ask(0).unwrap();
    assert_eq!(again.chunk, 1);
    played.pass(HEDGE_FLOOR);
    assert_eq!(played.ask(0), Err(true), "twice is enough");
    assert!(played.give(again, 0));
    assert!(!played.give(slow, 1), "the slow answer is of no use");
    assert_eq!((played.ask(0), played.ask(1), played.board.left()), (Err(false), Err(false), 0));
}

#[test]
fn a_chunk_goes_down_the_ranks_until_it_is_lost() {
    let mut played = Played::new(vec![vec![0, 1, 2, 3], vec![3]], 4, 2);
    let asked = played.ask(0).unwrap();
    played.board.failed(asked, 0);
    assert_eq!(played.ask(0), Err(true), "it is not asked again");
    assert_eq!(played.ask(2), Err(true), "the first two come first");
    played.board.gone(1);
    assert_eq!(played.ask(1), Err(false));
    for peer in [2, 3] {
        let asked = played.ask(peer).unwrap();
        assert_eq!(asked.chunk, 0, "what came back last is the first to be asked for");
        played.board.failed(asked, peer);
    }
    assert_eq!((played.board.lost(), played.board.left()), (vec![0], 1));
    played.board.gone(3);
    assert_eq!((played.board.lost(), played.board.left()), (vec![0, 1], 0));
    assert!(Board::new(vec![vec![]], 0, 3).left() == 0, "a chunk without holders is lost at once");
}

#[test]
fn what_came_is_not_asked_for_again_while_it_is_verified() {
    let mut played = Played::new(vec![vec![0, 1], vec![1]], 2, 2);
    let (ask, other) = (played.ask(0).unwrap(), played.ask(1).unwrap());
    played.board.came(ask, 0, played.now);
    assert!(played.give(other, 1));
    played.pass(10 * HEDGE_FLOOR);
    assert_eq!(played.ask(1), Err(true));
    played.board.failed(ask, 0);
    assert_eq!(played.board.woken(), [1]);
    assert_eq!(played.chunk(1), Some(0), "it was wrong");
}

#[test]
fn what_only_a_slow_peer_has_is_what_it_is_asked_for() {
    let mut played = Played::new(vec![vec![0, 1], vec![0, 1], vec![0, 1], vec![0, 1], vec![0], vec![0, 2]], 3, 2);
    played.board.gone(2);
    assert_eq!(played.chunk(0), Some(0));
    let ask = played.ask(1).unwrap();
    assert!(played.give(ask, 1));
    played.pass(HEDGE_FLOOR);
    assert_eq!(played.chunk(1), Some(2));
    assert_eq!((played.chunk(0), played.chunk(0)), (Some(4), Some(5)), "not the third");
    assert_eq!((played.chunk(1), played.chunk(1)), (Some(3), Some(0)));
}

#[test]
fn who_answers_far_behind_the_others_is_slow_before_it_is_late() {
    let mut played = Played::new(vec![vec![0, 1], vec![1, 2], vec![1, 2], vec![0, 2], vec![2, 0]], 3, 1);
    let behind = played.ask(1).unwrap();
    played.pass(SOON);
    for peer in [0, 2] {
        let ask = played.ask(peer).unwrap();
        assert!(played.give(ask, peer));
    }
    played.pass(HEDGE_FLOOR - SOON - SOON);
    let other = played.ask(0).unwrap();
    assert!(played.give(behind, 1), "in time, but the others took no time at all");
    assert!(played.give(other, 0));
    assert_eq!(played.ask(0), Err(true));
    assert_eq!(played.chunk(2), Some(2), "what it would be asked for next is offered to the next in rank");
}

#[test]
fn what_only_slow_peers_are_left_for_is_offered_to_the_next_in_rank() {
    let mut played = Played::new(vec![vec![0, 1, 2], vec![0, 1, 2], vec![3], vec![4], vec![0, 1, 2]], 5, 2);
    let (first, second) = (played.ask(0).unwrap(), played.ask(1).unwrap());
    let others = [played.ask(3).unwrap(), played.ask(4).unwrap()];
    played.pass(HEDGE_FLOOR);
    assert_eq!(played.ask(2), Err(true), "all are as late");
    others.into_iter().zip([3, 4]).for_each(|(ask, peer)| assert!(played.give(ask, peer)));
    played.pass(4 * HEDGE_FLOOR);
    assert_eq!((played.chunk(2), played.chunk(2)), (Some(4), Some(first.chunk)));
    let third = played.ask(2).unwrap();
    assert_eq!(third.chunk, second.chunk);
    assert_eq!(played.ask(0), Err(true));
    played.board.failed(third, 2);
    assert_eq!(played.ask(0).map(|ask| ask.chunk), Ok(second.chunk), "slow ones are better than none");
}

#[test]
fn nobody_is_slow_where_all_are_and_one_that_hangs_is_left_in_the_end() {
    let mut played = Played::new(vec![vec![0, 1], vec![0, 1], vec![0, 1]], 2, 1);
    let hung = played.ask(0).unwrap();
    played.pass(5 * HEDGE_FLOOR);
    assert_eq!(played.ask(1), Err(true), "the only one is not slower than others");
    played.pass(LOOK_AGAIN);
    let ask = played.ask(1).unwrap();
    assert_eq!(ask.chunk, hung.chunk, "it has had its time");
    assert!(played.give(ask, 1));
    played.pass(LOOK_OVER);
    assert_eq!((played.chunk(1), played.chunk(1)), (Some(1), Some(2)));
}

#[test]
fn a_slow_peer_with_much_to_do_may_go() {
    let mut played = Played::new(vec![vec![0, 1]; 3 * SWEPT], 2, 2);
    assert!(played.chunk(0).is_some());
    let ask = played.ask(1).unwrap();
    assert!(played.give(ask, 1));
    played.pass(HEDGE_FLOOR);
    assert!(played.chunk(1).is_some());
    assert!(played.board.peers[0].unswept > 0, "it is gone through bit by bit");
    played.board.gone(0);
    played.pass(HEDGE_FLOOR);
    assert!(played.chunk(1).is_some());
}

/// How a peer behaves: which turn it leaves, whether it has what it is asked for, and how many turns its answers take.
#[derive(Debug, Clone)]
struct Manner {
    leaves: Option<usize>,
    has: bool,
    turns: usize,
}

fn manner() -> impl Strategy<Value = Manner> {
    let turns = prop_oneof![Just(0_usize), 0_usize..4, 5_usize..60];
    (prop::option::of(0_usize..30), any::<bool>(), turns).prop_map(|(leaves, has, turns)| Manner { leaves, has, turns })
}

proptest! {
    /// Whatever peers do, every chunk is done if one of its holders has it and stays, no more than two are asked for it at once, and
    /// the board comes to an end.
    #[test]
    fn every_chunk_that_somebody_has_is_done(
        holders in prop::collection::vec(prop::collection::vec(0_u32..6, 0..6), 1..40),
        manners in prop::collection::vec(manner(), 6),
        primary in 1_usize..4,
        window in 1_usize..5,
        turn_ms in 1_u64..400,
    ) {
        let distinct = |mut ranked: Vec<u32>| { let mut seen = 0_u8; ranked.retain(|p| { let new = seen & (1 << p) == 0; seen |= 1 << p; new }); ranked };
        let holders: Vec<Vec<u32>> = holders.into_iter().map(distinct).collect();
        let mut board = Board::new(holders.clone(), 6, primary);
        let start = Instant::now();
        let mut under_way: Vec<Vec<(usize, Ask)>> = vec![Vec::new(); 6];
        for turn in 0.. {
            if board.left() == 0 {
                break;
            }
            prop_assert!(turn < 10_000);
            let now = start + Duration::from_millis(turn_ms * turn as u64);
            for (peer, manner) in manners.iter().enumerate() {
                let (due, rest) = std::mem::take(&mut under_way[peer]).into_iter().partition(|(due, _)| *due <= turn);
                under_way[peer] = rest;
                let left = manner.leaves.is_some_and(|at| at <= turn);
                for (_, ask) in due {
                    match manner.has && !left {
                        true => { board.came(ask, peer as u32, now); board.done(ask.chunk); }
                        false => board.failed(ask, peer as u32),
                    }
                }
                if left {
                    board.gone(peer as u32);
                    for (_, ask) in std::mem::take(&mut under_way[peer]) {
                        board.failed(ask, peer as u32);
                    }
                    continue;
                }
                while under_way[peer].len() < window {
                    let Next::Ask(ask) = board.next(peer as u32, now) else { break };
                    under_way[peer].push((turn + 1 + manner.turns, ask));
                }
            }
            let mut asked = vec![0; holders.len()];
            under_way.iter().flatten().for_each(|(_, ask)| asked[ask.chunk as usize] += 1);
            prop_assert!(asked.iter().all(|asked| *asked <= 2));
        }
        let lost = board.lost();
        for (index, ranked) in holders.iter().enumerate() {
            let sure = ranked.iter().any(|p| manners[*p as usize].has && manners[*p as usize].leaves.is_none());
            let none = ranked.iter().all(|p| !manners[*p as usize].has);
            prop_assert!(!(sure && lost.contains(&(index as u32))));
            prop_assert!(!none || lost.contains(&(index as u32)));
        }
    }
}
