//! Damage × place on a store in a directory: never a panic, never a wrong byte, and what is hurt is named.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

#[path = "../formats/mod.rs"]
mod formats;
#[path = "../stores/mod.rs"]
mod stores;

mod deltas;
mod files;
mod fixture;
mod index;
mod packs;
mod tensors;
mod unreadable;
