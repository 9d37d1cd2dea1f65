//! [`Proxy`]: a stretch of wire between `caskad` and a server, which can be cut and held up.

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
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    wire: Arc<Wire>,
}

impl Proxy {
    pub(crate) fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Arc::new(Wire::default());
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

fn carry(mut from: TcpStream, mut to: TcpStream, wire: &Wire, counts: bool) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
    let mut buffer = vec![0; 64 << 10];
    while !wire.cut.load(Ordering::Relaxed) {
        while wire.held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
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
