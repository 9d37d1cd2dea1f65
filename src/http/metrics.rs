//! `/metrics`: what the node and its store have done, as Prometheus text (<https://prometheus.io/docs/practices/naming/>), or as
//! OpenMetrics for whoever accepts that.
//!
//! Requests are counted as they are answered. Everything else is kept where it happens, and read when it is asked for.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::error::Result;
use crate::http::answer::Refusal;
use crate::http::server::App;
use crate::node::{Health, StatReport};

/// Upper bounds of the latencies, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];

pub(super) fn routes() -> Router<App> {
    Router::new().route("/metrics", get(show))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Routed {
    route: &'static str,
    method: &'static str,
}

/// The requests that were answered.
#[derive(Debug)]
pub(super) struct Requests {
    answered: Family<Answered, Counter>,
    seconds: Family<Routed, Histogram>,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests { answered: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)) }
    }
}

/// Counts a request, and times it until its answer begins; an upload, until its version is durable.
pub(super) async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let (route, method) = (route(request.uri().path()), method(request.method().as_str()));
    let started = Instant::now();
    let response = next.run(request).await;
    let requests = app.requests();
    requests.seconds.get_or_create(&Routed { route, method }).observe(started.elapsed().as_secs_f64());
    requests.answered.get_or_create(&Answered { route, method, status: response.status().as_u16() }).inc();
    response
}

/// The kind of path, of which there are few: a label for each key would grow without bound.
fn route(path: &str) -> &'static str {
    match path {
        "/metrics" => "metrics",
        _ if path.starts_with("/blobs/") => "blobs",
        _ if path.starts_with("/api/models/") || path.contains("/resolve/") => "hub",
        _ if path.starts_with("/api/") || path == "/openapi.json" => "api",
        _ if super::page::is_part(path) => "page",
        _ => "other",
    }
}

fn method(method: &str) -> &'static str {
    ["GET", "HEAD", "PUT", "DELETE"].into_iter().find(|known| *known == method).unwrap_or("other")
}

const OPEN_METRICS: &str = "application/openmetrics-text";

async fn show(State(app): State<App>, headers: HeaderMap) -> Result<Response, Refusal> {
    let (stat, health) = app.ask(|app| Ok((app.stat()?, app.health()?))).await?;
    let mut text = String::new();
    let requests = app.requests();
    let mut registry = Registry::with_prefix("caskad");
    registry.register("http_requests", "Requests answered", requests.answered.clone());
    registry.register_with_unit(
        "http_request_duration",
        "Time until an answer began",
        Unit::Seconds,
        requests.seconds.clone(),
    );
    register_store(&mut registry, &stat);
    register_node(&mut registry, &health);
    encode(&mut text, &registry).map_err(|_| {
        Refusal::new(hyper::StatusCode::INTERNAL_SERVER_ERROR, "internal", "the metrics cannot be written")
    })?;
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    Ok(match accepted.contains(OPEN_METRICS) {
        true => ([(CONTENT_TYPE, format!("{OPEN_METRICS}; version=1.0.0; charset=utf-8"))], text).into_response(),
        false => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], plain_text(&text)).into_response(),
    })
}

