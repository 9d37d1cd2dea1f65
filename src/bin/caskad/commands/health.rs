//! `caskad health`: how the running node is.

use caskad::Health as Report;
use clap::Args;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{count, joined, size};
use crate::table::fields;

/// Tell how the node that runs on this store is
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad health
  caskad health --json | jq .under_replicated")]
pub(crate) struct Health {}

impl Health {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let health = context.needed_node()?.health()?;
        context.list(&health, describe)?;
        Ok(Exit::Done)
    }
}

fn describe(health: &Report) -> String {
    let uptime = humantime::format_duration(std::time::Duration::from_secs(health.uptime_seconds as u64));
    let refused = format!(
        "{}, {}, {}, {}, {}",
        count(health.wrong_chunks, "wrong chunk"),
        count(health.refused_records, "record"),
        count(health.refused_requests, "request"),
        count(health.refused_connections, "connection"),
        count(health.broken_streams, "broken stream")
    );
    let lacking = match health.under_replicated {
        None => "not compared with peers yet".to_owned(),
        Some(chunks) => format!("{} on too few peers", count(chunks, "chunk")),
    };
    let waiting = format!("{} to be published", count(health.unpublished, "key"));
    let waiting = match &health.unpublished_why {
        Some(why) => format!("{waiting}; {why}"),
        None => waiting,
    };
    let relayed = match health.relayed_peers {
        0 => String::new(),
        relayed => format!(" ({relayed} through a relay)"),
    };
    let peers = format!("{} connected{relayed}, {} known", health.connected_peers, health.known_peers);
    let passed_on = (health.passed_on > 0).then(|| format!(", {} passed on", count(health.passed_on, "connection")));
    let (sent, received) = (size(health.sent_bytes), size(health.received_bytes));
    let mut text = vec![
        ("peer", health.peer_id.clone()),
        ("scope", format!("@{}", health.scope)),
        ("network", health.network_id.clone()),
    ];
    let labels = std::iter::once("listens on").chain(std::iter::repeat(""));
    text.extend(labels.zip(health.listen.iter().cloned()));
    text.extend([
        ("peers", peers),
        ("buckets", joined(&health.bucket_sizes)),
        ("stored", format!("{} in {}", size(health.stored_bytes), count(health.stored_chunks, "chunk"))),
        ("keeps", format!("{} of other peers", count(health.leases as u64, "lease"))),
        ("waiting", waiting),
        ("lacking", lacking),
        ("refused", refused),
        ("traffic", format!("{sent} sent, {received} received{}", passed_on.unwrap_or_default())),
        ("up", uptime.to_string()),
    ]);
    fields("", &text)
}
