//! Publishing contributions, and collecting those of a round.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::identity::ScopeKey;
use crate::key::{Key, PutName, VersionRef};
use crate::monitor::Monitor;
use crate::node::{Look, Node, Payload, PutOptions, PutReport, Version};

/// Workers that are asked at the same time.
const AT_ONCE: usize = 16;

/// How long after a look in vain the next one follows, unless word of the contribution comes first.
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

/// Fetches what `workers` have published of `round` of `run`, many at once, and waits for those who have not until `deadline` has passed.
pub fn collect(
    node: &Node,
    run: &str,
    round: u64,
    workers: &[ScopeKey],
    deadline: Duration,
    monitor: &Monitor,
) -> Result<Collection> {
    let until = Instant::now() + deadline;
    let key = round_key(run, round)?;
    if let Some(twice) =
        (1..workers.len()).find_map(|at| workers.get(at).filter(|worker| workers[..at].contains(worker)))
    {
        let why = "it is named twice, and would count twice".to_owned();
        return Err(Error::Syntax { what: "worker", input: format!("@{twice}"), why });
    }
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..workers.len()).collect());
    let found: Mutex<Vec<Option<Version>>> = Mutex::new((0..workers.len()).map(|_| None).collect());
    // Ended with the deadline, whatever a fetch is at.
    let patience = Monitor::none();
    let ask = &|| -> Result<()> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((index, worker)) = next.and_then(|index| Some((index, workers.get(index)?))) else {
                return Ok(());
            };
            let wanted = VersionRef::from(key.in_scope(worker));
            let mut watch = node.watch(&wanted.key)?;
            let mut look = Look::First;
            let mut last = None;
            loop {
                monitor.check()?;
                match node.fetch_as(&wanted, look, &patience) {
                    Ok(version) => {
                        if let Some(place) = found.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
                            *place = Some(version);
                        }
                        break;
                    }
                    Err(error @ (Error::NotFound { .. } | Error::Network { .. })) if Instant::now() + AGAIN < until => {
                        // The first record that is found may be of no use; then the others are asked as well.
                        look = if matches!(error, Error::NotFound { what: "key", .. }) {
                            Look::First
                        } else {
                            Look::Newest
                        };
                        last = Some(error);
                        node.wait(&mut watch, AGAIN)?;
                    }
                    // Whatever a worker has published, it is the others' round as well.
                    Err(error @ (Error::NotFound { .. } | Error::Network { .. } | Error::Cancelled)) => {
                        let why = if matches!(error, Error::Cancelled) { last } else { Some(error) };
                        // Where there is none, there is nothing to be said of it.
                        if let Some(why) = why.filter(|why| !matches!(why, Error::NotFound { what: "key", .. })) {
                            monitor.warn(&format!("the contribution of @{worker} is not there: {why}"));
                        }
                        break;
                    }
                    // This machine's, such as a full disk.
                    Err(error) => return Err(error),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        // Nothing is sent: the channel ends with the last thread.
        let (running, ended) = mpsc::channel::<()>();
        let start = |_| {
            let running = running.clone();
            scope.spawn(move || {
                let _running = running;
                ask()
            })
        };
        let threads: Vec<_> = (0..workers.len().min(AT_ONCE)).map(start).collect();
        drop(running);
        while ended.recv_timeout(LOOK_UP) == Err(RecvTimeoutError::Timeout) {
            if Instant::now() >= until || monitor.check().is_err() {
                patience.cancel();
            }
        }
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| {
                Err(Error::Network { what: "collecting", why: "a worker's fetch panicked".to_owned() })
            })
        })
    })?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut collection = Collection { contributions: Vec::new(), missing: Vec::new() };
    for (worker, version) in workers.iter().zip(found) {
        match version {
            Some(version) => collection.contributions.push(Collected { worker: *worker, version }),
            None => collection.missing.push(*worker),
        }
    }
    Ok(collection)
}
