//! The read part of the Hugging Face Hub's interface. `tests/clients/hub.py` asks the same with the real client.

use crate::client::{Window, noise};

fn models() -> Window {
    let window = Window::open();
    window.put_files("org/model@v1", &[("config.json", b"{}"), ("weights/a.bin", &noise(50_000))]);
    window.put_files(
        "org/model",
        &[("config.json", b"{\"n\":2}"), ("weights/a.bin", &noise(60_000)), ("weights/b.bin", b"b")],
    );
    window
}

#[test]
fn a_model_is_told_at_each_revision() {
    let window = models();
    let latest = window.get("/api/models/org/model").json();
    let names: Vec<&str> =
        latest["siblings"].as_array().unwrap().iter().map(|file| file["rfilename"].as_str().unwrap()).collect();
    assert_eq!(names, ["config.json", "weights/a.bin", "weights/b.bin"]);
    let first = window.get("/api/models/org/model/revision/v1").json();
    let commit = first["sha"].as_str().unwrap();
    assert!(commit.len() == 40 && latest["sha"] != first["sha"]);
    for revision in [commit, "1"] {
        assert_eq!(window.get(&format!("/api/models/org/model/revision/{revision}")).json(), first);
    }
    assert_eq!(window.get("/api/models/org/model/revision/main").json(), latest);
    let refs = window.get("/api/models/org/model/refs").json();
    assert_eq!((&refs["branches"][0]["targetCommit"], &refs["tags"][0]["name"]), (&latest["sha"], &"v1".into()));
}

#[test]
fn files_are_listed_and_resolved() {
    let window = models();
    let tree = window.get("/api/models/org/model/tree/main").json();
    let listed: Vec<(&str, &str)> = tree
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["type"].as_str().unwrap(), entry["path"].as_str().unwrap()))
        .collect();
    assert_eq!(listed, [("file", "config.json"), ("directory", "weights")]);
    let all = window.get("/api/models/org/model/tree/v1?recursive=True").json();
    assert_eq!(all.as_array().unwrap().iter().filter(|entry| entry["type"] == "file").count(), 2);
    assert_eq!(window.get("/api/models/org/model/tree/main/weights").json().as_array().unwrap().len(), 2);
    let commit = window.get("/api/models/org/model").json()["sha"].as_str().unwrap().to_owned();
    let head = window.ask("HEAD", "/org/model/resolve/main/weights/a.bin", &[], b"");
    assert_eq!((head.status, head.header("x-repo-commit"), head.header("content-length")), (200, &*commit, "60000"));
    assert_eq!(head.header("etag"), format!("\"{}\"", caskad::Hash::of(&noise(60_000))));
    let rest = window.get_with("/org/model/resolve/main/weights/a.bin", "Range", "bytes=100-");
    assert!(rest.status == 206 && rest.body == noise(60_000)[100..]);
    assert_eq!(window.get("/org/model/resolve/v1/config.json").body, b"{}");
}

#[test]
fn what_is_missing_has_a_code_that_clients_know() {
    let window = models();
    for (path, code) in [
        ("/api/models/org/none", "RepoNotFound"),
        ("/api/models/not%20a%20key", "RepoNotFound"),
        ("/api/models/org/none/refs", "RepoNotFound"),
        ("/api/models/org/model/revision/none", "RevisionNotFound"),
        ("/api/models/org/model/revision/ffffffffffffffffffffffffffffffffffffffff", "RevisionNotFound"),
        ("/api/models/org/model/revision/refs%2Fpr%2F1", "RevisionNotFound"),
        ("/api/models/org/model/tree/main/none", "EntryNotFound"),
        ("/org/model/resolve/main/none.bin", "EntryNotFound"),
        ("/org/model/resolve/main/..%2f..%2fLOCK", "EntryNotFound"),
        ("/org/model/resolve/none/config.json", "RevisionNotFound"),
        ("/org/none/resolve/main/config.json", "RepoNotFound"),
    ] {
        let answer = window.get(path);
        assert_eq!((answer.status, answer.header("x-error-code")), (404, code), "{path}");
    }
    // Nor is a key that is called as the words of a message are.
    window.put("no", "x", b"bytes");
    assert_eq!(window.get("/api/models/no/revision/key").header("x-error-code"), "RevisionNotFound");
    assert_eq!(window.ask("PUT", "/org/model/resolve/main/config.json", &[], b"x").status, 405);
}
