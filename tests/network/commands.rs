//! Commands that go through a running node: the same answers, and the same end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use crate::process::{Net, random};

#[test]
fn a_command_says_the_same_through_a_node_as_without() {
    let mut net = Net::start(2, &[]);
    net.write("payload.bin", &random(200_000, 1));
    // A relative path means the client's directory.
    net.ok(0, &["put", "payload.bin", "--as", "m@best", "--meta", "epoch=3"]);
    let commands: [&[&str]; 8] = [
        &["ls"],
        &["log", "m"],
        &["show", "m@best"],
        &["get", "m", "-o", "-"],
        &["verify", "m", "--json", "--quiet"],
        &["get", "n"],
        &["get", "m@tset"],
        &["diff", "m", "m@best"],
    ];
    let answers = |net: &Net| -> Vec<(Option<i32>, Vec<u8>, Vec<u8>)> {
        let timeless = |text: Vec<u8>| match String::from_utf8(text) {
            Ok(text) => text.split("\"seconds\"").next().unwrap_or_default().as_bytes().to_vec(),
            Err(bytes) => bytes.into_bytes(),
        };
        let run = |args: &&[&str]| {
            let ran = net.run(0, args);
            (ran.status.code(), timeless(ran.stdout), ran.stderr)
        };
        commands.iter().map(run).collect()
    };
    let through = answers(&net);
    assert!(net.store(0).join("node.sock").exists());
    net.kill(0);
    let direct = answers(&net);
    for ((args, through), direct) in commands.iter().zip(through).zip(direct) {
        assert!(through == direct, "{args:?}:\n{through:?}\n{direct:?}");
    }
    // A socket that a killed node left is in nobody's way.
    let again = net.launch(0);
    drop(again);
    net.ok(0, &["ls"]);
}

