//! Who may ask, and how much of it.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use caskad::http::{HttpOptions, HttpServer};

use crate::client::Window;

#[test]
fn with_a_token_nothing_but_the_page_is_seen_without_it() {
    let window = Window::with_token();
    window.put("a", "w.bin", b"secret");
    for path in
        ["/blobs/a", "/api/v1/health", "/api/v1/keys", "/metrics", "/openapi.json", "/a/resolve/main/w.bin", "/nothing"]
    {
        let refused = window.get(path);
        assert_eq!((refused.status, refused.error().as_str()), (401, "unauthorized"), "{path}");
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
    }
    for wrong in [
        "Bearer wrong-horse-battery",
        "Bearer correct-horse-batterY",
        "Bearer",
        "Basic Y29ycmVjdA==",
        "correct-horse-battery",
        "Bearer ",
    ] {
        assert_eq!(window.get_with("/blobs/a", "Authorization", wrong).status, 401, "{wrong}");
    }
    assert_eq!(window.ask("PUT", "/blobs/b", &[("Authorization", "Bearer nope-nope-nope-nope")], b"x").status, 401);
    let allowed = window.get_with("/blobs/a", "Authorization", "bearer correct-horse-battery");
    assert_eq!((allowed.status, allowed.body.as_slice()), (200, b"secret".as_slice()));
    for page in ["/", "/page/dashboard.css", "/page/dashboard.js", "/page/treemap.js"] {
        let answer = window.get(page);
        assert_eq!(answer.status, 200, "{page}");
        assert!(answer.header("content-security-policy").contains("default-src 'self'"), "{page}");
    }
}

#[test]
fn an_address_that_others_reach_needs_a_token() {
    let window = Window::open();
    let anywhere = HttpOptions::new(SocketAddr::from(([0, 0, 0, 0], 0)));
    let refused = HttpServer::start(window.node.clone(), anywhere).unwrap_err().to_string();
    assert!(refused.contains("token"), "{refused}");
    let taken = HttpServer::start(window.node.clone(), HttpOptions::new(window.address())).unwrap_err().to_string();
    assert!(taken.contains(&window.address().to_string()), "{taken}");
}

#[test]
fn a_page_elsewhere_cannot_reach_through_the_users_browser() {
    let window = Window::open();
    for host in ["evil.example", "evil.example:80", "10.1.2.3"] {
        let refused = window.get_with("/api/v1/keys", "Host", host);
        assert_eq!((refused.status, refused.error().as_str()), (403, "forbidden"), "{host}");
    }
    let unreadable = window.raw(b"GET /api/v1/keys HTTP/1.1\r\nConnection: close\r\nHost: \xff.example\r\n\r\n");
    assert_eq!((unreadable.status, unreadable.error().as_str()), (403, "forbidden"));
    assert_eq!(window.get_with("/api/v1/keys", "Host", "127.0.0.1:1234").status, 200);
    assert_eq!(window.get("/api/v1/keys").header("access-control-allow-origin"), "");
}

#[test]
fn heads_are_bounded() {
    let window = Window::open();
    let long = "x".repeat(200_000);
    assert_eq!(window.get_with("/api/v1/health", "X-Long", &long).status, 431);
    let many: Vec<(String, &str)> = (0..150).map(|n| (format!("X-{n}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(window.ask("GET", "/api/v1/health", &many, b"").status, 431);
    assert_eq!(window.raw(b"garbage\r\n\r\n").status, 400);
    assert_eq!(window.raw(b"GET / HTTP/1.1\r\nContent-Length: -1\r\nHost: localhost\r\n\r\n").status, 400);
    assert_eq!(window.get("/api/v1/health").status, 200);
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let window = Window::open();
    window.put("a", "w.bin", b"bytes");
    let mut stream = window.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /blobs/a HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"bytes") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
    }
}

#[test]
fn a_connection_that_never_finishes_a_head_is_closed() {
    let window = Window::open_with(|options| options.stall(Duration::from_secs(2)));
    for begun in [b"".as_slice(), b"GET / HTT", b"GET / HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut stream = window.connect();
        stream.write_all(begun).unwrap();
        // The wait ends with the connection; the client's own bound would be an error.
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert_eq!(window.get("/api/v1/health").status, 200);
}
