//! Nodes as real processes on loopback: the command, sockets, disks and signals.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod commands;
mod cuts;
mod departures;
mod joins;
mod lan;
mod process;
mod relays;
