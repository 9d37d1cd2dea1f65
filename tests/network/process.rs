//! [`Net`]: nodes as processes, each on a store of its own. Every wait is bounded; every process dies with its test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::lan::{self, Lan};

const CASKAD: &str = env!("CARGO_BIN_EXE_caskad");

pub(crate) struct Net {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Process>,
    flags: Vec<String>,
    lan: Option<Lan>,
}

pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) scope: String,
    /// Where its window is, if it has one.
    pub(crate) http: Option<String>,
}

impl Process {
    /// Its peer id.
    pub(crate) fn id(&self) -> &str {
        self.address.rsplit_once('/').unwrap().1
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Net {
    /// `count` nodes that know each other, started with `flags`.
    pub(crate) fn start(count: usize, flags: &[&str]) -> Net {
        Net::launch_all(count, flags, None)
    }

    /// A node on each host of `lan`, started with `flags`. Nobody tells them of each other.
    pub(crate) fn on(lan: Lan, flags: &[&str]) -> Net {
        Net::launch_all(lan.hosts(), flags, Some(lan))
    }

    /// No node yet, on the hosts of `lan`.
    pub(crate) fn prepare(lan: Option<Lan>, flags: &[&str]) -> Net {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Net { dir: tempfile::tempdir().unwrap(), nodes: Vec::new(), flags, lan }
    }

    fn launch_all(count: usize, flags: &[&str], lan: Option<Lan>) -> Net {
        let mut net = Net::prepare(lan, flags);
        for index in 0..count {
            let node = net.launch(index);
            net.nodes.push(node);
        }
        net.settle();
        net
    }

    /// Waits until each node that runs knows all others.
    pub(crate) fn settle(&self) {
        for index in 0..self.nodes.len() {
            self.eventually("a node knows its peers", || {
                // Where it has an address of theirs, they have told who they are.
                let known = self.json(index, &["peers"]);
                let met = |peer: &&serde_json::Value| !peer["addresses"].as_array().unwrap().is_empty();
                known.as_array().unwrap().iter().filter(met).count() >= self.nodes.len() - 1
            });
        }
    }

    /// Starts node `index` on its store, joins it through the first, and waits until it is ready.
    pub(crate) fn launch(&self, index: usize) -> Process {
        let known = self.nodes.first().filter(|_| self.lan.is_none());
        let join: Vec<&str> = known.iter().flat_map(|first| ["--join", &first.address]).collect();
        self.launch_with(index, &join)
    }

    /// Starts node `index` on its store with more flags, and waits until it is ready.
    pub(crate) fn launch_with(&self, index: usize, flags: &[&str]) -> Process {
        let mut command = match &self.lan {
            Some(lan) => self.prepared(index, lan.command(index, CASKAD)),
            None => self.command(index),
        };
        command.args(["--json", "node"]).args(&self.flags).args(flags);
        match &self.lan {
            Some(_) => command.args(["--listen", &format!("/ip4/{}/tcp/0", lan::address(index))]),
            None if self.flags.iter().any(|flag| flag == "--listen") => command.arg("--no-mdns"),
            None => command.args(["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]),
        };
        // With `--json` there is no log but on request.
        let log = fs::File::create(self.log_path(index)).unwrap();
        command.env("RUST_LOG", "warn,libp2p_kad=error,caskad::net::event_loop=debug").stderr(log);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let http = ready["http"].as_str().map(|url| url.trim_start_matches("http://").to_owned());
        Process { child, address: text(&ready["listen"][0]), scope: text(&ready["scope"]), http }
    }

    pub(crate) fn store(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("store-{index}"))
    }

    fn log_path(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("log-{index}"))
    }

    /// What node `index` has warned of since it was started last.
    pub(crate) fn log(&self, index: usize) -> String {
        let log = fs::read_to_string(self.log_path(index)).unwrap();
        log.lines().filter(|line| line.contains(" WARN ")).flat_map(|line| [line, "\n"]).collect()
    }

    /// Whether node `index` has dialled node `other` in vain since it was started last.
    pub(crate) fn missed(&self, index: usize, other: usize) -> bool {
        let told = format!("{} cannot be reached", self.nodes[other].id());
        fs::read_to_string(self.log_path(index)).unwrap().contains(&told)
    }

    /// The command on the store of node `index`, not yet started.
    pub(crate) fn command(&self, index: usize) -> Command {
        self.prepared(index, Command::new(CASKAD))
    }

    fn prepared(&self, index: usize, mut command: Command) -> Command {
        command.current_dir(self.dir.path()).env("CASKAD_STORE", self.store(index)).stdin(Stdio::null());
        command
    }

    pub(crate) fn lan(&self) -> &Lan {
        self.lan.as_ref().unwrap()
    }

    pub(crate) fn run(&self, index: usize, args: &[&str]) -> Output {
        self.command(index).args(args).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn ok(&self, index: usize, args: &[&str]) -> String {
        let ran = self.run(index, args);
        assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, index: usize, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(index, &[&["--json"], args].concat())).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.path().join(name)).unwrap()
    }

    /// A key of node `index`, as the others write it.
    pub(crate) fn key(&self, index: usize, name: &str) -> String {
        format!("@{}/{name}", self.nodes[index].scope)
    }

    /// Ends a node as a power cut would.
    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].child.kill().unwrap();
        self.nodes[index].child.wait().unwrap();
    }

    /// Ends a node as its user would.
    pub(crate) fn terminate(&mut self, index: usize) {
        let child = &mut self.nodes[index].child;
        let asked = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(asked.success() && child.wait().unwrap().success());
    }

    pub(crate) fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        self.within(Duration::from_secs(90), what, holds);
    }

    pub(crate) fn within(&self, time: Duration, what: &str, holds: impl Fn() -> bool) {
        let until = Instant::now() + time;
        while !holds() {
            assert!(Instant::now() < until, "in vain: {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Bytes that no encoding shortens, the same for the same seed.
pub(crate) fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
