//! A node: a store and the network, joined. Everything that a store does it does as well, and what is put reaches its peers.
//!
//! - `node`: starting, the parts, and the end of it;
//! - put: `publish` (the versions of a key: place their chunks, then the record, `merge`d with what other machines of the scope have published) → `place` (chunks to holders, with an honest quorum);
//! - get: `find` (key → record → catalogue → manifest) → `pull` (the chunks that are not here) → the store's own get;
//! - `heal` fetches again what verification found damaged;
//! - `tasks` does what blocks on other threads than the node's;
//! - `keeper` answers peers, `upkeep` renews, republishes and repairs, `overview` tells how the node is.

mod body;
mod compare;
mod find;
mod heal;
mod keeper;
mod merge;
mod node;
mod overview;
mod place;
mod publish;
mod pull;
mod record;
mod tasks;
mod upkeep;
mod withdraw;

pub(crate) use find::{Look, Watch};
pub use node::{Node, NodeOptions};
pub use overview::{Health, PeerSummary};
