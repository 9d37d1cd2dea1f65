//! The read part of the Hugging Face Hub's interface, so that its clients fetch from here what is stored here.
//!
//! A repository is a key, of the node's own scope or of another. One with a segment `tree`, `revision`, `refs` or `resolve` is not reached, as
//! paths are taken apart at these words. Revision `main` is the newest version; labels are branches and tags, and a commit is the
//! first 40 digits of a manifest's hash. Paths and fields are those that the `huggingface_hub` client asks for
//! (<https://huggingface.co/docs/hub/api>).

use axum::extract::{Request, State};
use axum::http::header::ALLOW;
use axum::http::{HeaderName, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::http::answer::{Refusal, header_value};
use crate::http::ask::Query;
use crate::http::blobs;
use crate::http::server::App;
use crate::key::{Key, Label, VersionRef, VersionSpec};
use crate::manifest::RegularFile;
use crate::monitor::Monitor;
use crate::node::Version;

const COMMIT_DIGITS: usize = 40;
const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");

// The codes by which clients tell what is missing.
const NO_REPOSITORY: &str = "RepoNotFound";
const NO_REVISION: &str = "RevisionNotFound";
const NO_ENTRY: &str = "EntryNotFound";

pub(super) fn routes() -> Router<App> {
    Router::new().route("/api/models/{*path}", get(about))
}

#[derive(Deserialize, Default)]
struct TreeQuery {
    #[serde(default)]
    recursive: Option<String>,
}

/// `/api/models/KEY`, `…/revision/REV`, `…/refs` and `…/tree/REV[/PATH]`.
async fn about(State(app): State<App>, Query(query): Query<TreeQuery>, request: Request) -> Result<Response, Refusal> {
    // A revision may hold an encoded slash, so the path is taken apart before it is decoded.
    let path = request.uri().path();
    let raw = path.strip_prefix("/api/models/").unwrap_or(path);
    if let Some((repository, rest)) = split_at_word(raw, "tree") {
        let (revision, below) = rest.split_once('/').unwrap_or((rest, ""));
        let (version, below) = (find(&app, repository, revision).await?, decoded(below)?);
        return tree(&version, &below, &query);
    }
    if let Some(repository) = raw.strip_suffix("/refs") {
        let key = repository_key(repository)?;
        let refs = app.ask(move |app| refs(app, &key)).await;
        return Ok(Json(refs.map_err(|refusal| refusal.missing(NO_REPOSITORY))?).into_response());
    }
    let (repository, revision) = split_at_word(raw, "revision").unwrap_or((raw, "main"));
    let version = find(&app, repository, revision).await?;
    Ok(Json(model(&version)).into_response())
}

/// `/KEY/resolve/REV/PATH`, and everything else that has no route.
pub(super) async fn resolve(State(app): State<App>, request: Request) -> Result<Response, Refusal> {
    let nothing =
        || Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path; see /openapi.json");
    let raw = request.uri().path().trim_start_matches('/').to_owned();
    let (repository, rest) = split_at_word(&raw, "resolve").ok_or_else(nothing)?;
    let (revision, path) = rest.split_once('/').ok_or_else(nothing)?;
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "usage", "this path can only be read");
        return Ok(([(ALLOW, "GET, HEAD")], refusal).into_response());
    }
    let path = decoded(path)?;
    let version = find(&app, repository, revision).await?;
    let commit = commit(&version);
    let answered = blobs::respond(&app, version, Some(&path), request.method(), request.headers());
    let mut response = answered.map_err(|refusal| refusal.missing(NO_ENTRY)).into_response();
    response.headers_mut().insert(COMMIT, header_value(&commit));
    Ok(response)
}

/// The part of `path` before the segment `word`, and the part behind it.
fn split_at_word<'p>(path: &'p str, word: &str) -> Option<(&'p str, &'p str)> {
    path.split_once(&format!("/{word}/"))
}

fn decoded(part: &str) -> Result<String, Refusal> {
    let decoded = percent_encoding::percent_decode_str(part).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| Refusal::usage("the path is not UTF-8"))
}

/// The key that a repository is.
fn repository_key(repository: &str) -> Result<Key, Refusal> {
    let repository = decoded(repository)?;
    repository.parse().map_err(|_| {
        let why = format!("no key {repository:?} in the store");
        Refusal::new(StatusCode::NOT_FOUND, "not_found", why).missing(NO_REPOSITORY)
    })
}

