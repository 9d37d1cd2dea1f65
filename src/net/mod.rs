//! The network: where chunks belong, how they get there and back, and the signed records that name them.
//!
//! Pure and without I/O: `placement` (which peers hold a placement group) and `region` (how few lookups find them all). libp2p does what
//! it is good at (`transport`, `behaviour`, `event_loop`: connections, encryption, Kademlia). Own is the exchange: `wire` (its bytes),
//! `serve` (answering), `link` (asking one peer) and `fetch` (asking many at once).
//!
//! This layer sees chunks and records, never the store: what is here and what may be kept is asked through
//! [`ChunkSource`](crate::chunk::ChunkSource) and [`Keeper`](serve::Keeper).

pub use libp2p::{Multiaddr, PeerId};

pub(crate) mod behaviour;
mod board;
pub mod catalogue;
pub mod config;
pub(crate) mod event_loop;
pub(crate) mod fetch;
pub(crate) mod framed;
pub(crate) mod kad_records;
pub(crate) mod link;
mod mux;
pub mod placement;
pub(crate) mod push;
pub mod record;
pub mod region;
pub(crate) mod resolver;
pub(crate) mod serve;
pub(crate) mod tables;
pub mod transport;
pub mod wire;
