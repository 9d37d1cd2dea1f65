//! A disk that fails without a crash: full, or broken. What was stored before stays readable in the same process.

use caskad::Error;
use caskad::backend::testing::{FaultDisk, Survivors};

use crate::scenario::{Kept, Run, Step, check, operations_of, scenario};
use crate::spread;
use crate::stores::{Op, apply, read};

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