#[test]
fn standard_input_and_output_go_through() {
    let net = Net::start(2, &[]);
    let bytes = random(3 << 20, 2);
    let mut put =
        net.command(0).args(["put", "-", "--as", "piped"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(put.wait().unwrap().success());
    let got = net.run(0, &["get", "piped", "-o", "-"]);
    assert!(got.stdout == bytes);
    // A reader that has seen enough is no failure.
    let mut get = net.command(0).args(["get", "piped", "-o", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 10];
    get.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert!(get.wait().unwrap().success());
}

#[test]
fn a_node_ends_in_good_order_and_only_one_runs_on_a_store() {
    let mut net = Net::start(1, &[]);
    let second = net.run(0, &["node", "--no-mdns"]);
    assert_eq!(second.status.code(), Some(5), "{second:?}");
    let mode = std::fs::metadata(net.store(0).join("node.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only its user may connect");
    let pid = rustix::process::Pid::from_child(&net.nodes[0].child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(net.nodes[0].child.wait().unwrap().code(), Some(0));
    assert!(!net.store(0).join("node.sock").exists());
    let refused = net.run(0, &["health"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("caskad node"));
}

#[test]
fn the_window_is_opened_as_the_settings_say() {
    let net = Net::start(0, &["--replication-factor", "1"]);
    net.ok(0, &["put", &net.write("w.bin", b"weights"), "--as", "w"]);
    let settings = "[http]\naddress = \"127.0.0.1:0\"\ntoken_file = \"token\"\nupload_bytes = 1000\n";
    std::fs::write(net.store(0).join("config.toml"), settings).unwrap();
    std::fs::write(net.store(0).join("token"), "a-token-of-some-length\n").unwrap();
    let node = net.launch(0);
    let ask = |head: &str, body: &[u8]| {
        let mut stream = TcpStream::connect(node.http.as_ref().unwrap()).unwrap();
        let head =
            format!("{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"Authorization: Bearer a-token-of-some-length\r\n\r\n").unwrap();
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask("PUT /blobs/a", &[7; 1000]), "201");
    assert_eq!(ask("PUT /blobs/a", &[7; 1001]), "413");
    drop(node);
    // A token that cannot be one is refused before anything is served, and its file is named.
    let endless = net.run(0, &["node", "--no-mdns", "--http", "127.0.0.1:0", "--http-token-file", "/dev/zero"]);
    assert_eq!(endless.status.code(), Some(2));
    std::fs::remove_file(net.store(0).join("config.toml")).unwrap();
    let nowhere = net.run(0, &["node", "--no-mdns", "--http-upload-bytes", "5"]);
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("--http ADDR"), "{nowhere:?}");
    let missing = net.run(0, &["node", "--no-mdns", "--http", "127.0.0.1:0", "--http-token-file", "nowhere"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("nowhere"), "{missing:?}");
}

#[test]
fn a_node_may_keep_its_chunks_in_memory() {
    let mut net = Net::start(0, &[]);
    let node = net.launch_with(0, &["--backend", "memory:", "--replication-factor", "1"]);
    net.nodes.push(node);
    assert!(net.log(0).contains("gone when this process ends"), "{}", net.log(0));
    let bytes = random(3 << 20, 5);
    let file = net.write("w.bin", &bytes);
    net.ok(0, &["put", &file, "--as", "a"]);
    net.ok(0, &["get", "a", "-o", "out.bin"]);
    let refused = net.run(0, &["--backend", "files:", "put", &file, "--as", "b"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("leave --backend"), "{refused:?}");
    assert!(net.read("out.bin") == bytes);
    net.kill(0);
    let again = net.launch_with(0, &["--backend", "memory:"]);
    assert_eq!(net.json(0, &["ls"]), serde_json::json!([]));
    drop(again);
}

#[test]
fn an_interrupted_command_leaves_the_node_and_its_store_alone() {
    let net = Net::start(1, &[]);
    let mut put =
        net.command(0).args(["put", "-", "--as", "never"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = put.stdin.take().unwrap();
    stdin.write_all(&random(2 << 20, 3)).unwrap();
    let pid = rustix::process::Pid::from_child(&put);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // Nothing comes any more, and the end of it neither.
    assert_eq!(put.wait().unwrap().code(), Some(130));
    drop(stdin);
    // One that is killed outright is noticed, too.
    let mut put = net.command(0).args(["put", "-", "--as", "never"]).stdin(Stdio::piped()).spawn().unwrap();
    put.kill().unwrap();
    put.wait().unwrap();
    assert_eq!(net.json(0, &["ls"]), serde_json::json!([]));
    net.ok(0, &["verify", "--all"]);
}

#[test]
fn a_command_whose_node_ends_says_so() {
    let mut net = Net::start(1, &["--replication-factor", "1"]);
    net.ok(0, &["put", &net.write("payload.bin", &random(16 << 20, 7)), "--as", "m"]);
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        let mut get = net.command(0);
        get.args(["get", "m", "-o", "-", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut get = get.spawn().unwrap();
        // It has begun, and goes on when more is read.
        get.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        net.nodes[0].signal(signal);
        match signal {
            rustix::process::Signal::TERM => {
                net.eventually("the node stops", || !net.store(0).join("node.sock").exists());
            }
            _ => drop(net.nodes[0].child.wait().unwrap()),
        }
        let ended = get.wait_with_output().unwrap();
        let message = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{signal:?}: {message}");
        assert!(message.contains("\"node_ended\"") && message.contains("`caskad log`"), "{signal:?}: {message}");
        net.nodes[0].child.wait().unwrap();
        let again = net.launch(0);
        net.nodes[0] = again;
    }
}

#[test]
fn garbage_on_the_socket_is_survived() {
    let net = Net::start(1, &[]);
    let socket = net.store(0).join("node.sock");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"ckc1\xff\xff\xff\xff", b"ckc1\x02\0\0\0{}", b""] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_ne!(answer, [0], "{bytes:?}");
    }
    net.ok(0, &["ls"]);
}

#[test]
fn identities_and_aliases() {
    let net = Net::start(2, &[]);
    let id = net.json(0, &["id"]);
    let scope = id["scope"].as_str().unwrap().to_owned();
    assert_eq!(id["peer_id"], net.json(0, &["health"])["peer_id"]);
    net.ok(1, &["alias", "alice", &scope]);
    assert_eq!(net.json(1, &["alias"])["alice"], scope.as_str());
    let file = net.write("payload.bin", &random(100_000, 4));
    net.ok(0, &["put", &file, "--as", "models/a@first"]);
    let log = net.json(1, &["log", "@alice/models/a"]);
    assert_eq!((&log[0]["version"], &log[0]["label"]), (&1.into(), &"first".into()));
    net.eventually("the listing is published", || {
        net.json(1, &["ls", "@alice"]).as_array().unwrap().iter().any(|key| key["versions"] == 1)
    });
    let unknown = net.run(1, &["get", "@alcie/models/a"]);
    assert_eq!(unknown.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean alice?"));
    let scoped = net.run(1, &["put", &file, "--as", "@alice/models/a"]);
    assert_eq!(scoped.status.code(), Some(2), "{scoped:?}");
    net.ok(0, &["id", "--export", "team.key"]);
    let imported = net.run(1, &["id", "--import", "team.key"]);
    assert_eq!(imported.status.code(), Some(2), "a running node keeps its key");
}

#[test]
fn without_peers_it_is_said_that_there_are_none() {
    let mut net = Net::start(2, &[]);
    net.ok(0, &["put", &net.write("payload.bin", &random(100_000, 6)), "--as", "m"]);
    let key = net.key(0, "m");
    let scope = format!("@{}", net.nodes[0].scope);
    net.ok(1, &["get", &key, "-o", "out.bin"]);
    let pinned = |net: &Net| net.json(1, &["log", &key])[0]["pinned"].clone();
    assert_eq!(pinned(&net), false);
    // A pin is this store's own affair, and keeps the copy beyond its end.
    net.ok(1, &["pin", &format!("{key}@1")]);
    assert_eq!(pinned(&net), true);
    assert!(net.ok(1, &["show", &format!("{key}@1")]).contains("Z; kept while it is pinned"));
    let fails = |net: &Net, args: &[&str], code: i32, words: &str| {
        let ran = net.run(1, args);
        let message = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(code) && message.contains(words), "{args:?}: {ran:?}");
    };
    // Of what is here, more comes with `get`.
    fails(&net, &["show", &format!("{key}@2")], 3, "`caskad get` fetches");
    // It may itself keep the records of others, and peers that it has met it meets again.
    net.kill(0);
    net.kill(1);
    std::fs::remove_file(net.store(1).join("network.redb")).unwrap();
    net.nodes[1] = net.launch_with(1, &[]);
    for args in [&["get", &net.key(0, "n"), "-o", "n"][..], &["log", &net.key(0, "n")]] {
        fails(&net, args, 4, "no peer is connected");
    }
    let stranger = format!("@{}", "5a".repeat(32));
    fails(&net, &["ls", &stranger], 4, "no peer is connected");
    fails(&net, &["ls", &stranger, "--json"], 4, "\"no_peers\"");
    fails(&net, &["get", "n"], 3, "no key \"n\" in the store");
    // What is here is better than nothing.
    fails(&net, &["get", &key, "-o", "again.bin"], 0, "taken from the copy here");
    assert!(net.read("again.bin") == net.read("payload.bin"));
    assert_eq!(net.json(1, &["ls", &scope])[0]["key"], key);
    net.kill(1);
    fails(&net, &["get", &net.key(0, "n")], 3, "through a running node (`caskad node`)");
}

#[test]
fn what_has_expired_is_not_listed() {
    let net = Net::start(2, &[]);
    net.write("payload.bin", &random(100_000, 8));
    net.ok(0, &["put", "payload.bin", "--as", "short", "--ttl", "25s"]);
    net.ok(0, &["put", "payload.bin", "--as", "long"]);
    let scope = format!("@{}", net.nodes[0].scope);
    // The publisher is not asked for anything, which would have it look at its keys.
    let listed = |count: usize| net.json(1, &["ls", &scope]).as_array().unwrap().len() == count;
    net.within(Duration::from_secs(22), "both are listed", || listed(2));
    net.within(Duration::from_secs(60), "one is left", || listed(1));
    assert_eq!(net.json(0, &["ls"]).as_array().unwrap().len(), 1);
    let log = net.run(1, &["log", &net.key(0, "short")]);
    let message = String::from_utf8(log.stderr).unwrap();
    assert!(log.status.code() == Some(3) && !message.contains("did you mean short"), "{message}");
}

#[test]
fn the_demo_comes_to_its_end() {
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_caskad"))
        .args(["demo", "--nodes", "6", "--mib", "2", "--json"])
        .env("RUST_LOG", "warn,libp2p_kad=error")
        .output()
        .unwrap();
    let warnings = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && warnings.is_empty(), "{warnings}");
    let rows: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 6);
    assert_eq!(rows[0]["replicas"], 3);
}

#[test]
fn gradients_of_a_round_are_folded() {
    let net = Net::start(3, &[]);
    let file = |value: f32| {
        let json = "{\"w\":{\"dtype\":\"F32\",\"shape\":[300],\"data_offsets\":[0,1200]}}  ";
        let data: Vec<u8> = (0..300).flat_map(|n| (value + n as f32).to_le_bytes()).collect();
        [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat()
    };
    for worker in 0..2 {
        let path = net.write(&format!("grads-{worker}.safetensors"), &file(worker as f32));
        net.ok(worker, &["gradient", "publish", &path, "--run", "r", "--round", "1"]);
    }
    let workers: Vec<String> = net.nodes.iter().map(|node| format!("@{}", node.scope)).collect();
    let mut args =
        vec!["gradient", "collect", "--run", "r", "--round", "1", "--deadline", "8s", "-o", "mean.safetensors"];
    workers.iter().for_each(|worker| args.extend(["--worker", worker]));
    let report = net.json(2, &args);
    assert_eq!((&report["contributions"], report["missing"].as_array().unwrap().len()), (&2.into(), 1), "{report}");
    let mean = net.read("mean.safetensors");
    let last = f32::from_le_bytes(mean[mean.len() - 4..].try_into().unwrap());
    assert!((last - 299.5).abs() < 1e-6, "{last}");
    let files = ["grads-0.safetensors", "grads-1.safetensors"];
    net.ok(2, &[&["gradient", "aggregate"], &files[..], &["--median", "-o", "median.safetensors"]].concat());
    // Who is missing is named as it was given.
    net.ok(2, &["alias", "alice", &workers[0]]);
    let round = ["gradient", "collect", "--json", "--run", "r", "--round", "9", "--deadline", "300ms", "-o", "x"];
    let nobody = net.run(2, &[&round[..], &["--worker", "@alice", "--worker", &workers[1]]].concat());
    let error: serde_json::Value = serde_json::from_slice(&nobody.stderr).unwrap();
    assert_eq!(error["error"]["missing"], serde_json::json!(["alice", workers[1].trim_start_matches('@')]), "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("in time: @alice, @"), "{error}");
    assert_eq!(nobody.status.code(), Some(2));
}

#[test]
fn commands_wait_for_their_turn_and_the_node_tells_how_it_is() {
    let net = Net::start(1, &[]);
    let hold = |number: usize| {
        let mut put = net.command(0);
        put.args(["put", "-", "--as", &format!("slot/{number}")]).stdin(Stdio::piped());
        put.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut puts: Vec<_> = (0..64).map(hold).collect();
    // The node runs as many as it does at once when one more does not come to its end.
    let waiting = std::cell::RefCell::new(Vec::new());
    net.eventually("a command waits", || {
        let mut ls = net.command(0).args(["ls"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        ls.try_wait().unwrap().is_none().then(|| waiting.borrow_mut().push(ls)).is_some()
    });
    assert!(net.ok(0, &["health"]).contains("12D3KooW"));
    for put in &mut puts {
        drop(put.stdin.take());
    }
    assert!(waiting.borrow_mut().pop().unwrap().wait().unwrap().success());
    for put in &mut puts {
        // Alone, it stores what it is given, and says that nobody else does.
        assert_eq!(put.wait().unwrap().code(), Some(4));
    }
}

#[test]
fn an_address_that_leads_nowhere_is_refused() {
    let net = Net::start(1, &[]);
    for (flag, address) in [
        ("--join", ""),
        ("--join", "/ip4/127.0.0.1"),
        ("--join", "/ip4/127.0.0.1/udp/4700"),
        ("--listen", "/ip4/127.0.0.1/udp/4700"),
        ("--listen", "/ip4/127.0.0.1/tcp/0/p2p/12D3KooWGZocmRC4As51Fda84pxSBAE5sc1J7nqFJUTh4VMqE2XS"),
    ] {
        let refused = net.run(0, &["node", "--no-mdns", flag, address]);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && message.contains(flag), "{message}");
    }
}

#[test]
fn a_node_does_not_start_on_settings_that_cannot_be_read() {
    let mut net = Net::start(2, &[]);
    net.write("payload.bin", &random(200_000, 3));
    net.ok(0, &["put", "payload.bin", "--as", "team/m"]);
    let own = format!("@{}", net.nodes[0].scope);
    net.eventually("the key is listed", || net.ok(0, &["ls", &own]).contains("team/m"));
    net.kill(0);
    assert!(net.ok(0, &["ls", &own]).contains("team/m"), "without the node as well");
    let config = net.store(0).join("config.toml");
    for text in ["[network]\nallow = [\"x\"]", "[network]\nttll = \"24h\"", "[network", "[network]\nalpha = 0"] {
        std::fs::write(&config, text).unwrap();
        let refused = net.run(0, &["node", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && message.contains("config.toml: TOML parse error"), "{message}");
        net.ok(0, &["ls"]);
    }
    for (text, why) in [
        ("[network]\nalpha = 40", "config.toml: alpha in [network]: it is 40"),
        ("[network]\npreset = \"low-latency\"\nalpha = 11", "config.toml: alpha in [network]: it is 11"),
        ("[network]\npreset = \"slow\"", "neither high-throughput nor low-latency"),
    ] {
        std::fs::write(&config, text).unwrap();
        let refused = net.run(0, &["node", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && message.contains(why), "{message}");
    }
    std::fs::write(&config, "[network]\npreset = \"low-latency\"").unwrap();
    let small = net.run(0, &["node", "--no-mdns", "--peer-bytes", "5", "--peer-chunks", "5", "--buffer-bytes", "5MiB"]);
    let message = String::from_utf8(small.stderr).unwrap();
    assert!(
        small.status.code() == Some(2) && message.contains("\"buffer_bytes\" is not valid: it is 5242880"),
        "{message}"
    );
    let odd = net.run(0, &["node", "--no-mdns", "--upload", "5 apples"]);
    let message = String::from_utf8(odd.stderr).unwrap();
    assert!(odd.status.code() == Some(2) && message.contains("--upload"), "{message}");
}
