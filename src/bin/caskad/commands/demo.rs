//! `caskad demo`: a network in one process, to see what it does.

use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use caskad::net::config::NetConfig;
use caskad::net::transport;
use caskad::{Error, GetOptions, Node, NodeOptions, Payload, PutOptions, Store, VersionRef};
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::size;
use crate::table::Table;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a node may be away before what it held is copied elsewhere.
const DEPARTURE: Duration = Duration::from_secs(1);

/// Start a network of nodes in this process, lose some of them, and show what travelled
///
/// Stores two versions of a generated model, fetches both elsewhere, loses two nodes, waits until their chunks are on others again, and
/// fetches once more. Everything lies in a temporary directory that is gone afterwards; no store of yours is touched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  caskad demo
  caskad demo --nodes 20 --mib 64")]
pub(crate) struct Demo {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(5..=64))]
    nodes: u16,
    /// Size of the model
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    mib: u16,
}

/// One step and what it moved.
#[derive(Debug, Serialize)]
struct Row {
    step: &'static str,
    payload_bytes: u64,
    sent_bytes: u64,
    received_bytes: u64,
    lookups: u64,
    replicas: Option<u64>,
    seconds: f64,
}

struct Network {
    nodes: Vec<Node>,
    rows: Vec<Row>,
}

impl Demo {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit> {
        let directory = tempfile::tempdir().map_err(|source| Error::Io {
            action: "create a directory in",
            path: std::env::temp_dir(),
            source,
        })?;
        let mut network = Network { nodes: Vec::new(), rows: Vec::new() };
        context.tell(&format!("starting {} nodes", self.nodes));
        for index in 0..self.nodes {
            context.monitor().check()?;
            network.nodes.push(start(directory.path(), index)?);
        }
        context.tell("waiting until they know each other");
        let expected = usize::from(self.nodes) - 1;
        for node in &network.nodes {
            wait("the nodes to find each other", context, || Ok(node.peers()?.len() >= expected.min(20)))?;
        }
        let base = model(usize::from(self.mib) << 19, 0);
        let tuned = model(usize::from(self.mib) << 19, 1);
        let reader = usize::from(self.nodes) - 1;
        network.put("put version 1", &base, context)?;
        network.get("get it elsewhere", reader, 1, &base, directory.path(), context)?;
        network.put("put version 2, trained further", &tuned, context)?;
        network.get("get it where version 1 is", reader, 2, &tuned, directory.path(), context)?;
        context.tell("lose two nodes, repair");
        for lost in [1, 2] {
            // Gone without a word, as if it had been killed.
            drop(network.nodes.remove(lost));
        }
        let started = Instant::now();
        let sent = network.sent()?;
        wait("the lost replicas to be back", context, || network.is_healed_since(started))?;
        let sent_bytes = network.sent()?.saturating_sub(sent);
        network.rows.push(Row {
            step: "lose two nodes, repair",
            payload_bytes: 0,
            sent_bytes,
            received_bytes: 0,
            lookups: 0,
            replicas: None,
            seconds: started.elapsed().as_secs_f64(),
        });
        network.get("get version 2 on another node", 2, 2, &tuned, directory.path(), context)?;
        context.list(network.rows.as_slice(), describe)?;
        end(network.nodes)?;
        Ok(Exit::Done)
    }
}

