//! Stop the disk at every operation, reopen what a crash leaves, and compare with what was acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

#[path = "../stores/mod.rs"]
mod stores;

mod failing;
mod rebuild;
mod scenario;

use caskad::backend::testing::{FaultDisk, Survivors};

use scenario::{Run, check, operations_of, scenario};

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

#[test]
fn whatever_the_crash_what_was_acknowledged_is_there() {
    let count = operations_of(&scenario());
    spread(count, |stop| {
        let disk = FaultDisk::new();
        disk.fail_after(stop);
        let run = Run::of(&disk, &scenario());
        assert!(run.error.is_some() || run.closing, "the disk stopped at {stop} and nobody noticed");
        for survivors in Survivors::ALL {
            check(&disk.crash(survivors), &run, &format!("stop {stop}, {survivors:?}, during {:?}", run.attempted));
        }
        // The process is killed, the store is opened again, and then the power fails: what that open took in must be durable.
        let killed = disk.crash(Survivors::Written);
        drop(scenario::open(&killed).unwrap());
        check(&killed.crash(Survivors::Synced), &run, &format!("stop {stop}, opened, then the power failed"));
    });
    eprintln!("crash matrix: {count} operations × {} kinds of crash", Survivors::ALL.len() + 1);
}

/// Of how many crashes one is followed by a second. A prime, so that it meets every part of a commit.
const EVERY: u64 = 31;

#[test]
fn a_crash_during_recovery_costs_nothing_either() {
    let count = operations_of(&scenario());
    let twice = std::sync::atomic::AtomicU64::new(0);
    // Some crashes, and after each a second one at every operation of the next open.
    spread(count.div_ceil(EVERY), |nth| {
        let disk = FaultDisk::new();
        disk.fail_after(EVERY * nth);
        let run = Run::of(&disk, &scenario());
        for survivors in [Survivors::Torn, Survivors::Written] {
            for stop in 0.. {
                let reopened = disk.crash(survivors);
                reopened.fail_after(stop);
                let outcome = scenario::open(&reopened).map(drop);
                let done = (reopened.operations().len() as u64) < stop;
                for again in [survivors, Survivors::Synced] {
                    let context = format!("stop {}, {survivors:?}, then {stop} of the open, {again:?}", EVERY * nth);
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
    eprintln!("crash twice: {} pairs", twice.into_inner());
}
