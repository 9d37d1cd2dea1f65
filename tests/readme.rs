//! The README's tour is run as written, and prints what the README says it prints.
//!
//! Numbers, hashes and the padding of columns differ from run to run; words, order and exit are compared.

#![allow(clippy::unwrap_used)] // What cannot be read or run fails the test.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A command of the tour and what it is said to print.
fn tour(readme: &str) -> Vec<(String, String)> {
    let block = readme.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command.to_owned(), String::new())),
            None => commands.last_mut().unwrap().1.push_str(&format!("{line}\n")),
        }
    }
    commands
}

/// `text` without what may differ: hex after `b3-`, numbers, units of size, and runs of blanks.
fn essence(text: &str) -> Vec<String> {
    let essence_of = |word: &str| match word {
        _ if word.starts_with("b3-") => "b3-#".to_owned(),
        "B" | "KiB" | "MiB" | "GiB" => "#".to_owned(),
        _ if ["B/s", "KiB/s", "MiB/s", "GiB/s"].contains(&word.trim_end_matches(')')) => "#".to_owned(),
        _ => word.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect::<String>(),
    };
    let squeeze = |word: String| {
        let mut squeezed = String::new();
        word.chars().filter(|&c| c != '.').for_each(|c| {
            if c != '#' || !squeezed.ends_with('#') {
                squeezed.push(c);
            }
        });
        squeezed
    };
    text.split_whitespace().map(|word| squeeze(essence_of(word))).collect()
}

#[test]
fn the_tour_runs_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commands = tour(&fs::read_to_string(root.join("README.md")).unwrap());
    assert!(commands.len() > 10);
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("tests"), dir.path().join("tests")).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_caskad")).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(bin.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let path = path.unwrap();
    for (command, expected) in commands {
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(dir.path())
            .env("PATH", &path)
            .env("HOME", dir.path())
            .env_remove("CASKAD_STORE")
            .env_remove("XDG_DATA_HOME")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(essence(&printed), essence(&expected), "$ {command}\n{printed}");
    }
}
