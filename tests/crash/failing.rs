//! A disk that fails without a crash: full, or broken. What was stored before stays readable in the same process.

use caskad::Error;
use caskad::backend::StorageBackend as _;
use caskad::backend::testing::{FaultDisk, Survivors};

use crate::scenario::{Kept, Run, Step, check, open, operations_of, scenario};
use crate::spread;
use crate::stores::{Op, apply, assert_sound, noise, read};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

#[test]
fn a_full_or_broken_disk_is_named_and_spares_what_is_there() {
    fail_everywhere(&scenario(), &Kept::ALL);
}

pub(crate) fn fail_everywhere(steps: &[Step], kept: &[Kept]) {
    for (kept, errno) in kept.iter().flat_map(|&kept| [(kept, ENOSPC), (kept, EIO)]) {
        let count = operations_of(steps, kept);
        eprintln!("failing disk: {count} operations, errno {errno}, {kept:?}");
        spread(count, |stop| {
            let context = format!("errno {errno} at {stop}, {kept:?}");
            let disk = FaultDisk::new();
            disk.fail_after_with(stop, errno);
            let (run, store) = Run::open_end(&disk, steps, kept);
            match (&run.error, errno) {
                (Some(Error::NoSpace { .. }), ENOSPC) | (Some(Error::Io { .. }), EIO) => {}
                // Closing a store says nothing; the next open finds the disk as it is.
                (None, _) => {}
                (error, _) => panic!("{context}: {error:?}"),
            }
            if let Some(store) = store {
                let found = read(&store).unwrap_or_else(|error| panic!("{context}: earlier versions: {error}"));
                assert!(run.allowed().iter().any(|model| model.visible() == found), "{context}: in the same process");
                if run.error.is_some() {
                    let again = apply(&store, &Op::Put { key: "x", label: None, payload: Default::default() });
                    let refused = Error::WriteFailed { why: String::new() }.kind();
                    let kinds = [refused, if errno == ENOSPC { "no_space" } else { "io" }];
                    assert!(
                        again.is_err_and(|error| kinds.contains(&error.kind())),
                        "{context}: a put on a failed disk"
                    );
                }
            }
            check(&disk.crash(Survivors::Written), &run, &context);
        });
    }
}

#[test]
fn a_disk_without_room_for_more_takes_more_once_there_is_some() {
    let disk = FaultDisk::new();
    disk.hold(Some(4 << 20));
    let store = open(&disk, Kept::ALL[0]).unwrap();
    let put = |version: u64| {
        apply(&store, &Op::Put { key: "full", label: None, payload: noise(&format!("{version}"), 300_000).into() })
    };
    let refused = (1..).find_map(|version| Some((version, put(version).err()?))).unwrap();
    let (last, error) = (refused.0 - 1, refused.1);
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(last > 8, "{last} versions had room");
    // Refused, and not broken: the same handle serves, removes, collects what was removed, and stores again.
    assert!(matches!(put(0), Err(Error::NoSpace { .. })));
    assert_sound(&store, "on a full disk");
    let others = (1..=last).filter(|version| version % 2 == 0);
    others.for_each(|version| apply(&store, &Op::Remove("full", version)).unwrap());
    // With room for a few refs and no more, what is to be copied waits for what makes room.
    let free = || disk.room().unwrap().free;
    disk.hold(Some((4 << 20) - free() + 5_000));
    apply(&store, &Op::Gc).unwrap();
    assert!(free() > 1_000_000, "{} bytes are free", free());
    disk.hold(Some(4 << 20));
    put(refused.0).unwrap();
    disk.hold(Some(8 << 20));
    (0..8).for_each(|version| put(100 + version).unwrap());
    assert_sound(&store, "on a larger disk");
    drop(store);
    assert_sound(&open(&disk, Kept::ALL[0]).unwrap(), "opened again");
}
