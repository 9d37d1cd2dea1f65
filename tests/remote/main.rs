//! A store whose packs are in an object store: what requests that fail, stall or are answered too late do to it, and (feature
//! `test-servers`) real servers, which are stopped in the middle.
#![cfg(feature = "remote")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod fault;
mod faults;
mod losses;
mod owners;
#[cfg(feature = "test-servers")]
mod processes;
#[cfg(feature = "test-servers")]
mod proxy;
#[cfg(feature = "test-servers")]
mod servers;
#[path = "../stores/mod.rs"]
mod stores;
