//! `caskad peers`: whom the running node knows.

use caskad::PeerSummary;
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::table::Table;

/// List the peers that the node is connected to or knows
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad peers
  caskad peers --json | jq -r '.[] | select(.connected) | .peer_id'")]
pub(crate) struct Peers {}

impl Peers {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let peers = context.needed_node()?.peers()?;
        context.list(peers.as_slice(), describe)?;
        Ok(Exit::Done)
    }
}

fn describe(peers: &[PeerSummary]) -> String {
    if peers.is_empty() {
        return "no peers\n".to_owned();
    }
    let mut table = Table::new(&["PEER", "STATE", "ADDRESSES"]);
    for peer in peers {
        let state = match (peer.banned, peer.connected, peer.relayed) {
            (true, ..) => "sent wrong chunks",
            (false, true, false) => "connected",
            (false, true, true) => "connected through a relay",
            (false, false, _) => "known",
        };
        let mut addresses = peer.addresses.iter().cloned();
        table.row([peer.peer_id.clone(), state.to_owned(), addresses.next().unwrap_or_default()]);
        addresses.for_each(|address| table.row([String::new(), String::new(), address]));
    }
    table.render("")
}
