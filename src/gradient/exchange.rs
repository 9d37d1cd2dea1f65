//! Publishing contributions, and collecting those of a round.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::identity::ScopeKey;
use crate::key::{Key, PutName, VersionRef};
use crate::monitor::Monitor;
use crate::node::{Look, Node, Payload, PutOptions, PutReport, Version, Watch};

/// Workers that are asked at the same time.
const AT_ONCE: usize = 16;

/// How long a worker is left alone after a look in vain, at least, unless word of the contribution comes first.
const AGAIN: Duration = Duration::from_millis(100);

/// How soon the deadline, or the caller's wish to stop, is noticed.
const LOOK_UP: Duration = Duration::from_millis(5);

/// A contribution that came.
#[derive(Debug)]
#[non_exhaustive]
pub struct Collected {
    /// Whose it is: signed with that key.
    pub worker: ScopeKey,
    /// What it is, stored here until its time is up.
    pub version: Version,
}

/// The contributions of a round, in the order of the workers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Collection {
    /// What came in time.
    pub contributions: Vec<Collected>,
    /// Who did not publish in time, cannot be reached, or has published what is refused; the monitor is warned of the latter two.
    pub missing: Vec<ScopeKey>,
}

/// The key of a round: `gradient/RUN/ROUND`.
pub fn round_key(run: &str, round: u64) -> Result<Key> {
    format!("gradient/{run}/{round}").parse()
}

/// Publishes this node's contribution to `round` of `run`, which peers keep for `ttl`.
pub fn publish(
    node: &Node,
    run: &str,
    round: u64,
    payload: Payload<'_>,
    ttl: Duration,
    monitor: &Monitor,
) -> Result<PutReport> {
    let name = PutName { key: round_key(run, round)?, label: None };
    let options = PutOptions { ttl: Some(ttl), ..PutOptions::default() };
    node.put(&name, payload, &options, monitor)
}

/// Ends what is here of the rounds of `run` before `round`: this node's own contributions, of which peers are told, and what it has collected
/// of others'. Those that are pinned stay. Says how many contributions they were.
pub fn end_rounds_before(node: &Node, run: &str, round: u64) -> Result<u64> {
    round_key(run, round)?;
    let prefix = format!("gradient/{run}/");
    node.remove_all(|key| round_of(key, &prefix).is_some_and(|its| its < round))
}

/// The round that a key is of, where it begins as those of its run do.
fn round_of(key: &Key, prefix: &str) -> Option<u64> {
    let number = key.name().strip_prefix(prefix)?;
    // No other spelling of it is a round's.
    number.parse().ok().filter(|round: &u64| round.to_string() == number)
}

/// Fetches what `workers` have published of `round` of `run`, many at once, and waits for those who have not until `deadline` has passed.
/// Those who have not published hold nobody up: they are asked in turn.
pub fn collect(
    node: &Node,
    run: &str,
    round: u64,
    workers: &[ScopeKey],
    deadline: Duration,
    monitor: &Monitor,
) -> Result<Collection> {
    // One that no clock reaches never comes.
    let until = Instant::now().checked_add(deadline);
    let key = round_key(run, round)?;
    if let Some(twice) =
        (1..workers.len()).find_map(|at| workers.get(at).filter(|worker| workers[..at].contains(worker)))
    {
        let why = "it is named twice, and would count twice".to_owned();
        return Err(Error::Syntax { what: "worker", input: format!("@{twice}"), why });
    }
    let await_worker = |(place, worker): (usize, &ScopeKey)| {
        let wanted = VersionRef::from(key.in_scope(worker));
        let watch = node.watch(&wanted.key)?;
        Ok(Awaited { place, wanted, watch, look: Look::First, last: None })
    };
    let awaited = workers.iter().enumerate().map(await_worker).collect::<Result<_>>()?;
    let collecting = Collecting {
        node,
        workers,
        until,
        awaited: Mutex::new(awaited),
        found: Mutex::new(workers.iter().map(|_| None).collect()),
        patience: Monitor::none(),
        monitor,
    };
    collecting.run()?;
    // Whoever asked to stop wants no part of the round.
    monitor.check()?;
    let found = collecting.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut collection = Collection { contributions: Vec::new(), missing: Vec::new() };
    for (worker, version) in workers.iter().zip(found) {
        match version {
            Some(version) => collection.contributions.push(Collected { worker: *worker, version }),
            None => collection.missing.push(*worker),
        }
    }
    Ok(collection)
}

