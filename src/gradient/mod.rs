//! Gradients: what workers that train one model exchange in every round.
//!
//! A worker [publishes](publish) its contribution under its own scope, so it is signed; whoever needs the round [collects](collect) what is
//! there by a deadline, and [aggregates](aggregate) it tensor by tensor. Robust rules make one bad worker bearable: a trimmed mean or a median
//! stays near the honest ones whatever a minority sends (Yin et al., *Byzantine-Robust Distributed Learning*, 2018).

mod aggregate;
mod exchange;
mod values;

pub use aggregate::{AggregateReport, Contribution, FileContribution, NonFinite, Rule, aggregate};
pub use exchange::{Collected, Collection, collect, publish, round_key};
