//! Black-box tests of the command: arguments in, bytes and exit code out. Nothing outside the repository is needed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod bench;
mod deltas;
mod disk;
mod gradient;
mod hostile;
mod interruption;
mod kill;
mod listing;
mod parts;
mod put_get;
mod refs;
mod refusals;
mod texts;
mod verify;
