//! `/blobs`: reading in whole and in part, conditions, uploads.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::client::{Window, noise};

#[test]
fn a_blob_is_read_whole_and_in_any_part() {
    let window = Window::open();
    let bytes = noise(700_000);
    window.put("runs/a", "w.bin", &bytes);
    let whole = window.get("/blobs/runs/a");
    assert_eq!((whole.status, &whole.body), (200, &bytes));
    assert_eq!(whole.header("content-length"), "700000");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("etag"), format!("\"{}\"", caskad::Hash::of(&bytes)));
    for (range, expected, told) in [
        ("bytes=0-0", 0..1, "bytes 0-0/700000"),
        ("bytes=123456-523456", 123_456..523_457, "bytes 123456-523456/700000"),
        ("bytes=699990-", 699_990..700_000, "bytes 699990-699999/700000"),
        ("bytes=-7", 699_993..700_000, "bytes 699993-699999/700000"),
        ("bytes=5-99999999", 5..700_000, "bytes 5-699999/700000"),
    ] {
        let part = window.get_with("/blobs/runs/a@1", "Range", range);
        assert_eq!((part.status, part.header("content-range")), (206, told), "{range}");
        assert!(part.body == bytes[expected], "{range}");
    }
    for beyond in ["bytes=700000-", "bytes=-0"] {
        let refused = window.get_with("/blobs/runs/a", "Range", beyond);
        assert_eq!((refused.status, refused.header("content-range")), (416, "bytes */700000"), "{beyond}");
    }
    for ignored in ["bytes=0-1,5-6", "bytes=9-1", "furlongs=1-2", "bytes=x-y"] {
        let answer = window.get_with("/blobs/runs/a", "Range", ignored);
        assert_eq!((answer.status, answer.body.len()), (200, 700_000), "{ignored}");
    }
}