/// OpenMetrics as the text format that came before it, in which a counter is described under the name of its sample, and which knows
/// neither units nor an end.
fn plain_text(open_metrics: &str) -> String {
    let types = open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let counters: HashSet<&str> = types.filter(|(_, kind)| *kind == "counter").map(|(name, _)| name).collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        match described.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) if counters.contains(name) => {
                text.extend([&line[.."# TYPE ".len()], name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Coded {
    codec: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Saved {
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Moved {
    direction: &'static str,
    asked_by: &'static str,
}

fn register_store(registry: &mut Registry, stat: &StatReport) {
    let mut level = |name: &str, help: &str, unit: Option<Unit>, value: u64| gauge(registry, name, help, unit, value);
    level("keys", "Keys with at least one version", None, stat.keys);
    level("versions", "Versions of all keys", None, stat.versions);
    level("chunks", "Different chunks in the store", None, stat.chunks);
    level("packs", "Packs of the store", None, stat.packs);
    level("logical", "Payload of all versions together", Some(Unit::Bytes), stat.logical_bytes);
    level("stored", "Packs and index on disk", Some(Unit::Bytes), stat.stored_bytes);
    level("index", "The index on disk", Some(Unit::Bytes), stat.index_bytes);
    level("cache", "Plain bytes of hot chunks in memory", Some(Unit::Bytes), stat.cache.bytes);
    level("cache_capacity", "The most of those", Some(Unit::Bytes), stat.cache.capacity_bytes);
    tally(registry, "cache_hits", "Chunks that were found in the cache", stat.cache.hits);
    tally(registry, "cache_misses", "Chunks that were not", stat.cache.misses);
    let (chunks, plain, stored) =
        (Family::<Coded, Gauge>::default(), Family::<Coded, Gauge>::default(), Family::<Coded, Gauge>::default());
    for (codec, used) in &stat.codecs {
        let label = Coded { codec: codec.name() };
        chunks.get_or_create(&label).set(signed(used.chunks));
        plain.get_or_create(&label).set(signed(used.raw_bytes));
        stored.get_or_create(&label).set(signed(used.stored_bytes));
    }
    registry.register("codec_chunks", "Chunks by encoding", chunks);
    registry.register_with_unit("codec_plain", "Plain bytes of the chunks of an encoding", Unit::Bytes, plain);
    registry.register_with_unit("codec_stored", "Their bytes in the packs", Unit::Bytes, stored);
    let saved = Family::<Saved, Gauge>::default();
    for (by, bytes) in savings(stat) {
        saved.get_or_create(&Saved { by }).set(bytes);
    }
    registry.register_with_unit(
        "saved",
        "Payload that takes no room: repeated chunks, differences, other encodings",
        Unit::Bytes,
        saved,
    );
}

/// What takes no room, by why. Chunks kept for others make the first smaller, and below 0 where this node has little of its own.
fn savings(stat: &StatReport) -> [(&'static str, i64); 3] {
    let plain: u64 = stat.codecs.values().map(|used| used.raw_bytes).sum();
    let saved = |with_base: bool| -> i64 {
        let of = stat.codecs.iter().filter(|(codec, _)| codec.has_base() == with_base);
        of.map(|(_, used)| signed(used.raw_bytes) - signed(used.stored_bytes)).sum()
    };
    [("deduplication", signed(stat.logical_bytes) - signed(plain)), ("deltas", saved(true)), ("encoding", saved(false))]
}

fn register_node(registry: &mut Registry, health: &Health) {
    gauge(registry, "connected_peers", "Peers with a connection", None, health.connected_peers as u64);
    gauge(registry, "relayed_peers", "Peers connected only through a relay", None, health.relayed_peers as u64);
    gauge(registry, "known_peers", "Peers in the routing table", None, health.known_peers as u64);
    gauge(registry, "leases", "Leases of others on chunks kept here", None, health.leases as u64);
    gauge(registry, "unpublished_keys", "Keys that are yet to be published", None, health.unpublished);
    gauge(
        registry,
        "under_replicated_chunks",
        "Chunks that the last comparison found on too few peers, 0 before the first",
        None,
        health.under_replicated.unwrap_or(0),
    );
    tally(registry, "passed_on_connections", "Connections between others, passed on as a relay", health.passed_on);
    tally(registry, "lookups", "Lookups in the routing tables of others", health.lookups);
    tally(registry, "refused_records", "Records that were refused", health.refused_records);
    tally(registry, "refused_requests", "Requests of peers that were refused", health.refused_requests);
    tally(registry, "refused_connections", "Connections of peers that were not let in", health.refused_connections);
    tally(registry, "wrong_chunks", "Chunks from peers that did not match their hash", health.wrong_chunks);
    tally(registry, "broken_streams", "Streams of peers that ended in an error", health.broken_streams);
    let moved = Family::<Moved, Counter<u64, AtomicU64>>::default();
    for (direction, asked_by, bytes) in [
        ("sent", "peer", health.served_bytes),
        ("sent", "node", health.sent_bytes.saturating_sub(health.served_bytes)),
        ("received", "node", health.fetched_bytes),
        ("received", "peer", health.received_bytes.saturating_sub(health.fetched_bytes)),
    ] {
        moved.get_or_create(&Moved { direction, asked_by }).inc_by(bytes);
    }
    registry.register_with_unit("peer_transfer", "Bytes to and from peers, by who asked for them", Unit::Bytes, moved);
    let uptime = Gauge::<f64, AtomicU64>::default();
    uptime.set(health.uptime_seconds);
    registry.register_with_unit("uptime", "How long the node runs", Unit::Seconds, uptime);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(signed(value));
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, gauge),
        None => registry.register(name, help, gauge),
    }
}

fn tally(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64, AtomicU64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_under_the_names_of_their_samples() {
        let mut registry = Registry::default();
        tally(&mut registry, "hits", "Found", 3);
        gauge(&mut registry, "room", "Left", Some(Unit::Bytes), 7);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert_eq!(
            plain_text(&text),
            "# HELP hits_total Found.\n# TYPE hits_total counter\nhits_total 3\n\
             # HELP room_bytes Left.\n# TYPE room_bytes gauge\nroom_bytes 7\n"
        );
    }
}
