//! The network: where chunks belong, how they get there and back, and the signed records that name them.
//!
//! Pure and without I/O: `placement` (which peers hold a placement group) and `region` (how few lookups find them all). libp2p does what
//! it is good at (`transport`, `behaviour`, `event_loop` and the `handle` to it: connections, encryption, Kademlia, relays); `tls`, `mux` and
//! `gather` set it up for long transfers, and `redial`, `look_around`, `relays` and `connections` say who is dialled when, and through whom. Own is the exchange: `wire` (its bytes), `serve` (answering), `link` (asking one peer) and
//! `fetch` (asking many at once).
//!
//! This layer sees chunks and records, never the store: what is here and what may be kept is asked through
//! [`ChunkSource`](crate::chunk::ChunkSource) and its like. `docs/protocol.md` describes every byte that travels. What needs no libp2p (placement,
//! regions, frames, records) is here without the feature `net` as well.

#[cfg(feature = "net")]
pub use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

#[cfg(feature = "net")]
mod address;
#[cfg(feature = "net")]
pub(crate) mod behaviour;
#[cfg(feature = "net")]
mod board;
pub mod catalogue;
#[cfg(feature = "net")]
mod circuits;
#[cfg(feature = "net")]
pub mod config;
#[cfg(feature = "net")]
mod connections;
#[cfg(feature = "net")]
mod doubts;
#[cfg(feature = "net")]
pub(crate) mod event_loop;
#[cfg(feature = "net")]
pub(crate) mod fetch;
#[cfg(feature = "net")]
pub(crate) mod framed;
#[cfg(feature = "net")]
mod gather;
#[cfg(feature = "net")]
pub(crate) mod handle;
#[cfg(feature = "net")]
pub(crate) mod kad_records;
#[cfg(feature = "net")]
pub(crate) mod link;
#[cfg(feature = "net")]
mod look_around;
#[cfg(feature = "net")]
mod mux;
#[cfg(feature = "net")]
mod notices;
#[cfg(feature = "net")]
mod pace;
#[cfg(feature = "net")]
pub(crate) mod peer_list;
pub mod placement;
#[cfg(feature = "net")]
mod pulse;
#[cfg(feature = "net")]
pub(crate) mod push;
#[cfg(feature = "net")]
mod queries;
pub mod record;
#[cfg(feature = "net")]
pub(crate) mod redial;
pub mod region;
#[cfg(feature = "net")]
mod relays;
#[cfg(feature = "net")]
pub(crate) mod resolver;
#[cfg(feature = "net")]
pub(crate) mod serve;
#[cfg(feature = "net")]
pub(crate) mod tables;
#[cfg(feature = "net")]
mod tls;
#[cfg(feature = "net")]
pub mod transport;
#[cfg(feature = "net")]
mod under_way;
pub mod wire;