/// The version that a revision names.
async fn find(app: &App, repository: &str, revision: &str) -> Result<Version, Refusal> {
    let (key, revision) = (repository_key(repository)?, decoded(revision)?);
    let found = app.ask(move |app| Ok(open(app, &key, &revision))).await?;
    found.map_err(|error| {
        let code = if matches!(error, Error::NotFound { what: "key", .. }) { NO_REPOSITORY } else { NO_REVISION };
        Refusal::from(error).missing(code)
    })
}

fn open(app: &App, key: &Key, revision: &str) -> Result<Version> {
    let version = |version| app.node().version(&VersionRef { key: key.clone(), version }, &Monitor::none());
    let spec = match revision {
        commit if commit.len() == COMMIT_DIGITS && commit.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            format!("{key}@b3-{commit}").parse::<VersionRef>()?.version
        }
        label => match label.parse::<Label>() {
            Ok(label) => VersionSpec::Label(label),
            // What no label can be is no revision either, unless it is a number.
            Err(_) => match label.parse() {
                Ok(number) => VersionSpec::Number(number),
                Err(_) => {
                    let (what, name, place) = ("version", label.to_owned(), format!("key {key}"));
                    version(VersionSpec::Latest)?;
                    return Err(Error::NotFound { what, name, place, nearest: Vec::new() });
                }
            },
        },
    };
    match version(spec) {
        Err(Error::NotFound { what: "label", .. }) if revision == "main" => version(VersionSpec::Latest),
        found => found,
    }
}

fn commit(version: &Version) -> String {
    commit_of(&version.manifest_hash())
}

fn commit_of(manifest: &Hash) -> String {
    manifest.to_string().chars().take(COMMIT_DIGITS).collect()
}

fn regular_files(version: &Version) -> impl Iterator<Item = (&str, &RegularFile)> {
    version.manifest().files.iter().filter_map(|entry| Some((entry.path.as_str(), entry.regular()?)))
}

fn model(version: &Version) -> Value {
    let id = version.key().to_string();
    let created = version.created().to_string().replace('Z', ".000Z");
    let siblings: Vec<Value> = regular_files(version)
        .map(|(path, file)| json!({ "rfilename": path, "size": file.len, "blobId": commit_of(&file.blob_hash) }))
        .collect();
    json!({
        "_id": commit(version),
        "id": id,
        "modelId": id,
        "author": id.split('/').next(),
        "sha": commit(version),
        "lastModified": created,
        "createdAt": created,
        "private": false,
        "disabled": false,
        "gated": false,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    })
}

/// What is in a directory of a version, or below it. All of it at once: a manifest is bounded, and clients follow whole URLs only.
fn tree(version: &Version, below: &str, query: &TreeQuery) -> Result<Response, Refusal> {
    let recursive = query.recursive.as_deref().is_some_and(|flag| flag.eq_ignore_ascii_case("true") || flag == "1");
    let prefix = if below.is_empty() { String::new() } else { format!("{}/", below.trim_matches('/')) };
    let mut entries: Vec<Value> = Vec::new();
    let mut directories = std::collections::BTreeSet::new();
    for (path, file) in regular_files(version) {
        let Some(rest) = path.strip_prefix(&prefix) else { continue };
        for (at, _) in rest.match_indices('/').take(if recursive { usize::MAX } else { 1 }) {
            let directory = &path[..prefix.len() + at];
            if directories.insert(directory.to_owned()) {
                entries.push(json!({ "type": "directory", "path": directory, "size": 0, "oid": commit_of(&Hash::of(directory.as_bytes())) }));
            }
        }
        if recursive || !rest.contains('/') {
            entries.push(json!({ "type": "file", "path": path, "size": file.len, "oid": commit_of(&file.blob_hash) }));
        }
    }
    if entries.is_empty() && !below.is_empty() {
        let why = format!("no directory {below:?} in {version}");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", why).missing(NO_ENTRY));
    }
    Ok(Json(entries).into_response())
}

/// The branches of a key: `main`, and each label as a branch and a tag.
fn refs(app: &App, key: &Key) -> Result<Value> {
    let versions = app.node().log(key, &Monitor::none())?;
    let named = |kind: &str, name: &str, manifest: &Hash| json!({ "name": name, "ref": format!("refs/{kind}/{name}"), "targetCommit": commit_of(manifest) });
    let mut branches: Vec<Value> =
        versions.last().map(|latest| named("heads", "main", &latest.manifest)).into_iter().collect();
    let mut tags = Vec::new();
    for version in &versions {
        for label in &version.labels {
            branches.push(named("heads", label.as_str(), &version.manifest));
            tags.push(named("tags", label.as_str(), &version.manifest));
        }
    }
    Ok(json!({ "branches": branches, "tags": tags, "converts": [], "pullRequests": [] }))
}
