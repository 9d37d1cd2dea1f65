//! `/api/v1`, `/metrics` and the description of it all.

use crate::client::{Window, noise};

#[test]
fn the_interface_tells_what_the_commands_do() {
    let window = Window::open();
    window.put("runs/a@first", "w.bin", &noise(200_000));
    window.put("runs/a", "w.bin", &noise(250_000));
    window.put("other", "x", b"inline");
    let keys = window.get("/api/v1/keys?prefix=runs/").json();
    assert_eq!(
        (keys.as_array().unwrap().len(), &keys[0]["key"], &keys[0]["versions"]),
        (1, &"runs/a".into(), &2.into())
    );
    let versions = window.get("/api/v1/versions/runs/a").json();
    assert_eq!((&versions[0]["labels"][0], &versions[1]["bytes"]), (&"first".into(), &250_000.into()));
    let show = window.get("/api/v1/show/runs/a@first").json();
    assert_eq!((&show["version"], &show["files"][0]["path"]), (&1.into(), &"w.bin".into()));
    let diff = window.get("/api/v1/diff?from=runs/a@1&to=runs/a@2").json();
    assert_eq!((&diff["a"], &diff["bytes_b"]), (&"runs/a@1".into(), &250_000.into()));
    let stat = window.get("/api/v1/stat").json();
    assert_eq!((&stat["keys"], &stat["versions"]), (&2.into(), &3.into()));
    let health = window.get("/api/v1/health").json();
    assert_eq!(health["peer_id"], window.node.peer_id().to_string());
    assert!((0.0..1.0).contains(&health["place"].as_f64().unwrap()));
    assert_eq!(window.get("/api/v1/peers").json(), serde_json::json!([]));
    let manifest = window.get("/api/v1/manifest/runs/a@2");
    assert_eq!(manifest.header("etag"), format!("\"{}\"", caskad::Hash::of(&manifest.body)));
    assert_eq!(manifest.header("content-type"), "application/cbor");
}

#[test]
fn what_is_wrong_is_said_as_json() {
    let window = Window::open();
    window.put("a", "x", b"bytes");
    for (path, status, kind) in [
        ("/api/v1/versions/none", 404, "not_found"),
        ("/api/v1/show/a@7", 404, "not_found"),
        ("/api/v1/show/a@b3-zz", 400, "syntax"),
        ("/api/v1/diff?from=a@1&to=b@1", 404, "not_found"),
        ("/api/v1/nothing", 404, "not_found"),
    ] {
        let answer = window.get(path);
        assert_eq!((answer.status, answer.error().as_str()), (status, kind), "{path}");
    }
    assert_eq!(window.get("/api/v1/diff?from=a@1").status, 400);
    assert_eq!(window.get("/api/v1/keys?prefiks=x").status, 400);
}

#[test]
fn metrics_follow_what_happens() {
    let window = Window::open();
    let value = |name: &str| -> f64 {
        let text = String::from_utf8(window.get("/metrics").body).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    window.put("a", "w.bin", &noise(300_000));
    window.put("b", "w.bin", &noise(300_000));
    assert_eq!((value("caskad_versions"), value("caskad_logical_bytes")), (2.0, 600_000.0));
    // But for a few hundred bytes that tell others what is published.
    assert!((298_000.0..=300_000.0).contains(&value("caskad_saved_bytes{by=\"deduplication\"}")));
    assert!(value("caskad_stored_bytes") > 300_000.0);
    window.get("/blobs/a");
    assert_eq!(value("caskad_http_requests_total{route=\"blobs\",method=\"GET\",status=\"200\"}"), 1.0);
    assert_eq!(value("caskad_http_request_duration_seconds_count{route=\"blobs\",method=\"GET\"}"), 1.0);
    // OpenMetrics is for whoever accepts it.
    let plain = window.get("/metrics");
    assert!(plain.header("content-type").starts_with("text/plain"));
    assert!(String::from_utf8(plain.body).unwrap().contains("# TYPE caskad_lookups_total counter\n"));
    let open =
        window.ask("GET", "/metrics", &[("Accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1")], b"");
    assert!(open.header("content-type").starts_with("application/openmetrics-text"));
    assert!(String::from_utf8(open.body).unwrap().ends_with("# EOF\n"));
}

#[test]
fn every_path_is_described_and_every_described_path_is_there() {
    let window = Window::open();
    window.put("a", "x", b"bytes");
    let description = window.get("/openapi.json").json();
    let known = [
        ("{name}", "a"),
        ("{key}", "a"),
        ("{repository}", "a"),
        ("{revision}", "main"),
        ("{path}", "x"),
        ("{file}", "dashboard.js"),
    ];
    for (path, operations) in description["paths"].as_object().unwrap() {
        let at = known.iter().fold(path.clone(), |path, (name, value)| path.replace(name, value));
        let query = if path.ends_with("diff") { "?from=a&to=a" } else { "" };
        for method in operations.as_object().unwrap().keys().filter(|method| ["get", "head"].contains(&method.as_str()))
        {
            let answer = window.ask(&method.to_uppercase(), &format!("{at}{query}"), &[], b"");
            assert_eq!(answer.status, 200, "{method} {at}");
            let described = operations[method]["responses"]["200"]["content"].as_object().unwrap();
            let media_type = answer.header("content-type").split(';').next().unwrap();
            assert!(described.contains_key(media_type), "{method} {at} answers with {media_type}");
        }
    }
}

#[test]
fn the_grafana_dashboard_asks_for_metrics_that_there_are() {
    let window = Window::open();
    window.put("a", "w.bin", &noise(100_000));
    window.get("/blobs/a");
    let metrics = String::from_utf8(window.get("/metrics").body).unwrap();
    let dashboard = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grafana.json")).unwrap();
    let names: Vec<&str> = dashboard
        .match_indices("caskad_")
        .map(|(at, _)| dashboard[at..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap())
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "no {name} in\n{metrics}");
    }
}
