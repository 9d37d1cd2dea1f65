//! `/blobs/KEY[@V]`: the bytes of a version, read in part or whole, and the next version of a key.

use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;

use crate::error::Error;
use crate::http::answer::{Refusal, etag, header_value};
use crate::http::ask::{Path, Query};
use crate::http::body::{self, BodyReader};
use crate::http::range::{self, Wanted};
use crate::http::server::App;
use crate::key::{PutName, VersionRef, VersionSpec};
use crate::limits;
use crate::monitor::Monitor;
use crate::node::{GetOptions, Part, Payload, PutOptions, Version, check_media_type};

/// What is not written as it is in a path that people read.
const PATH: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`').add(b'{').add(b'}');

/// What is not written as it is in the name of a file to save as (RFC 8187).
const FILE_NAME: &AsciiSet = &PATH
    .add(b'\'')
    .add(b'(')
    .add(b')')
    .add(b'*')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'=')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']');

pub(super) fn routes() -> Router<App> {
    Router::new().route("/blobs/{*name}", get(read).put(write).delete(remove))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    file: Option<String>,
}

/// How the next version is to be stored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// What the file is called; by default the last segment of the key.
    name: Option<String>,
    ttl: Option<String>,
}

async fn read(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(which): Query<Which>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let wanted: VersionRef = name.parse()?;
    let version = app.ask(move |app| app.node().version(&wanted, &Monitor::none())).await?;
    respond(&app, version, which.file.as_deref(), &method, &headers)
}

/// Answers with a file of `version`, or what of it `headers` ask for.
pub(super) fn respond(
    app: &App,
    version: Version,
    file: Option<&str>,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let (path, regular) = version.file(file)?;
    let etag = etag(&regular.blob_hash);
    let mut answer = Response::builder()
        .header(ETAG, &etag)
        .header(LAST_MODIFIED, http_date(version.created().0))
        .header(ACCEPT_RANGES, "bytes")
        .header("x-caskad-version", format!("{}", version.number()))
        .header("x-caskad-manifest", version.manifest_hash().to_string());
    if list(headers, &IF_MATCH).is_some_and(|tags| !matches(&tags, &etag)) {
        return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, "changed", format!("the blob is {etag}")));
    }
    if list(headers, &IF_NONE_MATCH).is_some_and(|tags| matches_weakly(&tags, &etag)) {
        return finished(answer.status(StatusCode::NOT_MODIFIED).body(Body::empty()));
    }
    // A range of another blob than the client has the beginning of would be of no use to it.
    let same = header(headers, &IF_RANGE).is_none_or(|tag| tag == etag);
    let part = match range::wanted(header(headers, &RANGE).filter(|_| same), regular.len) {
        Wanted::Unsatisfiable => {
            let refusal =
                Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", format!("the blob has {} bytes", regular.len));
            let mut response = refusal.into_response();
            response.headers_mut().insert(CONTENT_RANGE, header_value(&format!("bytes */{}", regular.len)));
            return Ok(response);
        }
        Wanted::Whole => {
            answer = answer.header(CONTENT_LENGTH, regular.len);
            Part::File(path.to_owned())
        }
        Wanted::Part(range) => {
            let told = format!("bytes {}-{}/{}", range.start, range.end - 1, regular.len);
            answer = answer.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, told);
            answer = answer.header(CONTENT_LENGTH, range.end - range.start);
            Part::Range { file: Some(path.to_owned()), range: (range.start, Some(range.end)) }
        }
    };
    // Whatever the bytes are, no browser takes them for a page of this node.
    let name = path.rsplit('/').next().unwrap_or(path);
    let answer = answer
        .header(
            CONTENT_TYPE,
            regular.media_type.as_deref().map_or(HeaderValue::from_static("application/octet-stream"), header_value),
        )
        .header(CONTENT_DISPOSITION, format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(name, FILE_NAME)))
        .header("content-security-policy", "default-src 'none'; sandbox")
        .header("x-content-type-options", "nosniff");
    let body = match *method == Method::HEAD {
        true => Body::empty(),
        false => stream(app, version, part)?,
    };
    finished(answer.body(body))
}

/// The bytes of `part`, each verified before it is sent, from this store and its peers.
fn stream(app: &App, version: Version, part: Part) -> Result<Body, Refusal> {
    let (body, mut writer) = body::pipe(app.stall());
    app.start(move |app| {
        let options = GetOptions { part, ..GetOptions::default() };
        if let Err(error) = app.node().send(&version, &mut writer, &options, &Monitor::none()) {
            tracing::info!("{version} was not sent whole: {error}");
            writer.fail("the rest cannot be sent");
        }
    })?;
    Ok(body)
}

async fn write(
    State(app): State<App>,
    Path(name): Path<String>,
    Query(stored): Query<Stored>,
    request: Request,
) -> Result<Response, Refusal> {
    let name: PutName = name.parse()?;
    if request.headers().contains_key(CONTENT_RANGE) {
        return Err(Refusal::usage("a blob is uploaded whole, and not a range of it; leave Content-Range out"));
    }
    let coded = |codings: String| codings.split(',').any(|coding| !matches!(coding.trim(), "" | "identity"));
    if list(request.headers(), &CONTENT_ENCODING).is_some_and(|codings| coded(codings.to_lowercase())) {
        let why = "a blob is stored as it comes; upload it without a Content-Encoding";
        let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "usage", why);
        return Ok(([(ACCEPT_ENCODING, "identity")], refusal).into_response());
    }
    let media_type = list(request.headers(), &CONTENT_TYPE).filter(|given| given != "application/octet-stream");
    media_type.as_deref().map_or(Ok(()), check_media_type)?;
    let options =
        PutOptions { ttl: stored.ttl.as_deref().map(lifetime).transpose()?, media_type, ..PutOptions::default() };
    let file = stored.name.unwrap_or_else(|| name.key.last_segment().to_owned());
    // Conditions count only where the rest is as it should be.
    if matches!(file.as_str(), "" | "." | "..") || file.contains(['/', '\0']) || file.len() > limits::PATH_BYTES {
        let (len, most) = (file.len(), limits::PATH_BYTES);
        return Err(Refusal::usage(format!(
            "no file has that name of {len} bytes: it is one component of a path, of {most} at most"
        )));
    }
    let (stall, most) = (app.stall(), app.upload_bytes());
    let announced = header(request.headers(), &CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if announced.is_some_and(|length: u64| length > most) {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "limit",
            format!("an upload has at most {most} bytes here"),
        ));
    }
    require(&app, &name, request.headers()).await?;
    let report = app
        .ask(move |app| {
            let payload = Payload::reader(file, BodyReader::new(request.into_body(), stall, most));
            app.node().put(&name, payload, &options, &Monitor::none())
        })
        .await?;
    let at = format!("/blobs/{}@{}", utf8_percent_encode(report.key.as_str(), PATH), report.version);
    Ok((StatusCode::CREATED, [(LOCATION, at)], Json(report)).into_response())
}

/// Refuses an upload that is only wanted on a condition which does not hold: `If-Match` and `If-None-Match` are about what a read of
/// the same path would give.
async fn require(app: &App, name: &PutName, headers: &HeaderMap) -> Result<(), Refusal> {
    let (wanted, unwanted) = (list(headers, &IF_MATCH), list(headers, &IF_NONE_MATCH));
    if wanted.is_none() && unwanted.is_none() {
        return Ok(());
    }
    let version = name.label.clone().map_or(VersionSpec::Latest, VersionSpec::Label);
    let there = VersionRef { key: name.key.clone(), version };
    let there = app.ask(move |app| match app.node().version(&there, &Monitor::none()) {
        Err(Error::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    });
    // A version of several files is there, and has no tag of its own: none of the client's is like this.
    let tag = |version: Version| version.file(None).map_or("a directory".to_owned(), |(_, file)| etag(&file.blob_hash));
    let there = there.await?.map(tag);
    let failed = |kind, why| Err(Refusal::new(StatusCode::PRECONDITION_FAILED, kind, why));
    match there {
        None if wanted.is_some() => failed("changed", "there is no such version".to_owned()),
        Some(etag) if wanted.is_some_and(|tags| !matches(&tags, &etag)) => failed("changed", format!("it is {etag}")),
        Some(etag) if unwanted.is_some_and(|tags| matches_weakly(&tags, &etag)) => {
            failed("exists", format!("it is there: {etag}"))
        }
        _ => Ok(()),
    }
}

async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let wanted: VersionRef = name.parse()?;
    if wanted.version == VersionSpec::Latest {
        return Err(Refusal::usage("name the version to remove: KEY@N, KEY@LABEL"));
    }
    let report = app
        .ask(move |app| {
            let removed = app.node().store().remove(&wanted)?;
            app.node().wake();
            Ok(removed)
        })
        .await?;
    Ok(Json(report).into_response())
}

fn lifetime(text: &str) -> Result<Duration, Refusal> {
    let refuse = |why| Refusal::from(Error::Syntax { what: "ttl", input: text.to_owned(), why });
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(refuse("what is stored would have expired at once".to_owned())),
        parsed => parsed.map_err(|why| refuse(why.to_string())),
    }
}

/// True if one of the listed tags is this one, or any will do.
fn matches(tags: &str, etag: &str) -> bool {
    tags.trim() == "*" || tags.split(',').any(|tag| tag.trim() == etag)
}

/// As [`matches`]; a weak tag of ours is as good, for whoever asks whether it has these bytes.
fn matches_weakly(tags: &str, etag: &str) -> bool {
    matches(tags, etag) || tags.split(',').any(|tag| tag.trim().strip_prefix("W/") == Some(etag))
}

/// All values of a header that may come several times, as one list.
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn http_date(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).unwrap_or(std::time::UNIX_EPOCH);
    httpdate::fmt_http_date(time.min(std::time::UNIX_EPOCH + Duration::from_secs(253_402_300_799)))
}

fn finished(answer: Result<Response, axum::http::Error>) -> Result<Response, Refusal> {
    answer.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))
}
