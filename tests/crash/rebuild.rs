//! Crashes while the index is rebuilt from the packs, and while a store is created.

use caskad::backend::testing::{FaultDisk, Survivors};

use crate::scenario::{Run, check, open, scenario};

/// A store after the whole scenario, without its index.
fn without_index() -> (FaultDisk, Run) {
    let disk = FaultDisk::new();
    let run = Run::of(&disk, &scenario());
    disk.with_index(Vec::clear);
    (disk, run)
}

#[test]
fn a_crash_while_the_index_is_rebuilt_leaves_it_to_the_next_open() {
    let (disk, run) = without_index();
    let mut stops = 0;
    loop {
        let opened = disk.crash(Survivors::Written);
        opened.fail_after(stops);
        let outcome = open(&opened).map(drop);
        for survivors in Survivors::ALL {
            check(&opened.crash(survivors), &run, &format!("rebuild stopped at {stops}, {survivors:?}"));
        }
        if (opened.operations().len() as u64) < stops {
            outcome.unwrap();
            break;
        }
        stops += 1;
    }
    eprintln!("crash while rebuilding: {stops} operations × {} kinds of survivors", Survivors::ALL.len());
}

#[test]
fn an_index_damaged_in_any_page_is_rebuilt_whatever_crash_follows() {
    let disk = FaultDisk::new();
    let run = Run::of(&disk, &scenario());
    let len = disk.with_index(|bytes| bytes.len());
    let mut pairs = 0;
    for at in (0..len).step_by(4096 * 7 + 13) {
        let damaged = disk.crash(Survivors::Written);
        damaged.with_index(|bytes| bytes[at] ^= 0x40);
        for stop in [0, 3, 7, 12, 20] {
            let opened = damaged.crash(Survivors::Written);
            opened.fail_after(stop);
            let _ = open(&opened);
            for survivors in [Survivors::Synced, Survivors::Torn] {
                check(&opened.crash(survivors), &run, &format!("byte {at} flipped, stop {stop}, {survivors:?}"));
                pairs += 1;
            }
        }
    }
    eprintln!("crash after damage to the index: {pairs} pairs");
}
