//! The window of a node, as clients see it.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod access;
mod api;
mod blobs;
mod client;
mod hub;
