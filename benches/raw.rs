//! What there is to be had from TCP: megabytes a second over one tokio connection between two processes on loopback, in buffers of a MiB,
//! with nothing encrypted, verified or stored. `benches/network.py --raw` compares a fetch with it.
//!
//! ```text
//! cargo bench --bench raw -- MIB
//! ```
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench may panic")]

use std::process::Command;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const BUFFER_BYTES: usize = 1 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [role, address, bytes] if role == "send" => run(send(address.clone(), bytes.parse().unwrap())),
        [mib] => run(receive(mib.parse::<usize>().unwrap() << 20)),
        _ => run(receive(512 << 20)),
    }
}

/// On a thread of the runtime, as tasks of a server are.
fn run(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(runtime.spawn(work)).unwrap();
}

async fn send(address: String, bytes: usize) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let block = vec![0; BUFFER_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(block.len());
        stream.write_all(&block[..now]).await.unwrap();
        left -= now;
    }
}

/// Has another process send `bytes`, and prints how fast they came.
async fn receive(bytes: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut sender = Command::new(std::env::current_exe().unwrap());
    let mut sender = sender.args(["send", &address, &bytes.to_string()]).spawn().unwrap();
    let mut stream = listener.accept().await.unwrap().0;
    let mut buffer = vec![0; BUFFER_BYTES];
    let (started, mut left) = (Instant::now(), bytes);
    while left > 0 {
        left -= stream.read(&mut buffer).await.unwrap();
    }
    println!("{:.0}", bytes as f64 / 1e6 / started.elapsed().as_secs_f64());
    sender.wait().unwrap();
}