/// Ends nodes all at once. One after another, those that are left would look for those that are gone.
fn end(nodes: Vec<Node>) -> Result<()> {
    let ends: Vec<_> = nodes.into_iter().map(|node| std::thread::spawn(|| node.shutdown())).collect();
    for end in ends {
        end.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(())
}

/// A node in this process, over memory in place of wires.
fn start(directory: &Path, index: u16) -> Result<Node> {
    let address = |index: u16| format!("/memory/{}", 0x00de_0000 + u64::from(index));
    let parse = |text: String| text.parse().map_err(|error| Failure::Usage(format!("{text}: {error}")));
    let mut config = NetConfig::default();
    config.network_id = "demo".to_owned();
    config.mdns = false;
    config.listen = vec![parse(address(index))?];
    config.join = if index > 0 { vec![parse(address(0))?] } else { Vec::new() };
    config.refresh_interval = Duration::from_secs(2);
    config.departure = DEPARTURE;
    let store = Store::open(directory.join(format!("node-{index}")))?;
    Ok(Node::start(store, NodeOptions::new(config).transport(transport::memory))?)
}

impl Network {
    fn put(&mut self, step: &'static str, model: &[u8], context: &Context) -> Result<()> {
        context.tell(step);
        let payload = Payload::reader("model.safetensors", Cursor::new(model.to_vec()));
        let Some(node) = self.nodes.first() else { return Ok(()) };
        let report = node.put(&"demo/model".parse()?, payload, &PutOptions::default(), context.monitor())?;
        let network = report.network.unwrap_or_default();
        self.rows.push(Row {
            step,
            payload_bytes: report.bytes,
            sent_bytes: network.sent_bytes,
            received_bytes: 0,
            lookups: network.lookups,
            replicas: Some(network.replicas),
            seconds: report.seconds,
        });
        Ok(())
    }

    fn get(
        &mut self,
        step: &'static str,
        reader: usize,
        version: u64,
        model: &[u8],
        directory: &Path,
        context: &Context,
    ) -> Result<()> {
        context.tell(step);
        let (Some(publisher), Some(node)) = (self.nodes.first(), self.nodes.get(reader)) else { return Ok(()) };
        let wanted: VersionRef = format!("@{}/demo/model@{version}", publisher.scope()).parse()?;
        let out = directory.join("restored.safetensors");
        let started = Instant::now();
        let report = node.get(&wanted, &out, &GetOptions::default(), context.monitor())?;
        let seconds = started.elapsed().as_secs_f64();
        let restored = std::fs::read(&out).map_err(|source| Error::Io { action: "read", path: out.clone(), source })?;
        std::fs::remove_file(&out).map_err(|source| Error::Io { action: "remove", path: out, source })?;
        if restored != model {
            return Err(Failure::Usage("what was restored is not what was put; please report this".to_owned()));
        }
        self.rows.push(Row {
            step,
            payload_bytes: report.bytes,
            sent_bytes: 0,
            received_bytes: report.received_bytes,
            lookups: report.lookups,
            replicas: None,
            seconds,
        });
        Ok(())
    }

    fn sent(&self) -> Result<u64> {
        self.nodes.iter().try_fold(0, |sum, node| Ok(sum + node.health()?.sent_bytes))
    }

    /// True when every node has compared its groups when those that are lost had been away for long enough, and found nothing lacking.
    fn is_healed_since(&self, lost: Instant) -> Result<bool> {
        let mut healed = true;
        for node in &self.nodes {
            let health = node.health()?;
            let compared = health.compared_seconds_ago.map(|seconds| lost.elapsed().as_secs_f64() - seconds);
            // That a node does not answer is noticed by one comparison, and counts for the next.
            healed &= compared.is_some_and(|after| after > 3.0 * DEPARTURE.as_secs_f64());
            healed &= health.under_replicated == Some(0);
        }
        Ok(healed)
    }
}

fn wait(what: &str, context: &Context, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    // What happened last may not be noticed yet.
    std::thread::sleep(Duration::from_millis(500));
    while !holds()? {
        context.monitor().check()?;
        if Instant::now() > until {
            return Err(Failure::Usage(format!("gave up waiting for {what}")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A safetensors file of bf16 weights: normal ones, and after `steps` of training a little elsewhere. The same for the same arguments.
fn model(elements: usize, steps: u32) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f32 / (1_u64 << 53) as f32
    };
    let mut data = Vec::with_capacity(elements * 2);
    for _ in 0..elements {
        let weight = 0.08 * (uniform() + uniform() + uniform() - 1.5);
        let step = 2e-4 * (uniform() - 0.5) * steps as f32;
        let bits = (weight + step).to_bits();
        data.extend_from_slice(&((bits + 0x7fff + (bits >> 16 & 1)) >> 16).to_le_bytes()[..2]);
    }
    let header =
        serde_json::json!({ "weight": { "dtype": "BF16", "shape": [elements], "data_offsets": [0, data.len()] } });
    let header = header.to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn describe(rows: &[Row]) -> String {
    let mut table = Table::new(&["STEP", ">PAYLOAD", ">SENT", ">RECEIVED", ">LOOKUPS", ">REPLICAS", ">SECONDS"]);
    let shown = |bytes: u64| if bytes == 0 { "-".to_owned() } else { size(bytes) };
    for row in rows {
        table.row([
            row.step.to_owned(),
            shown(row.payload_bytes),
            shown(row.sent_bytes),
            shown(row.received_bytes),
            if row.lookups == 0 { "-".to_owned() } else { row.lookups.to_string() },
            row.replicas.map_or_else(|| "-".to_owned(), |replicas| replicas.to_string()),
            format!("{:.2}", row.seconds),
        ]);
    }
    let get = |step: &str| rows.iter().find(|row| row.step.starts_with(step));
    let saved = match (get("get it elsewhere"), get("get it where")) {
        (Some(first), Some(second)) if first.received_bytes > 0 => {
            let share = second.received_bytes as f64 * 100.0 / first.received_bytes as f64;
            format!(
                "\nVersion 2 travelled as differences: {share:.1} % of what version 1 took. All that was restored was the same.\n"
            )
        }
        _ => String::new(),
    };
    table.render("") + &saved
}