/// A round that is being collected.
struct Collecting<'a> {
    node: &'a Node,
    workers: &'a [ScopeKey],
    /// The deadline, if ever it comes.
    until: Option<Instant>,
    /// Who is to be asked: next those who were asked longest ago.
    awaited: Mutex<VecDeque<Awaited>>,
    /// What has come of each worker.
    found: Mutex<Vec<Option<Version>>>,
    /// Ended with the deadline, whatever a fetch is at.
    patience: Monitor,
    monitor: &'a Monitor,
}

/// A worker whose contribution is not here.
struct Awaited {
    place: usize,
    wanted: VersionRef,
    watch: Watch,
    look: Look,
    /// What the last look failed with, if there was one.
    last: Option<Error>,
}

impl Collecting<'_> {
    /// Asks all of them, until each has answered or the deadline has passed.
    fn run(&self) -> Result<()> {
        std::thread::scope(|scope| {
            // Nothing is sent: the channel ends with the last thread.
            let (running, ended) = mpsc::channel::<()>();
            let start = |_| {
                let running = running.clone();
                scope.spawn(move || {
                    let _running = running;
                    self.ask()
                })
            };
            let threads: Vec<_> = (0..self.workers.len().min(AT_ONCE)).map(start).collect();
            drop(running);
            while ended.recv_timeout(LOOK_UP) == Err(RecvTimeoutError::Timeout) {
                if self.is_over_in(Duration::ZERO) || self.monitor.check().is_err() {
                    self.patience.cancel();
                }
            }
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| {
                    Err(Error::Network { what: "collecting", why: "a worker's fetch panicked".to_owned() })
                })
            })
        })
    }

    /// Asks one worker after another, each as often as it takes. Whoever is asked again goes to the back of the others.
    fn ask(&self) -> Result<()> {
        loop {
            self.monitor.check()?;
            let next = self.awaited.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(mut awaited) = next else { return Ok(()) };
            // However many they are, all together are asked at one pace; in the end each once more, for as long as there is time.
            if awaited.last.is_some() && !self.is_over_in(AGAIN) {
                self.node.wait(&mut awaited.watch, AGAIN)?;
                self.monitor.check()?;
            }
            match self.node.fetch_as(&awaited.wanted, awaited.look, &self.patience) {
                Ok(version) => {
                    let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(place) = found.get_mut(awaited.place) {
                        *place = Some(version);
                    }
                }
                Err(error) if may_come(&error) && !self.is_over_in(AGAIN) => {
                    // The first record that is found may be of no use; then the others are asked as well.
                    let none = is_unpublished(&error) || matches!(error, Error::NoPeers { .. });
                    awaited.look = if none { Look::First } else { Look::Newest };
                    awaited.last = Some(error);
                    self.awaited.lock().unwrap_or_else(PoisonError::into_inner).push_back(awaited);
                }
                // Whatever a worker has published, it is the others' round as well.
                Err(error) if may_come(&error) || matches!(error, Error::Cancelled) => {
                    let why = if matches!(error, Error::Cancelled) { awaited.last } else { Some(error) };
                    // Where there is none, there is nothing to be said of it.
                    let why = why.filter(|why| !is_unpublished(why));
                    if let (Some(why), Some(worker)) = (why, self.workers.get(awaited.place)) {
                        self.monitor.warn(&format!("the contribution of @{worker} is not there: {why}"));
                    }
                }
                // This machine's, such as a full disk.
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the deadline will have come after `time`.
    fn is_over_in(&self, time: Duration) -> bool {
        self.until.is_some_and(|until| Instant::now() + time >= until)
    }
}

/// Whether what failed with this may succeed a moment later.
fn may_come(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. } | Error::Network { .. } | Error::NoPeers { .. } | Error::Unavailable { .. })
}

/// Whether nobody knows of a contribution.
fn is_unpublished(error: &Error) -> bool {
    matches!(error, Error::NotFound { what: "key", .. })
}
