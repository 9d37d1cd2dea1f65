//! Nodes that are real but for their wires: several in this process, over libp2p's memory transport.
#![cfg(feature = "net")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod access;
mod gradients;
mod hostile;
mod liar;
mod many;
mod nodes;
mod put_get;
mod raw;
mod records;
mod versions;
