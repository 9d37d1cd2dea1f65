//! Crashes while the index is rebuilt from the packs, and while a store is created.

use caskad::backend::testing::{FaultDisk, Survivors};

use crate::scenario::{Kept, Run, Step, check, open, scenario};

/// The journal among the objects of the disk.
const JOURNAL: &str = "index.journal";

/// A store after all `steps`, without its index.
pub(crate) fn without_index(steps: &[Step], kept: Kept) -> (FaultDisk, Run) {
    let disk = FaultDisk::new();
    let run = Run::of(&disk, steps, kept);
    disk.with_index(Vec::clear);
    assert_eq!(disk.with_object(JOURNAL, Vec::clear).is_some(), kept == Kept::Journal);
    (disk, run)
}

#[test]
fn a_crash_while_the_index_is_rebuilt_leaves_it_to_the_next_open() {
    crash_while_rebuilding(&scenario(), &Kept::ALL);
}

pub(crate) fn crash_while_rebuilding(steps: &[Step], kept: &[Kept]) {
    for &kept in kept {
        let (disk, run) = without_index(steps, kept);
        let mut stops = 0;
        loop {
            let opened = disk.crash(Survivors::Written);
            opened.fail_after(stops);
            let outcome = open(&opened, kept).map(drop);
            for survivors in Survivors::ALL {
                let context = format!("{kept:?}: rebuild stopped at {stops}, {survivors:?}");
                check(&opened.crash(survivors), &run, &context);
            }
            if (opened.operations().len() as u64) < stops {
                outcome.unwrap();
                break;
            }
            stops += 1;
        }
        eprintln!("crash while rebuilding, {kept:?}: {stops} operations × {} kinds of survivors", Survivors::ALL.len());
    }
}

/// Flips a bit of the index at `at`.
fn damage(disk: &FaultDisk, kept: Kept, at: usize) {
    match kept {
        Kept::Journal => disk.with_object(JOURNAL, |bytes| bytes[at] ^= 0x40).unwrap(),
        Kept::Outgrown | Kept::Database => disk.with_index(|bytes| bytes[at] ^= 0x40),
    }
}

#[test]
fn an_index_damaged_anywhere_is_rebuilt_whatever_crash_follows() {
    for kept in [Kept::Journal, Kept::Database] {
        let disk = FaultDisk::new();
        let run = Run::of(&disk, &scenario(), kept);
        let (len, step) = match kept {
            Kept::Journal => (disk.with_object(JOURNAL, |bytes| bytes.len()).unwrap(), 211),
            _ => (disk.with_index(|bytes| bytes.len()), 4096 * 7 + 13),
        };
        let mut pairs = 0;
        for at in (0..len).step_by(step).chain([len - 1]) {
            let damaged = disk.crash(Survivors::Written);
            damage(&damaged, kept, at);
            for stop in [0, 3, 7, 12, 20] {
                let opened = damaged.crash(Survivors::Written);
                opened.fail_after(stop);
                let _ = open(&opened, kept);
                for survivors in [Survivors::Synced, Survivors::Torn] {
                    let context = format!("{kept:?}: byte {at} flipped, stop {stop}, {survivors:?}");
                    check(&opened.crash(survivors), &run, &context);
                    pairs += 1;
                }
            }
        }
        eprintln!("crash after damage to the index of {len} bytes, {kept:?}: {pairs} pairs");
    }
}
