//! Help, man pages, completions, and what goes to which stream.

use crate::bench::{Bench, Ran};

const COMMANDS: [&str; 25] = [
    "put",
    "get",
    "verify",
    "ls",
    "log",
    "show",
    "diff",
    "tag",
    "pin",
    "unpin",
    "rm",
    "gc",
    "compact",
    "stat",
    "export",
    "import",
    "node",
    "peers",
    "health",
    "id",
    "alias",
    "gradient",
    "demo",
    "completions",
    "man",
];

#[test]
fn every_command_has_help_with_examples() {
    let bench = Bench::new();
    let help = bench.ok(&["--help"]);
    for command in COMMANDS {
        assert!(help.text().contains(&format!("  {command} ")), "{command}");
        let help = bench.ok(&[command, "--help"]);
        assert!(help.text().contains("Examples:\n  caskad ") && help.text().contains("--store"), "{help:?}");
        assert!(help.text().contains(&format!("caskad {command}")), "{help:?}");
    }
    assert!(help.text().contains("Exit codes:"));
    assert_eq!(bench.ok(&["--version"]).text(), format!("caskad {}\n", env!("CARGO_PKG_VERSION")));
    let none = bench.run(&[]);
    assert!(none.code == Some(2) && none.stderr.contains("Usage: caskad"), "{none:?}");
}

#[test]
fn man_pages_are_written_for_every_command() {
    let bench = Bench::new();
    assert!(bench.ok(&["man"]).text().contains(".TH caskad 1"));
    bench.ok(&["man", "--dir", "man1"]);
    for command in COMMANDS {
        let page = String::from_utf8(bench.read(&format!("man1/caskad-{command}.1"))).unwrap();
        assert!(page.contains(&format!(".TH caskad-{command} 1")) && page.contains("Examples"), "{page}");
    }
    assert!(!bench.read("man1/caskad.1").is_empty());
    bench.write("file", b"");
    bench.fails(2, "io", &["man", "--dir", "file/below"]);
}

#[test]
fn shells_get_completions() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = bench.ok(&["completions", shell]);
        assert!(script.text().contains("caskad") && script.text().contains("verify"), "{shell}");
    }
    bench.fails(2, "usage", &["completions", "csh"]);
}

#[test]
fn the_log_goes_to_standard_error_and_only_on_request() {
    let bench = Bench::new();
    bench.put("m", b"x");
    bench.write("store/config.toml", b"this is not toml");
    let warned = bench.ok(&["ls"]);
    assert!(warned.stderr.contains("config.toml"), "{warned:?}");
    assert_eq!(bench.ok(&["ls", "--quiet"]).stderr, "");
    assert_eq!(bench.ok(&["ls", "--json"]).stderr, "", "a script can rely on what is there");
    let env = Ran::of(bench.command(["ls", "--json"]).env("RUST_LOG", "warn"));
    assert!(env.stderr.contains("config.toml") && env.json().is_array(), "{env:?}");
    assert!(bench.ok(&["ls", "-vv"]).stderr.len() > warned.stderr.len());
    let logged = bench.ok(&["ls", "--json", "--log-json"]);
    let events: Vec<serde_json::Value> =
        logged.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(logged.json().is_array() && !events.is_empty(), "{logged:?}");
    for event in &events {
        assert!(event["level"] == "WARN" && event["message"].is_string() && event["timestamp"].is_string(), "{event}");
    }
}
