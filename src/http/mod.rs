//! The window of a node: blobs, what is known of them, metrics and a dashboard, over HTTP/1.1.
//!
//! | path | is |
//! |---|---|
//! | `/` | the dashboard |
//! | `/blobs/KEY[@V]` | the bytes of a version: `GET`, `HEAD` (with `Range` and conditions), `PUT` for the next version, `DELETE` |
//! | `/api/v1/…` | what `--json` prints of the commands `health`, `peers`, `stat`, `ls`, `log`, `show`, `diff`, and manifests |
//! | `/api/models/…`, `/KEY/resolve/REV/FILE` | the read part of the Hugging Face Hub's interface |
//! | `/metrics` | Prometheus text |
//! | `/openapi.json` | the description of all of it |
//!
//! A request is answered by a thread that may block, since a [`Node`](crate::Node) does; what it reads and writes goes through short channels, so a slow
//! client costs a few buffers and, after a while, its connection. Nothing here can do what a caller of [`Node`](crate::Node) could not.

mod answer;
mod api;
mod ask;
mod blobs;
mod body;
mod guard;
mod hub;
mod metrics;
mod page;
mod range;
mod server;

pub use guard::Token;
pub use server::{HttpOptions, HttpServer};
