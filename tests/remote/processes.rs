//! Real servers, and `caskad` as a process. Each server has a directory and a port of its own, and dies with its test.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use opendal::Operator;
use opendal::services::{Redis, S3};

/// What speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    S3,
    Redis,
}

pub(crate) struct Server {
    kind: Kind,
    port: u16,
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Server {
        let dir = tempfile::tempdir().unwrap();
        if kind == Kind::S3 {
            std::fs::create_dir(dir.path().join("models")).unwrap();
        }
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let child = launch(kind, port, dir.path());
        let server = Server { kind, port, child, dir };
        server.wait();
        server
    }

    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?} does not come up", self.kind);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on what it has on disk.
    pub(crate) fn restart(&mut self) {
        self.child = launch(self.kind, self.port, self.dir.path());
        self.wait();
    }

    /// A client of its own.
    pub(crate) fn operator(&self, prefix: &str) -> Operator {
        match self.kind {
            Kind::S3 => {
                let builder = S3::default().bucket("models").root(prefix).region("us-east-1");
                let builder = builder.endpoint(&format!("http://127.0.0.1:{}", self.port));
                Operator::new(builder.access_key_id(ACCESS_KEY).secret_access_key(SECRET_KEY)).unwrap().finish()
            }
            Kind::Redis => {
                let builder = Redis::default().endpoint(&format!("redis://127.0.0.1:{}", self.port)).root(prefix);
                Operator::new(builder.password(SECRET_KEY)).unwrap().finish()
            }
        }
    }

    /// How many things it holds, whoever put them there.
    pub(crate) fn count(&self) -> usize {
        match self.kind {
            Kind::S3 => {
                let (mut files, mut folders) = (0, vec![self.dir.path().join("models")]);
                while let Some(folder) = folders.pop() {
                    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                        match entry.file_type().unwrap().is_dir() {
                            true => folders.push(entry.path()),
                            false => files += 1,
                        }
                    }
                }
                files
            }
            Kind::Redis => {
                let mut command = Command::new("redis-cli");
                command.args(["-p", &self.port.to_string(), "DBSIZE"]).env("REDISCLI_AUTH", SECRET_KEY);
                String::from_utf8(command.output().unwrap().stdout).unwrap().trim().parse().unwrap()
            }
        }
    }

    pub(crate) fn url(&self, prefix: &str) -> String {
        self.url_through(self.port, prefix)
    }

    /// The URL by way of another port.
    pub(crate) fn url_through(&self, port: u16, prefix: &str) -> String {
        match self.kind {
            Kind::S3 => format!("s3://models/{prefix}?endpoint=http://127.0.0.1:{port}"),
            Kind::Redis => format!("redis://127.0.0.1:{port}/0/{prefix}"),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

fn launch(kind: Kind, port: u16, dir: &Path) -> Child {
    let port = port.to_string();
    let mut command = match kind {
        Kind::S3 => {
            let mut command = Command::new("s3s-fs");
            command.args([
                "--host",
                "127.0.0.1",
                "--port",
                &port,
                "--access-key",
                ACCESS_KEY,
                "--secret-key",
                SECRET_KEY,
            ]);
            command.arg(dir);
            command
        }
        Kind::Redis => {
            let mut command = Command::new("redis-server");
            command.args(["--port", &port, "--bind", "127.0.0.1", "--requirepass", SECRET_KEY]);
            // Durable, as a store of checkpoints is to be.
            command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(dir);
            command
        }
    };
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("{kind:?} is not installed: {error}"))
}

const ACCESS_KEY: &str = "AKIDTEST";
const SECRET_KEY: &str = "a-secret-that-nobody-prints";
pub(crate) const CREDENTIALS: [&str; 2] = [ACCESS_KEY, SECRET_KEY];

/// `caskad` on one store.
pub(crate) struct Cli {
    pub(crate) store: PathBuf,
}

impl Cli {
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caskad"));
        command.args(args).env("CASKAD_STORE", &self.store).env_remove("RUST_LOG");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("REDIS_PASSWORD", SECRET_KEY).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().unwrap();
        for text in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(text).contains(SECRET_KEY), "a secret is printed by {args:?}");
        }
        output
    }

    /// Runs a command that must succeed; what it prints.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail; what it complains of.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?} is not to succeed");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }
}
