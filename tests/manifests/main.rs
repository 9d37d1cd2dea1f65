//! Manifests and ref records, from outside: golden bytes, bytes that must be refused, and properties of all others.
//!
//! `CASKAD_REGENERATE=1 cargo test --test manifests` rewrites the files under `manifests/`, on purpose only: a change of
//! golden bytes is a change of the format. Without it a missing, stale or stray file fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod diag;
mod fixtures;
mod generate;
mod golden;
mod properties;
mod reject;
