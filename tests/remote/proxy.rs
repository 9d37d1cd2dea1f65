//! [`Proxy`]: a stretch of wire between `caskad` and a server, which can be cut and held up, and refuse requests with a certain header.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct Wire {
    /// Bytes that went to the server.
    sent: AtomicU64,
    /// Connections that are open or come end.
    cut: AtomicBool,
    /// Nothing moves.
    held: AtomicBool,
    /// The header that requests are refused for, as HTTP clients here write it.
    unknown: Option<&'static str>,
    /// Requests that were.
    refused: AtomicU64,
}

/// What an S3 server says to a header that it knows nothing of.
const NOT_IMPLEMENTED: &str =
    "<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>";

pub(crate) struct Proxy {
    pub(crate) port: u16,
    wire: Arc<Wire>,
}

impl Proxy {
    pub(crate) fn start(server: u16) -> Proxy {
        Proxy::through(server, Wire::default())
    }

    /// Refuses requests that have `header`.
    pub(crate) fn refusing(server: u16, header: &'static str) -> Proxy {
        Proxy::through(server, Wire { unknown: Some(header), ..Wire::default() })
    }

    /// Requests that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.wire.refused.load(Ordering::Relaxed)
    }

    fn through(server: u16, wire: Wire) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Arc::new(wire);
        let shared = Arc::clone(&wire);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", server))) else { continue };
                for (from, to, counts) in [(&client, &server, true), (&server, &client, false)] {
                    let (from, to, wire) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&shared));
                    std::thread::spawn(move || carry(from, to, &wire, counts));
                }
            }
        });
        Proxy { port, wire }
    }

    /// Waits until `bytes` went to the server since the start.
    pub(crate) fn wait_for(&self, bytes: u64) {
        let begun = Instant::now();
        while self.wire.sent.load(Ordering::Relaxed) < bytes {
            assert!(begun.elapsed() < Duration::from_secs(60), "{bytes} bytes never come by");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends every connection, and takes new ones all the same.
    pub(crate) fn cut(&self) {
        self.wire.cut.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
        self.wire.cut.store(false, Ordering::Relaxed);
    }

    /// Lets nothing pass for `time`.
    pub(crate) fn hold(&self, time: Duration) {
        self.wire.held.store(true, Ordering::Relaxed);
        std::thread::sleep(time);
        self.wire.held.store(false, Ordering::Relaxed);
    }
}

impl Wire {
    fn refuses(&self, request: &[u8]) -> bool {
        let head = String::from_utf8_lossy(request);
        self.unknown.is_some_and(|header| head.starts_with("PUT") && head.contains(&format!("\r\n{header}:")))
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, wire: &Wire, counts: bool) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
    let mut buffer = vec![0; 64 << 10];
    while !wire.cut.load(Ordering::Relaxed) {
        while wire.held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) if counts && wire.refuses(&buffer[..n]) => {
                wire.refused.fetch_add(1, Ordering::Relaxed);
                let len = NOT_IMPLEMENTED.len();
                let head =
                    format!("HTTP/1.1 501 Not Implemented\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
                let _ = from.write_all(format!("{head}{NOT_IMPLEMENTED}").as_bytes());
                // Unread bytes would have the answer thrown away.
                while from.read(&mut buffer).is_ok_and(|n| n > 0) {}
                break;
            }
            Ok(n) => {
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
                if counts {
                    wire.sent.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
