//! The same work by several threads at once.

use std::panic::resume_unwind;
use std::thread;

/// Runs `work` on `threads` threads, this one included, and returns when all of them are done: with the first error, if any had one.
///
/// `work` takes from what the threads share until nothing is left. Where the system gives fewer threads, fewer do it.
pub(super) fn in_parallel<E: Send>(threads: usize, work: impl Fn() -> Result<(), E> + Sync) -> Result<(), E> {
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, &work).ok();
        let others: Vec<_> = (1..threads).map_while(spawn).collect();
        let mine = work();
        others.into_iter().fold(mine, |outcome, other| {
            let theirs = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            outcome.and(theirs)
        })
    })
}
