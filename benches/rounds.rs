//! Rounds of gradients: four worker processes, each a node, exchange 3 MB each, from the first publish until each has collected all; beside
//! them the same processes send each other the same bytes over open TCP connections, with nothing encrypted, verified or stored; and at last
//! the same again where every worker hashes what it has and gets and writes it to files that it syncs.
//!
//! ```text
//! cargo bench --bench rounds
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a bench may panic")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use caskad::gradient::{collect, publish};
use caskad::net::config::NetConfig;
use caskad::{Hash, Monitor, Node, NodeOptions, Payload, ScopeKey, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const WORKERS: usize = 4;
const ROUNDS: usize = 40;
const NUMBERS: usize = 750_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [role, directory, join @ ..] if role == "worker" => Worker::start(Path::new(directory), join).serve(),
        _ => time_rounds(),
    }
}

/// Starts the workers, has them do rounds of either kind in turn, and prints what they took.
fn time_rounds() {
    let directory = tempfile::tempdir().unwrap();
    let mut processes: Vec<Process> = Vec::new();
    for index in 0..WORKERS {
        let join = processes.first().map(|first| first.ready[0].clone());
        processes.push(Process::start(&directory.path().join(format!("worker-{index}")), join));
    }
    let told: Vec<String> = processes.iter().map(|process| process.ready[1..].join(" ")).collect();
    for (index, process) in processes.iter_mut().enumerate() {
        let others: Vec<&str> =
            (0..WORKERS).filter(|other| *other != index).map(|other| told[other].as_str()).collect();
        process.say(&format!("meet {}", others.join(" ")));
        process.hear();
    }
    let (mut rounds, mut wires, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        all(&mut processes, "make");
        let wire = all(&mut processes, "wire");
        let cpu: f64 = processes.iter().map(Process::cpu_seconds).sum();
        let (seconds, parts) = all(&mut processes, &format!("round {round}"));
        let cpu = processes.iter().map(Process::cpu_seconds).sum::<f64>() - cpu;
        // The first round makes connections.
        if round > 0 {
            wires.push(wire.0);
            rounds.push((seconds, cpu, parts));
        }
    }
    // After all others: what is written here would still be on its way to the disk during their turns.
    for _ in 0..ROUNDS {
        all(&mut processes, "make");
        files.push(all(&mut processes, "files").0);
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    wires.sort_by(f64::total_cmp);
    files.sort_by(f64::total_cmp);
    let (p50, wire, file) = (&rounds[ROUNDS / 2], wires[ROUNDS / 2], files[ROUNDS / 2]);
    let cpu = rounds.iter().map(|round| round.1).sum::<f64>() / ROUNDS as f64;
    println!(
        "a round of {WORKERS} workers, 3 MB each: p50 {:.1} ms, p99 {:.1} ms (the slowest of {ROUNDS}), {:.0} ms of CPU; over raw TCP p50 {:.1} ms, ratio {:.1}; raw, hashed and synced p50 {:.1} ms, ratio {:.1}",
        p50.0 * 1e3,
        rounds[ROUNDS * 99 / 100].0 * 1e3,
        cpu * 1e3,
        wire * 1e3,
        p50.0 / wire,
        file * 1e3,
        p50.0 / file,
    );
    println!("published and collected after, in the median round, by worker: {}", p50.2);
    for process in &mut processes {
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }
}

/// Tells every process `command`; the seconds until all have done it, and what they say.
fn all(processes: &mut [Process], command: &str) -> (f64, String) {
    let started = Instant::now();
    processes.iter_mut().for_each(|process| process.say(command));
    let said: Vec<String> = processes.iter_mut().map(Process::hear).collect();
    (started.elapsed().as_secs_f64(), said.join(", "))
}

/// A worker, seen from outside.
struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Its address as a node, its scope, and its port for raw bytes.
    ready: Vec<String>,
}

impl Process {
    fn start(directory: &Path, join: Option<String>) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("worker").arg(directory).args(join).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Process { child, stdin, stdout, ready: Vec::new() };
        process.ready = process.hear().split(' ').map(str::to_owned).collect();
        process
    }

    fn say(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        assert!(self.stdout.read_line(&mut line).unwrap() > 0, "a worker has ended");
        line.trim_end().to_owned()
    }

    /// Seconds of processor time so far, of a Linux process.
    fn cpu_seconds(&self) -> f64 {
        let mut nanos = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten() {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanos += stat.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
        nanos as f64 / 1e9
    }
}

/// A worker: a node, and connections for raw bytes.
struct Worker {
    /// For files of its own.
    directory: tempfile::TempDir,
    node: Node,
    runtime: Runtime,
    listener: TcpListener,
    peers: Vec<TcpStream>,
    workers: Vec<ScopeKey>,
    gradient: Vec<u8>,
    state: u64,
}

