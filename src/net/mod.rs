//! The network: where chunks belong, how they get there and back, and the signed records that name them.
//!
//! Pure and without I/O: `placement` (which peers hold a placement group) and `region` (how few lookups find them all). libp2p does what
//! it is good at (`transport`, `behaviour`, `event_loop`: connections, encryption, Kademlia). Own is the exchange: `wire` (its bytes),
//! `serve` (answering), `link` (asking one peer) and `fetch` (asking many at once).
//!
//! This layer sees chunks and records, never the store: what is here and what may be kept is asked through
//! [`ChunkSource`](crate::chunk::ChunkSource) and [`Keeper`](serve::Keeper).

mod behaviour;
mod board;
pub mod catalogue;
pub mod config;
mod event_loop;
mod fetch;
mod framed;
mod kad_records;
mod link;
mod mux;
pub mod placement;
mod push;
pub mod record;
pub mod region;
mod resolver;
mod serve;
mod tables;
pub mod transport;
pub mod wire;
