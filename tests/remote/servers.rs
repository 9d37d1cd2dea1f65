//! Real servers: one that speaks S3, and Redis. What holds on files holds there, also when the server or `caskad` is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use caskad::backend::{ObjectBackend, ObjectOptions, StorageBackend as _, conformance};

use crate::processes::{CREDENTIALS, Cli, Kind, Server};
use crate::proxy::Proxy;
use crate::stores::noise;

const KINDS: [Kind; 2] = [Kind::S3, Kind::Redis];

fn fixture(name: &str) -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory for the stores and files of a test.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Desk {
        Desk(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn store(&self, name: &str) -> Cli {
        Cli { store: self.path(name) }
    }

    /// A file of noise.
    fn file(&self, name: &str, len: usize) -> String {
        std::fs::write(self.path(name), noise(name, len)).unwrap();
        text(&self.path(name)).to_owned()
    }

    /// Gets a version and compares it.
    fn assert_holds(&self, cli: &Cli, version: &str, file: &str) {
        let out = self.path("out");
        cli.ok(&["get", version, "-o", text(&out), "--force"]);
        assert!(std::fs::read(out).unwrap() == std::fs::read(file).unwrap(), "{version} is not {file}");
    }
}

/// A store that reaches its server by a wire that can be cut; it has a small file, and is to get a large one.
struct Begun {
    desk: Desk,
    proxy: Proxy,
    cli: Cli,
    small: String,
    large: String,
}

impl Begun {
    fn on(server: &Server) -> Begun {
        let (desk, proxy) = (Desk::new(), Proxy::start(server.port()));
        let (cli, small, large) = (desk.store("s"), desk.file("small", 500_000), desk.file("large", 60_000_000));
        cli.ok(&["--backend", &server.url_through(proxy.port, "a"), "put", &small, "--as", "k"]);
        Begun { desk, proxy, cli, small, large }
    }
}

#[test]
fn servers_conform() {
    for kind in KINDS {
        let server = Server::start(kind);
        let mut count = 0;
        conformance::check(|| {
            count += 1;
            ObjectBackend::open(server.operator(&format!("place-{count}")), ObjectOptions::default()).unwrap()
        });
    }
}

#[test]
fn of_two_writers_the_server_takes_one() {
    for kind in KINDS {
        let server = Server::start(kind);
        let open = || ObjectBackend::open(server.operator("a"), ObjectOptions::default()).unwrap();
        drop(open());
        let (one, two) = (open(), open());
        one.create("p-1").unwrap();
        let refused = two.create("p-2").unwrap_err().to_string();
        assert!(refused.contains("taken the store over"), "{kind:?}: {refused}");
        one.create("p-3").unwrap();
        let names: Vec<String> = open().list("").unwrap().into_iter().map(|object| object.name).collect();
        assert_eq!(names, ["p-1", "p-3"], "{kind:?}");
    }
}

#[test]
fn credentials_come_from_the_environment_or_the_usual_files() {
    let desk = Desk::new();
    let file = desk.file("a", 10_000);
    let (s3, redis) = (Server::start(Kind::S3), Server::start(Kind::Redis));
    let ([access_key, secret_key], usual) = (CREDENTIALS, desk.path("credentials"));
    std::fs::write(&usual, format!("[team]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"))
        .unwrap();
    let mut command = desk.store("s").command(&["--backend", &s3.url("a"), "put", &file, "--as", "k"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command.env("AWS_SHARED_CREDENTIALS_FILE", &usual).env("AWS_PROFILE", "team");
    assert!(command.status().unwrap().success());
    let mut command = desk.store("r").command(&["--backend", &redis.url("a"), "put", &file, "--as", "k"]);
    command.env_remove("REDIS_PASSWORD").env("REDISCLI_AUTH", secret_key).env("REDIS_USERNAME", "default");
    assert!(command.status().unwrap().success());
}

#[test]
fn real_weights_take_as_much_as_on_files() {
    let desk = Desk::new();
    let fill = |cli: &Cli, backend: &str| {
        for name in ["real_f32", "real_bf16_v1", "real_bf16_v2"] {
            let (file, key) = (fixture(&format!("{name}.safetensors")), format!("runs/{}", &name[..8]));
            // The place is remembered.
            let place: &[&str] = if name == "real_f32" { &["--backend", backend] } else { &[] };
            cli.ok(&[place, &["put", &file, "--as", &key]].concat());
        }
        cli.ok(&["rm", "runs/real_f32@1"]);
        cli.ok(&["gc"]);
        cli.json(&["stat"])["stored_bytes"].as_u64().unwrap()
    };
    let local = fill(&desk.store("local"), "files:");
    for kind in KINDS {
        let server = Server::start(kind);
        let cli = desk.store(&format!("{kind:?}"));
        assert_eq!(fill(&cli, &server.url("team/a")), local, "{kind:?}");
        desk.assert_holds(&cli, "runs/real_bf1@1", &fixture("real_bf16_v1.safetensors"));
        desk.assert_holds(&cli, "runs/real_bf1@2", &fixture("real_bf16_v2.safetensors"));
        cli.ok(&["verify", "--all"]);
        assert!(std::fs::read_dir(cli.store.join("packs")).unwrap().next().is_none(), "no pack is here");
    }
}

#[test]
fn a_store_is_found_again_without_its_index_and_from_another_machine() {
    for kind in KINDS {
        let (desk, server) = (Desk::new(), Server::start(kind));
        let (cli, file) = (desk.store("here"), desk.file("a", 3_000_000));
        cli.ok(&["--backend", &server.url("a"), "put", &file, "--as", "k"]);
        std::fs::remove_file(cli.store.join("index.journal")).unwrap();
        desk.assert_holds(&cli, "k@1", &file);
        // Another store is refused, unless it is told that the first one is gone.
        let other = desk.store("there");
        let refused = other.fails(&["--backend", &server.url("a"), "put", &file, "--as", "k"]);
        assert!(refused.contains("belongs to another store") && refused.contains("--take-over"), "{refused}");
        let third = desk.store("nowhere yet");
        let refused = third.fails(&["--backend", &server.url("empty"), "ls"]);
        assert!(refused.contains("catalogue is gone"), "nothing is begun to be read: {refused}");
        third.ok(&["--backend", &server.url("a"), "--take-over", "ls"]);
        other.ok(&["--backend", &server.url("a"), "--take-over", "ls"]);
        desk.assert_holds(&other, "k@1", &file);
        other.ok(&["put", &file, "--as", "k"]);
        let refused = cli.fails(&["put", &file, "--as", "k"]);
        assert!(refused.contains("belongs to another store"), "{refused}");
        // The settings may name the place.
        let configured = desk.store("configured");
        std::fs::create_dir(&configured.store).unwrap();
        std::fs::write(configured.store.join("config.toml"), format!("backend = \"{}\"\n", server.url("a"))).unwrap();
        assert!(configured.fails(&["put", &file, "--as", "k"]).contains("belongs to another store"));
        // The one who has its key is the same store, on whatever machine.
        let moved = desk.store("moved");
        std::fs::create_dir(&moved.store).unwrap();
        std::fs::copy(other.store.join("identity.key"), moved.store.join("identity.key")).unwrap();
        moved.ok(&["--backend", &server.url("a"), "ls"]);
        desk.assert_holds(&moved, "k@2", &file);
        // Settings and key are all that a new machine needs, also to read.
        std::fs::copy(other.store.join("identity.key"), configured.store.join("identity.key")).unwrap();
        desk.assert_holds(&configured, "k@1", &file);
    }
}

#[test]
fn a_server_killed_in_the_middle_of_a_put_costs_nothing_that_was_acknowledged() {
    for kind in KINDS {
        let mut server = Server::start(kind);
        let Begun { desk, proxy, cli, small, large } = Begun::on(&server);
        let mut putting = cli.command(&["put", &large, "--as", "k"]);
        let putting = putting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        proxy.wait_for(20_000_000);
        server.kill();
        let output = putting.wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{kind:?}: the server is gone");
        assert!(complaint.contains(if kind == Kind::S3 { "s3://models/a" } else { "redis://" }), "{complaint}");
        server.restart();
        desk.assert_holds(&cli, "k@1", &small);
        assert!(cli.fails(&["show", "k@2"]).contains("k"));
        cli.ok(&["put", &large, "--as", "k"]);
        desk.assert_holds(&cli, "k@2", &large);
        cli.ok(&["verify", "--all"]);
    }
}

#[test]
fn a_put_that_is_killed_leaves_nothing_behind_for_long() {
    for kind in KINDS {
        let server = Server::start(kind);
        let Begun { desk, proxy, cli, small, large } = Begun::on(&server);
        let before = server.count();
        let mut putting = cli.command(&["put", &large, "--as", "k"]).stdout(Stdio::null()).spawn().unwrap();
        // Four parts of 8 MiB may be on their way at once: by the sixth, two have arrived.
        proxy.wait_for(45_000_000);
        putting.kill().unwrap();
        putting.wait().unwrap();
        assert!(server.count() > before + 1, "{kind:?}: parts of it are there");
        desk.assert_holds(&cli, "k@1", &small);
        cli.ok(&["put", &small, "--as", "other"]);
        // The manifest of that put is a part.
        assert_eq!(server.count(), before + 1, "{kind:?}");
        cli.ok(&["put", &large, "--as", "k"]);
        desk.assert_holds(&cli, "k@2", &large);
        // What is collected is gone from the server.
        cli.ok(&["rm", "k@2"]);
        cli.ok(&["gc"]);
        assert!(server.count() <= before + 4, "{kind:?}: {}", server.count());
        desk.assert_holds(&cli, "k@1", &small);
        cli.ok(&["verify", "--all"]);
    }
}

#[test]
fn a_wire_that_breaks_and_stalls_holds_a_put_up_and_no_more() {
    for kind in KINDS {
        let (desk, server) = (Desk::new(), Server::start(kind));
        let large = desk.file("large", 60_000_000);
        let proxy = Proxy::start(server.port());
        let cli = desk.store("s");
        let mut putting = cli.command(&["--backend", &server.url_through(proxy.port, "a"), "put", &large, "--as", "k"]);
        let putting = putting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        proxy.wait_for(10_000_000);
        proxy.cut();
        proxy.wait_for(30_000_000);
        proxy.hold(Duration::from_secs(2));
        let output = putting.wait_with_output().unwrap();
        assert!(output.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&output.stderr));
        desk.assert_holds(&cli, "k@1", &large);
        cli.ok(&["verify", "--all"]);
    }
}

#[test]
fn a_server_that_refuses_conditions_serves_one_writer() {
    let (desk, server) = (Desk::new(), Server::start(Kind::S3));
    let proxy = Proxy::refusing(server.port(), "if-match");
    let (one, two) = (desk.file("one", 500_000), desk.file("two", 500_000));
    let cli = desk.store("s");
    cli.ok(&["--backend", &server.url_through(proxy.port, "a"), "put", &one, "--as", "k"]);
    cli.ok(&["put", &two, "--as", "k"]);
    assert!(proxy.refused() > 0, "no condition was tried");
    desk.assert_holds(&cli, "k@1", &one);
    desk.assert_holds(&cli, "k@2", &two);
    cli.ok(&["rm", "k@1"]);
    cli.ok(&["gc"]);
    cli.ok(&["verify", "--all"]);
}

#[test]
fn what_is_wrong_with_a_place_is_said_without_its_secrets() {
    let (desk, server) = (Desk::new(), Server::start(Kind::S3));
    let file = desk.file("a", 10_000);
    let cli = desk.store("s");
    let port = server.port();
    for (url, expected) in [
        (format!("s3://nowhere/a?endpoint=http://127.0.0.1:{port}"), "no such bucket"),
        ("redis://127.0.0.1:1".to_owned(), "refused"),
        ("s3://me:secret@models/a".to_owned(), "environment"),
        ("s3://models/a?secret_access_key=x".to_owned(), "environment"),
        ("s3://models/../a".to_owned(), "`..`"),
        ("redis://127.0.0.1/zero".to_owned(), "number of a database"),
        ("ftp://127.0.0.1".to_owned(), "s3:// and redis://"),
        ("models".to_owned(), "s3://BUCKET/PREFIX"),
    ] {
        let complaint = cli.fails(&["--backend", &url, "put", &file, "--as", "k"]);
        assert!(complaint.contains(expected), "{url}: {complaint}");
        assert!(!complaint.contains("secret@"), "{complaint}");
    }
    let mut wrong = cli.command(&["-vv", "--backend", &server.url("b"), "put", &file, "--as", "k"]);
    let output = wrong.env("AWS_SECRET_ACCESS_KEY", "another-secret").output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("access is denied"), "{complaint}");
    assert!(!complaint.contains("another-secret"), "{complaint}");
    // A place that never was is not kept in mind.
    cli.ok(&["--backend", "files:", "put", &file, "--as", "k"]);
    assert!(cli.fails(&["--backend", &server.url("a"), "ls"]).contains("its packs are in files:"));
    // Everything is said at the highest level of detail, and the key to the server is not.
    let open = desk.store("t");
    let logged = open.run(&["-vv", "--backend", &server.url("a"), "put", &file, "--as", "k"]);
    assert!(logged.status.success());
}