impl Worker {
    fn start(directory: &Path, join: &[String]) -> Worker {
        let mut config = NetConfig::default();
        config.mdns = false;
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.join = join.iter().map(|address| address.parse().unwrap()).collect();
        let node = Node::start(Store::open(directory).unwrap(), NodeOptions::new(config)).unwrap();
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let state = u64::from(std::process::id());
        let files = tempfile::tempdir_in(directory).unwrap();
        let (peers, workers, gradient) = (Vec::new(), Vec::new(), Vec::new());
        Worker { directory: files, node, runtime, listener, peers, workers, gradient, state }
    }

    /// Does what the lines of its input say, one after another.
    fn serve(mut self) {
        let address = self.node.health().unwrap().listen.remove(0);
        println!("{address} {} {}", self.node.scope(), self.listener.local_addr().unwrap().port());
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["meet", others @ ..] => self.meet(others),
                ["make"] => self.make(),
                ["wire"] => drop(self.wire(false)),
                ["files"] => self.files(),
                ["round", round] => {
                    println!("{}", self.round(round.parse().unwrap()));
                    continue;
                }
                _ => panic!("no such command: {line}"),
            }
            println!("done");
        }
    }

    /// Connects to the `others`, of each its scope and its port, and waits until the node knows as many peers.
    fn meet(&mut self, others: &[&str]) {
        self.workers = others.chunks(2).map(|other| other[0].parse().unwrap()).collect();
        self.workers.push(self.node.scope());
        for other in others.chunks(2) {
            let port: u16 = other[1].parse().unwrap();
            self.peers.push(self.runtime.block_on(TcpStream::connect(("127.0.0.1", port))).unwrap());
        }
        let until = Instant::now() + Duration::from_secs(30);
        while self.node.peers().unwrap().len() < WORKERS - 1 {
            assert!(Instant::now() < until, "the nodes do not find each other");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The next gradient: nearly normal, as gradients are, so that its exponents vary and its fractions are noise.
    fn make(&mut self) {
        let header =
            format!("{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{NUMBERS}],\"data_offsets\":[0,{}]}}}}", NUMBERS * 4);
        self.gradient = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        for _ in 0..NUMBERS {
            let sum: f64 = (0..4).map(|_| self.uniform()).sum();
            self.gradient.extend((1e-3 * (sum - 2.0) as f32).to_le_bytes());
        }
    }

    /// A random number from 0 to 1.
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 32) as f64 / f64::from(u32::MAX)
    }

    /// Sends the gradient to every other worker, and reads one from each, which are the answer where they are to be kept.
    fn wire(&mut self, keep: bool) -> Vec<Vec<u8>> {
        let gradient = &self.gradient;
        if self.peers.len() < 2 * (WORKERS - 1) {
            for _ in 1..WORKERS {
                self.peers.push(self.runtime.block_on(self.listener.accept()).unwrap().0);
            }
        }
        let (sending, reading) = self.peers.split_at_mut(WORKERS - 1);
        self.runtime.block_on(async {
            let sends = sending.iter_mut().map(async |peer| peer.write_all(gradient).await.unwrap());
            let reads = reading.iter_mut().map(async |peer| {
                let mut bytes = vec![0; gradient.len()];
                peer.read_exact(&mut bytes).await.unwrap();
                if keep { bytes } else { Vec::new() }
            });
            futures::future::join(futures::future::join_all(sends), futures::future::join_all(reads)).await.1
        })
    }

    /// As [`wire`](Worker::wire), and hashes all four and keeps them in synced files.
    fn files(&mut self) {
        let directory = self.directory.path().to_owned();
        let keep = |index: usize, bytes: &[u8]| {
            std::hint::black_box(Hash::of(bytes));
            let mut file = std::fs::File::create(directory.join(index.to_string())).unwrap();
            file.write_all(bytes).unwrap();
            file.sync_data().unwrap();
        };
        keep(0, &self.gradient);
        let others = self.wire(true);
        for (index, bytes) in others.iter().enumerate() {
            keep(index + 1, bytes);
        }
    }

    /// Publishes the gradient and collects those of all; when it had done either, in milliseconds.
    fn round(&self, round: u64) -> String {
        let (started, monitor) = (Instant::now(), Monitor::none());
        let payload = Payload::bytes("gradient.safetensors", &self.gradient);
        publish(&self.node, "bench", round, payload, Duration::from_secs(600), &monitor).unwrap();
        let published = started.elapsed();
        let collection = collect(&self.node, "bench", round, &self.workers, Duration::from_secs(60), &monitor).unwrap();
        assert!(collection.missing.is_empty(), "{} contributions are missing", collection.missing.len());
        format!("{:.0}+{:.0}", published.as_secs_f64() * 1e3, (started.elapsed() - published).as_secs_f64() * 1e3)
    }
}
