//! The rules of the house that no compiler checks: who may import whom, and what every source file looks like.
//!
//! A plain scan of the text, so nothing has to be built. Comments are left out of the layer check, since docs may link upwards,
//! and so are the unit tests at the foot of a file, which may use what they like.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, the lowest first. A module imports only from itself and from the rows above its own, so no circle is possible
/// and neighbours in a row do not see each other. A module that is in no row fails: give it its place here.
const LAYERS: [&[&str]; 11] = [
    &["error", "hash", "limits", "size"],
    &["monitor", "identity"],
    &["chunk", "key", "cbor"],
    &["meta"],
    &["refs"],
    &["split", "codec"],
    &["manifest", "backend"],
    &["store", "cache"],
    &["net"],
    &["node"],
    &["gradient", "http"],
];

/// Imports that the rows would allow and the design does not: manifests are opaque bytes to the store, and it never cuts; the network
/// sees chunks and records, and asks for what is here through traits.
const STRANGERS: [(&str, &str); 7] = [
    ("store", "manifest"),
    ("store", "split"),
    ("cache", "manifest"),
    ("cache", "split"),
    ("net", "store"),
    ("net", "cache"),
    ("net", "manifest"),
];

/// What `lib.rs` re-exports from lower layers, for a path such as `crate::Error`.
const REEXPORTS: [(&str, &str); 17] = [
    ("Error", "error"),
    ("Result", "error"),
    ("Hash", "hash"),
    ("Identity", "identity"),
    ("ScopeKey", "identity"),
    ("Scope", "key"),
    ("Key", "key"),
    ("Label", "key"),
    ("PutName", "key"),
    ("VersionRef", "key"),
    ("VersionSpec", "key"),
    ("Monitor", "monitor"),
    ("Progress", "monitor"),
    ("Node", "node"),
    ("Store", "node"),
    ("Version", "node"),
    ("Payload", "node"),
];

/// Most lines of a source file.
const MOST_LINES: usize = 500;

/// A file of the package, by its path from the package's root.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// The path of the file's module inside the library; empty for its root, `None` outside of it.
    fn module(&self) -> Option<Vec<&str>> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.path.strip_prefix("src").ok()?.iter() {
            let name = name.to_str().unwrap();
            names.push(name.strip_suffix(".rs").unwrap_or(name));
        }
        if let Some(&"mod" | &"lib") = names.last() {
            names.pop();
        }
        (names.first() != Some(&"bin")).then_some(names)
    }

    /// Numbered lines without comments, up to the unit tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let code = lines.take_while(|(_, line)| *line != "#[cfg(test)]");
        code.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// The Rust files below `folder` of the package.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut folders) = (Vec::new(), vec![root.join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(root).unwrap().to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The top-level modules that a line of a file in the module `from` names.
fn imports<'l>(line: &'l str, from: &[&'l str]) -> Vec<&'l str> {
    let boundary = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
    let name = |rest: &'l str| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
    let mut found = Vec::new();
    for (at, prefix) in line.match_indices("crate::").filter(|(at, _)| boundary(*at)) {
        found.push(name(&line[at + prefix.len()..]));
    }
    let mut at = 0;
    while let Some(start) = line[at..].find("super::").map(|start| at + start) {
        let (mut rest, mut above) = (&line[start..], from);
        while let Some(inside) = rest.strip_prefix("super::") {
            rest = inside;
            above = above.split_last().map_or(above, |(_, above)| above);
        }
        found.push(above.first().copied().unwrap_or_else(|| name(rest)));
        at = line.len() - rest.len();
    }
    found
}

fn offence(from: &str, to: &str) -> Option<String> {
    let to = REEXPORTS.iter().find(|(name, _)| *name == to).map_or(to, |(_, module)| module);
    match (layer(from), layer(to)) {
        _ if from == to => None,
        _ if STRANGERS.contains(&(from, to)) => Some(format!("`{from}` must not know `{to}`")),
        (Some(own), Some(other)) if other < own => None,
        (Some(_), Some(_)) => Some(format!("`{from}` imports `{to}`, which is not below it")),
        (None, _) => Some(format!("`{from}` has no layer")),
        (_, None) => Some(format!("`{from}` imports `{to}`, which has no layer: name one module at a time")),
    }
}

#[test]
fn modules_import_from_the_layers_below_them_only() {
    let mut offences = Vec::new();
    let mut imported = 0;
    for source in sources("src") {
        let Some(module) = source.module().filter(|module| !module.is_empty()) else { continue };
        for (number, line) in source.code() {
            for to in imports(line, &module) {
                imported += 1;
                offences.extend(offence(module[0], to).map(|why| format!("{}: {why}", source.at(number))));
            }
        }
    }
    assert!(imported > 100, "the scan found {imported} imports only: is it looking in the right place?");
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn the_scan_sees_every_way_to_name_a_module() {
    let gc = ["store", "gc"];
    assert_eq!(imports("use crate::store::pack::PackId;", &gc), ["store"]);
    assert_eq!(imports("    let x = f(crate::Error::new(), crate::node::y());", &gc), ["Error", "node"]);
    assert_eq!(imports("use crate::{manifest, split};", &gc), [""]);
    assert_eq!(imports("use super::index::Entry;", &gc), ["store"]);
    assert_eq!(imports("use super::super::manifest::Manifest;", &gc), ["manifest"]);
    assert_eq!(imports("use super::manifest::Manifest;", &["store"]), ["manifest"]);
    assert_eq!(imports("pub(crate) use mycrate::x; pub(super) fn f() {}", &gc), [""; 0]);
    assert_eq!(offence("store", "store"), None);
    assert_eq!(offence("store", "Error"), None);
    for (from, to) in [
        ("store", "manifest"),
        ("store", "node"),
        ("store", "cache"),
        ("manifest", "backend"),
        ("split", "codec"),
        ("error", "limits"),
        ("new", "error"),
        ("store", ""),
    ] {
        assert!(offence(from, to).is_some(), "{from} → {to}");
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for source in sources("src") {
        assert!(source.text.starts_with("//! "), "{}: the file does not open with `//!`", source.at(1));
        let lines = source.text.lines().count();
        assert!(lines <= MOST_LINES, "{}: {lines} lines, the most is {MOST_LINES}", source.at(MOST_LINES));
    }
}

#[test]
fn nothing_is_left_for_later() {
    // In two parts each, so that this file is not found itself.
    let later = [["to", "do!("], ["unimple", "mented!("], ["#[ig", "nore"]].map(|parts| parts.concat());
    for source in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        for (number, line) in source.text.lines().enumerate() {
            let found = later.iter().find(|word| line.contains(word.as_str()));
            assert_eq!(found, None, "{}", source.at(number + 1));
        }
    }
}
