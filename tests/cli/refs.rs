//! Labels, pins, removal, expiry and collection.

use crate::bench::{Bench, has_fields, noise};

#[test]
fn labels_move_and_go() {
    let bench = Bench::new();
    bench.put("m@best", b"one");
    bench.put("m", b"two");
    let tagged = bench.json(&["tag", "m@2", "best"]);
    has_fields(&tagged, &["key", "version", "labels", "pinned"]);
    assert_eq!(tagged["labels"], serde_json::json!(["best"]));
    assert_eq!(bench.get("m@best"), b"two");
    assert_eq!(bench.ok(&["tag", "m", "newest"]).text(), "m@2 labels: best, newest\n");
    assert_eq!(bench.ok(&["tag", "--delete", "m", "best"]).text(), "m@2 labels: newest\n");
    let error = bench.fails(3, "not_found", &["get", "m@bets", "-o", "-"]);
    assert_eq!(error["what"], "label");
    bench.fails(3, "not_found", &["tag", "--delete", "m", "best"]);
    bench.fails(2, "usage", &["tag", "--delete", "m@2", "newest"]);
    bench.fails(2, "syntax", &["tag", "m", "3"]);
}

#[test]
fn a_store_has_its_id_as_a_peer_before_its_node_runs() {
    let bench = Bench::new();
    let id = bench.json(&["id"]);
    let (scope, peer) = (id["scope"].as_str().unwrap(), id["peer_id"].as_str().unwrap());
    assert!(peer.starts_with("12D3KooW"), "{id}");
    assert_eq!(bench.ok(&["id"]).text(), format!("@{scope}\npeer {peer}\n"));
    assert!(bench.path("store/peer.key").exists());
    bench.fails(2, "usage", &["id", "--export", "-"]);
    assert!(!bench.path("-").exists());
}

#[test]
fn labels_of_other_scopes_are_their_publishers() {
    let bench = Bench::new();
    bench.put("m", b"one");
    let own = format!("@{}/m", bench.json(&["id"])["scope"].as_str().unwrap());
    assert_eq!(bench.ok(&["tag", &own, "best"]).text(), "m@1 labels: best\n");
    bench.ok(&["tag", "--delete", &own, "best"]);
    bench.ok(&["alias", "alice", &"5a".repeat(32)]);
    for args in [&["tag", "@alice/m@1", "best"][..], &["tag", "--delete", "@alice/m", "best"]] {
        let error = bench.fails(2, "syntax", args);
        assert!(error["message"].as_str().unwrap().contains("whoever has its scope's key"), "{args:?}: {error}");
    }
}

#[test]
fn a_pinned_version_cannot_be_removed() {
    let bench = Bench::new();
    bench.put("m", b"one");
    bench.put("m", b"two");
    assert_eq!(bench.json(&["pin", "m@1"])["pinned"], true);
    let error = bench.fails(2, "pinned", &["rm", "m@1"]);
    assert!(error["message"].as_str().unwrap().contains("unpin") && error["name"] == "m@1", "{error}");
    assert_eq!(bench.ok(&["unpin", "m@1"]).text(), "m@1 is not pinned\n");
    let removed = bench.json(&["rm", "m@1"]);
    has_fields(&removed, &["key", "version", "labels", "pinned"]);
    let error = bench.fails(3, "not_found", &["get", "m@1"]);
    assert_eq!(error["nearest"], serde_json::json!(["2"]));
    assert!(bench.ok(&["rm", "m"]).text().starts_with("removed m@2; "));
    bench.fails(3, "not_found", &["log", "m"]);
    assert_eq!(bench.ok(&["ls"]).text(), "no keys\n");
}

#[test]
fn gc_gives_back_what_was_removed_and_only_that() {
    let bench = Bench::new();
    bench.put("m", &noise(1, 2 << 20));
    bench.put("m", &noise(2, 2 << 20));
    assert_eq!(bench.json(&["gc"])["removed_chunks"], 0);
    bench.ok(&["rm", "m@1"]);
    let dry = bench.json(&["gc", "--dry-run"]);
    has_fields(&dry, &["dry_run", "expired_versions", "removed_chunks", "reclaimed_bytes", "kept_bytes", "seconds"]);
    assert!(dry["dry_run"] == true && dry["reclaimed_bytes"].as_u64().unwrap() > 2_000_000, "{dry}");
    let text = bench.ok(&["gc"]);
    assert!(text.text().contains("2.0 MiB reclaimed"), "{text:?}");
    assert_eq!(bench.json(&["gc"])["reclaimed_bytes"], 0);
    assert_eq!(bench.get("m"), noise(2, 2 << 20));
    bench.ok(&["verify", "--all"]);
}

#[test]
fn expired_versions_go_unless_they_are_pinned() {
    let bench = Bench::new();
    bench.write("w.bin", b"weights");
    bench.ok(&["put", "w.bin", "--as", "m", "--ttl", "1ms"]);
    bench.ok(&["put", "w.bin", "--as", "m", "--ttl", "1ms"]);
    bench.ok(&["put", "w.bin", "--as", "m", "--ttl", "1h"]);
    bench.ok(&["pin", "m@2"]);
    assert_eq!(bench.json(&["gc", "--expired", "--dry-run"])["expired_versions"], 1);
    assert_eq!(bench.json(&["gc", "--expired"])["expired_versions"], 1);
    let log = bench.json(&["log", "m"]);
    assert_eq!((log[0]["version"].as_u64(), log[1]["version"].as_u64()), (Some(2), Some(3)));
    assert!(log[1]["expires"].is_string() && log[0]["pinned"] == true, "{log}");
    bench.fails(2, "usage", &["put", "w.bin", "--as", "m", "--ttl", "soon"]);
}
