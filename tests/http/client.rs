//! A node with its window open, and a client that can misbehave: plain sockets, so nothing is mended on the way.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caskad::http::{HttpOptions, HttpServer, Token};
use caskad::net::config::NetConfig;
use caskad::net::transport;
use caskad::{Monitor, Node, NodeOptions, Payload, PutOptions, Store};

static NEXT_PORT: AtomicU64 = AtomicU64::new(70_000);

pub(crate) struct Window {
    pub(crate) node: Node,
    server: HttpServer,
    dir: tempfile::TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The kind of the error that was answered.
    pub(crate) fn error(&self) -> String {
        self.json()["error"]["kind"].as_str().unwrap().to_owned()
    }
}

impl Window {
    pub(crate) fn open() -> Window {
        Window::open_with(|options| options)
    }

    /// A node that needs no peers, and its window.
    pub(crate) fn open_with(adjust: impl FnOnce(HttpOptions) -> HttpOptions) -> Window {
        Window::open_among(1, adjust)
    }

    /// A node that is alone and wants each chunk on `replication` peers, and its window.
    pub(crate) fn open_among(replication: usize, adjust: impl FnOnce(HttpOptions) -> HttpOptions) -> Window {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NetConfig::default();
        config.mdns = false;
        config.replication_factor = replication;
        config.listen = vec![format!("/memory/{}", NEXT_PORT.fetch_add(1, Ordering::Relaxed)).parse().unwrap()];
        let store = Store::open(dir.path().join("store")).unwrap();
        let node = Node::start(store, NodeOptions::new(config).transport(transport::memory)).unwrap();
        let options = adjust(HttpOptions::new(SocketAddr::from(([127, 0, 0, 1], 0))));
        let server = HttpServer::start(node.clone(), options).unwrap();
        Window { node, server, dir }
    }

    pub(crate) fn with_token() -> Window {
        Window::open_with(|options| options.token(Some(Token::new("correct-horse-battery").unwrap())))
    }

    /// Stores `bytes` as the next version of a key.
    pub(crate) fn put(&self, name: &str, file: &str, bytes: &[u8]) {
        let (name, options) = (name.parse().unwrap(), PutOptions::default());
        self.node.put(&name, Payload::bytes(file, bytes), &options, &Monitor::none()).unwrap();
    }

    /// Stores a directory of `files`.
    pub(crate) fn put_files(&self, name: &str, files: &[(&str, &[u8])]) {
        let root = self.dir.path().join("files").join(name.replace(['/', '@'], "-"));
        for (path, bytes) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let (name, options) = (name.parse().unwrap(), PutOptions::default());
        self.node.put(&name, Payload::path(root), &options, &Monitor::none()).unwrap();
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Sends a request as it is and reads all that comes back.
    pub(crate) fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A server that has seen enough may close while it is still being written to.
        let _ = stream.write_all(request);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        parse(&bytes)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str("Host: localhost\r\n");
        }
        headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        let mut request = (request + "\r\n").into_bytes();
        request.extend_from_slice(body);
        self.raw(&request)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn get_with(&self, path: &str, name: &str, value: &str) -> Answer {
        self.ask("GET", path, &[(name, value)], b"")
    }
}

fn parse(bytes: &[u8]) -> Answer {
    let end =
        bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("no head in {bytes:?}"));
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers =
        lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Answer { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
}

/// Bytes that no two places share.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}
