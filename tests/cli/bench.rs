//! [`Bench`]: a directory with a store in it, and the built command to run on it. Every wait is bounded.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that one run of the command may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

/// A run of the command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    /// The path called `name` in the bench, which is also where commands run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a file, and the directories that it lies in.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The command, not yet started, on the store of the bench.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_caskad")), args)
    }

    fn command_of<A: AsRef<OsStr>>(&self, binary: &Path, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(binary);
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("CASKAD_STORE", self.store()).env("HOME", self.path("home")).stdin(Stdio::null());
        command
    }

    /// The command as a user whom permissions bind. Root runs it as nobody.
    pub(crate) fn command_unprivileged(&self, args: &[&str]) -> Command {
        if !rustix::process::geteuid().is_root() {
            return self.command(args);
        }
        let binary = self.path("caskad");
        if !binary.exists() {
            // By another process: what this one has open for writing, its children have as well, and then it cannot be run.
            let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_caskad")).arg(&binary).status().unwrap();
            assert!(copied.success());
            set_mode(self.dir.path(), 0o755);
        }
        let mut command = self.command_of(&binary, args);
        command.uid(65534).gid(65534);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// Runs the command and expects it to succeed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran
    }

    /// Runs the command with `--json`, expects it to succeed, and reads its answer.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ran = self.ok(&[args, &["--json"]].concat());
        assert_eq!(ran.stderr, "", "{args:?}");
        ran.json()
    }

    /// Runs the command twice, as text and with `--json`, and expects it to fail with `code` and `kind`. Answers the JSON error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, kind: &str, args: &[&str]) -> Value {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(!ran.stderr.is_empty() && !ran.stderr.contains("panicked"), "{args:?}: {ran:?}");
        let ran = self.run(&[&["--json"], args].concat());
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        let error = ran.error();
        assert_eq!(error["kind"], kind, "{args:?}: {error}");
        error
    }

    /// Puts `bytes` as the next version of `key`.
    #[track_caller]
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) -> Value {
        self.write("payload.bin", bytes);
        self.json(&["put", "payload.bin", "--as", key])
    }

    /// The bytes of a version of one file.
    #[track_caller]
    pub(crate) fn get(&self, version: &str) -> Vec<u8> {
        self.ok(&["get", version, "-o", "-"]).stdout
    }
}

impl Ran {
    /// Starts `command` and waits for its end.
    pub(crate) fn of(command: &mut Command) -> Ran {
        Ran::end(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for the end of `child`, reading what is piped from it.
    pub(crate) fn end(mut child: Child) -> Ran {
        let stdout = child.stdout.take().map(read_all);
        let stderr = child.stderr.take().map(read_all);
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > DEADLINE {
                child.kill().unwrap();
                panic!("the command did not end within {DEADLINE:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(status.core_dumped() || status.code().is_some() || status.signal().is_some());
        let bytes = |reader: Option<JoinHandle<Vec<u8>>>| reader.map(|r| r.join().unwrap()).unwrap_or_default();
        Ran { code: status.code(), stdout: bytes(stdout), stderr: String::from_utf8(bytes(stderr)).unwrap() }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What standard error says, as `--json` errors.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let error: Value = serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        error["error"].clone()
    }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Waits until `happened`, within the deadline.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let started = Instant::now();
    while !happened() {
        assert!(started.elapsed() < DEADLINE, "{what} did not happen within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `len` bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A tensor: name, element type, shape, bytes.
pub(crate) type Tensor<'a> = (&'a str, &'a str, &'a [u64], &'a [u8]);

/// A safetensors file of these tensors.
pub(crate) fn safetensors(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        let about = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        header.insert((*name).to_owned(), about);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// Asserts that a JSON object has all of `fields`.
#[track_caller]
pub(crate) fn has_fields(value: &Value, fields: &[&str]) {
    for field in fields {
        assert!(value.get(field).is_some(), "{field} is missing in {value}");
    }
}