#[test]
fn head_tells_what_get_would_without_the_bytes() {
    let window = Window::open();
    window.put("a", "w.bin", &noise(100_000));
    let (get, head) = (window.get("/blobs/a"), window.ask("HEAD", "/blobs/a", &[], b""));
    assert_eq!((head.status, head.body.len()), (200, 0));
    let part = window.ask("HEAD", "/blobs/a", &[("Range", "bytes=10-19")], b"");
    assert_eq!((part.status, part.header("content-length"), part.body.len()), (206, "10", 0));
    for name in ["etag", "content-length", "last-modified", "content-type", "x-caskad-manifest"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
}

#[test]
fn conditions_spare_what_the_client_has() {
    let window = Window::open();
    window.put("a", "w.bin", b"some bytes");
    let tag = window.get("/blobs/a").header("etag").to_owned();
    let weak = format!("\"x\", W/{tag}");
    for tags in [tag.as_str(), "*", &weak] {
        let known = window.get_with("/blobs/a", "If-None-Match", tags);
        assert_eq!((known.status, known.header("etag"), known.body.len()), (304, &*tag, 0), "{tags}");
    }
    assert_eq!(window.get_with("/blobs/a", "If-None-Match", "\"other\"").status, 200);
    assert_eq!(window.get_with("/blobs/a", "If-Match", &tag).status, 200);
    assert_eq!(window.get_with("/blobs/a", "If-Match", "\"other\"").status, 412);
    assert_eq!(window.get_with("/blobs/a", "If-Match", &weak).status, 412, "a weak tag promises nothing");
    let goes_on = |tag: &str| window.ask("GET", "/blobs/a", &[("Range", "bytes=5-"), ("If-Range", tag)], b"");
    assert_eq!((goes_on(&tag).status, goes_on(&tag).body), (206, b"bytes".to_vec()));
    assert_eq!((goes_on("\"old\"").status, goes_on("\"old\"").body), (200, b"some bytes".to_vec()));
}

#[test]
fn a_file_of_several_is_named_and_nothing_leads_out_of_the_version() {
    let window = Window::open();
    window.put_files("dir", &[("a.txt", b"first"), ("sub/b c.txt", b"second")]);
    assert_eq!(window.get("/blobs/dir?file=sub/b%20c.txt").body, b"second");
    assert_eq!(window.get("/blobs/dir").status, 400);
    for (path, status) in [
        ("/blobs/dir?file=../../LOCK", 404),
        ("/blobs/dir?file=/etc/passwd", 404),
        ("/blobs/dir?file=", 404),
        ("/blobs/../../etc/passwd", 400),
        ("/blobs/%2e%2e/%2e%2e/etc/passwd", 400),
        ("/blobs/dir%00", 400),
        ("/blobs/%ff", 400),
        ("/blobs/none", 404),
        ("/blobs/dir@9", 404),
        ("/blobs/dir@", 400),
        ("/blobs/", 404),
        ("/blobs/dir?unknown=1", 400),
    ] {
        let answer = window.get(path);
        assert_eq!(answer.status, status, "{path}: {}", String::from_utf8_lossy(&answer.body));
    }
}

#[test]
fn what_is_stored_is_never_a_page_of_the_node() {
    let window = Window::open();
    let stored =
        window.ask("PUT", "/blobs/evil?name=x.html", &[("Content-Type", "text/html")], b"<script>alert(1)</script>");
    assert_eq!(stored.status, 201);
    let answer = window.get("/blobs/evil");
    assert_eq!(answer.header("content-type"), "text/html");
    assert!(answer.header("content-disposition").starts_with("attachment"));
    assert!(answer.header("content-security-policy").contains("sandbox"));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
}

#[test]
fn an_upload_is_the_next_version() {
    let window = Window::open();
    let bytes = noise(3_000_000);
    let first = window.ask("PUT", "/blobs/up/a@best?name=w.bin&ttl=7d", &[], &bytes);
    assert_eq!((first.status, first.header("location")), (201, "/blobs/up/a@1"));
    let report = first.json();
    assert_eq!(
        (report["version"].as_u64(), report["label"].as_str(), report["bytes"].as_u64()),
        (Some(1), Some("best"), Some(3_000_000))
    );
    let second = window.ask("PUT", "/blobs/up/a", &[], &bytes);
    assert_eq!((second.json()["version"].as_u64(), second.json()["new_chunks"].as_u64()), (Some(2), Some(0)));
    assert!(window.get("/blobs/up/a@best").body == bytes);
    let versions = window.get("/api/v1/versions/up/a").json();
    assert!(versions[0]["expires"].is_string() && versions[1]["expires"].is_null());
    for (path, body, status) in [
        ("/blobs/up/a?ttl=soon", b"x", 400),
        ("/blobs/up/a?ttl=0s", b"x", 400),
        ("/blobs/-bad-/k y", b"x", 400),
        ("/blobs/@theirs/a", b"x", 400),
    ] {
        let path = path.replace(' ', "%20");
        assert_eq!(window.ask("PUT", &path, &[], body).status, status, "{path}");
    }
    assert_eq!(window.ask("DELETE", "/blobs/up/a", &[], b"").status, 400, "which version is to be said");
    window.node.store().pin(&"up/a@1".parse().unwrap()).unwrap();
    let pinned = window.ask("DELETE", "/blobs/up/a@1", &[], b"");
    assert_eq!((pinned.status, pinned.error().as_str()), (409, "pinned"));
    window.node.store().unpin(&"up/a@1".parse().unwrap()).unwrap();
    assert_eq!(window.ask("DELETE", "/blobs/up/a@1", &[], b"").status, 200);
    assert_eq!(window.get("/blobs/up/a@1").status, 404);
    assert_eq!(window.ask("POST", "/blobs/up/a", &[], b"x").status, 405);
}

#[test]
fn an_upload_may_depend_on_what_is_there() {
    let window = Window::open();
    let put = |path: &str, headers: &[(&str, &str)], body: &[u8]| window.ask("PUT", path, headers, body);
    assert_eq!(put("/blobs/a@best", &[("If-Match", "*")], b"x").status, 412, "nothing is there");
    assert_eq!(put("/blobs/a@best", &[("If-None-Match", "*")], b"one").status, 201);
    let again = put("/blobs/a", &[("If-None-Match", "*")], b"x");
    assert_eq!((again.status, again.error().as_str()), (412, "exists"));
    assert_eq!(put("/blobs/a@best", &[("If-None-Match", "*")], b"x").status, 412);
    let one = window.get("/blobs/a").header("etag").to_owned();
    assert_eq!(put("/blobs/a", &[("If-Match", "\"other\""), ("If-Match", &one)], b"two").status, 201);
    for tags in [one.as_str(), "\"other\"", "", &format!("W/{}", window.get("/blobs/a").header("etag"))] {
        let changed = put("/blobs/a", &[("If-Match", tags)], b"x");
        assert_eq!((changed.status, changed.error().as_str()), (412, "changed"), "{tags}");
    }
    // The answer does not wait for the body.
    let head = "PUT /blobs/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIf-None-Match: *\r\nContent-Length: 1000\r\n\r\n";
    assert_eq!(window.raw(head.as_bytes()).status, 412);
    window.put_files("dir", &[("a", b"a"), ("b", b"b")]);
    assert_eq!(put("/blobs/dir", &[("If-None-Match", "*")], b"x").status, 412);
    assert_eq!(put("/blobs/dir", &[("If-Match", "\"\"")], b"x").status, 412);
    // What is no blob as it is to be stored.
    assert_eq!(put("/blobs/b", &[("Content-Range", "bytes 0-0/2")], b"x").status, 400);
    for coding in ["gzip", "identity, br"] {
        let coded = put("/blobs/b", &[("Content-Encoding", coding)], b"x");
        assert_eq!((coded.status, coded.header("accept-encoding")), (415, "identity"), "{coding}");
    }
    for media_type in ["", "html", "text/", "text/html\u{e4}", "text/html;\u{7f}", "text/html x"] {
        assert_eq!(put("/blobs/b", &[("Content-Type", media_type)], b"x").status, 400, "{media_type}");
    }
    assert_eq!(window.get("/blobs/b").status, 404);
    let typed = put("/blobs/t", &[("Content-Type", "text/plain; charset=\"utf-8\"")], b"x");
    assert_eq!((typed.status, window.get("/blobs/t").header("content-type")), (201, "text/plain; charset=\"utf-8\""));
    assert_eq!(put("/blobs/b", &[("Content-Encoding", "Identity")], b"x").status, 201);
    assert_eq!(window.get("/api/v1/versions/a").json().as_array().unwrap().len(), 2);
}

#[test]
fn an_upload_that_no_peer_keeps_is_accepted_all_the_same() {
    let window = Window::open_among(2, |options| options);
    let accepted = window.ask("PUT", "/blobs/alone", &[], b"bytes");
    assert_eq!((accepted.status, accepted.error().as_str()), (202, "too_few_peers"));
    assert_eq!(window.get("/blobs/alone@1").body, b"bytes");
}

#[test]
fn an_upload_is_as_long_as_the_node_allows() {
    let window = Window::open_with(|options| options.upload_bytes(100_000));
    assert_eq!(window.ask("PUT", "/blobs/a", &[], &noise(100_000)).status, 201);
    let refused = window.ask("PUT", "/blobs/a", &[], &noise(100_001));
    assert_eq!((refused.status, refused.error().as_str()), (413, "limit"));
    // Nor does one that does not say how long it is get through.
    let mut request =
        b"PUT /blobs/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_vec();
    for piece in noise(200_000).chunks(10_000) {
        request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(window.raw(&request).status, 413);
    assert_eq!(window.get("/api/v1/versions/a").json().as_array().unwrap().len(), 1);
}

#[test]
fn an_interrupted_upload_leaves_no_version() {
    let window = Window::open();
    let mut stream = window.connect();
    stream.write_all(b"PUT /blobs/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n").unwrap();
    stream.write_all(&noise(400_000)).unwrap();
    drop(stream);
    let mut chunked = window.connect();
    chunked
        .write_all(b"PUT /blobs/cut HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .unwrap();
    drop(chunked);
    // Both are refused in the background; a whole one afterwards is the first version.
    let deadline = Instant::now() + Duration::from_secs(30);
    while window.get("/metrics").body.windows(12).filter(|text| text == b"method=\"PUT\"").count() == 0 {
        assert_eq!(window.get("/api/v1/keys").json(), serde_json::json!([]));
        assert!(Instant::now() < deadline, "an upload that was cut is not seen as one");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(window.ask("PUT", "/blobs/cut", &[], b"whole").json()["version"], 1);
}

#[test]
fn a_client_that_stalls_is_let_go() {
    let window = Window::open_with(|options| options.stall(Duration::from_secs(2)));
    window.put("big", "w.bin", &noise(64 << 20));
    // One stops sending in the middle of a body, one never reads what it asked for.
    let mut sending = window.connect();
    sending.write_all(b"PUT /blobs/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc").unwrap();
    let mut reading = window.connect();
    reading.write_all(b"GET /blobs/big HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = sending.read_to_end(&mut answer);
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 408"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(window.get("/blobs/slow").status, 404);
    std::thread::sleep(Duration::from_secs(8));
    let mut got = Vec::new();
    let _ = reading.read_to_end(&mut got);
    assert!(got.len() < 64 << 20, "the rest was not sent to a client that took nothing for so long");
}
