//! Gradients: what workers that train one model exchange in every round. A worker publishes its contribution under its own scope, so it is
//! signed; whoever needs the round collects what is there by a deadline, and folds it, one safetensors file of each worker, into one.
//!
//! ```
//! use caskad::Monitor;
//! use caskad::gradient::{AggregateOptions, BytesContribution, Rule, aggregate};
//!
//! # fn gradient(values: [f32; 2]) -> Vec<u8> {
//! #     let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
//! #     let values = values.map(f32::to_le_bytes).concat();
//! #     [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &values].concat()
//! # }
//! let a = BytesContribution::new("worker a", gradient([1.0, 2.0]));
//! let b = BytesContribution::new("worker b", gradient([3.0, 6.0]));
//! let mut out = Vec::new();
//! let report = aggregate(&[&a, &b], &Rule::Mean, &AggregateOptions::default(), &mut out, &Monitor::none())?;
//! assert_eq!((report.tensors, report.elements), (1, 2));
//! assert!(out.ends_with(&[2.0_f32, 4.0].map(f32::to_le_bytes).concat()));
//! # Ok::<(), caskad::Error>(())
//! ```
//!
//! # The rules
//!
//! | [`Rule`] | of the values of one coordinate | withstands |
//! |---|---|---|
//! | `Mean` | their mean | nothing: one bad worker moves it as far as it likes |
//! | `Weighted` | their mean, each counted by the weight of its contribution | nothing |
//! | `TrimmedMean` | the mean of what is left without the `floor(fraction * n)` least and as many greatest | that many bad workers |
//! | `Median` | the middle one, or the mean of the middle two | fewer than half |
//!
//! The coordinate-wise trimmed mean and median, and what they promise, are those of Yin, Chen, Ramchandran and Bartlett,
//! *Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates*, ICML 2018.
//!
//! # Numbers
//! `F64`, `F32`, `F16` and `BF16` are folded, in `f64`, and rounded once, to the nearest number of the tensor's own type, ties to even. No
//! result overflows: a mean lies between the least and the greatest of its values, so where `f64` itself would overflow on the way,
//! the sum is taken of scaled values, and what rounding would carry past the least or the greatest becomes that one. Tensors of
//! any other type (counters, masks, quantised blocks) have no mean: they must be the same in all contributions, and are copied.
//!
//! A value that is not finite refuses the aggregation, unless [`NonFinite::Drop`] leaves it out of its coordinate.
//!
//! # Memory
//! Headers are read and compared before anything is written, one at a time. Then tensors are folded in blocks, for which
//! [`AggregateOptions::block_bytes`] is shared by all contributions: memory follows neither their number nor their length.

mod aggregate;
mod contribution;
mod element;
#[cfg(feature = "net")]
mod exchange;
mod fold;
mod network;
mod plan;
mod rule;
mod window;

pub use aggregate::{AggregateOptions, AggregateReport, aggregate, aggregate_file};
pub use contribution::{BytesContribution, Contribution, FileContribution, VersionContribution};
#[cfg(feature = "net")]
pub use exchange::{Collected, Collection, collect, end_rounds_before, publish, round_key};
pub use plan::{check, unfit};
pub use rule::{NonFinite, Rule};
