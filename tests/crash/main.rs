//! Stop the disk at every operation, reopen what a crash leaves, and compare with what was acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

#[path = "../formats/mod.rs"]
mod formats;
#[path = "../stores/mod.rs"]
mod stores;

mod deltas;
mod failing;
mod rebuild;
mod scenario;
mod tail;

use caskad::backend::testing::{FaultDisk, Survivors};

use scenario::{Kept, Run, Step, check, operations_of, scenario};

/// Threads that a matrix is spread over.
const THREADS: u64 = 2;

/// Calls `test` with each number below `count`, from several threads.
fn spread(count: u64, test: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|first| {
                scope.spawn({
                    let test = &test;
                    move || (first..count).step_by(THREADS as usize).for_each(test)
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

fn whatever_the_crash(steps: &[Step], kept: Kept) {
    let count = operations_of(steps, kept);
    spread(count, |stop| {
        let disk = FaultDisk::new();
        disk.fail_after(stop);
        let run = Run::of(&disk, steps, kept);
        assert!(run.error.is_some() || run.closing, "the disk stopped at {stop} and nobody noticed");
        for survivors in Survivors::ALL {
            let context = format!("{kept:?}, stop {stop}, {survivors:?}, during {:?}", run.attempted);
            check(&disk.crash(survivors), &run, &context);
        }
        // The process is killed, the store is opened again, and then the power fails: what that open took in must be durable.
        let killed = disk.crash(Survivors::Written);
        drop(scenario::open(&killed, kept).unwrap());
        let context = format!("{kept:?}, stop {stop}, opened, then the power failed");
        check(&killed.crash(Survivors::Synced), &run, &context);
    });
    eprintln!("crash matrix, {kept:?}: {count} operations × {} kinds of crash", Survivors::ALL.len() + 1);
}

#[test]
fn whatever_the_crash_what_was_acknowledged_is_there() {
    whatever_the_crash(&scenario(), Kept::Journal);
    whatever_the_crash(&scenario(), Kept::Outgrown);
}

#[test]
fn whatever_the_crash_what_was_acknowledged_is_there_with_a_database() {
    whatever_the_crash(&scenario(), Kept::Database);
}

#[test]
fn a_crash_during_recovery_costs_nothing_either() {
    for (kept, every) in [(Kept::Journal, 5), (Kept::Outgrown, 13), (Kept::Database, 31)] {
        let pairs = crash_twice(&scenario(), kept, every);
        eprintln!("crash twice, {kept:?}: {pairs} pairs");
    }
}

/// Some crashes, and after each a second one at every operation of the next open. Of how many crashes one is followed by a second is
/// a prime, so that it meets every part of a commit. Says how many pairs those are.
fn crash_twice(steps: &[Step], kept: Kept, every: u64) -> u64 {
    let twice = std::sync::atomic::AtomicU64::new(0);
    spread(operations_of(steps, kept).div_ceil(every), |nth| {
        let disk = FaultDisk::new();
        disk.fail_after(every * nth);
        let run = Run::of(&disk, steps, kept);
        for survivors in [Survivors::Torn, Survivors::Written] {
            for stop in 0.. {
                let reopened = disk.crash(survivors);
                reopened.fail_after(stop);
                let outcome = scenario::open(&reopened, kept).map(drop);
                let done = (reopened.operations().len() as u64) < stop;
                for again in [survivors, Survivors::Synced] {
                    let first = every * nth;
                    let context = format!("{kept:?}, stop {first}, {survivors:?}, then {stop} of the open, {again:?}");
                    check(&reopened.crash(again), &run, &context);
                    twice.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                if done {
                    outcome.unwrap();
                    break;
                }
            }
        }
    });
    twice.into_inner()
}
