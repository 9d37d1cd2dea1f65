//! `/api/v1`: health, peers, totals, keys, versions and what is in them: what the commands of those names print with `--json`.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::http::answer::{Refusal, etag};
use crate::http::ask::{Path, Query};
use crate::http::server::App;
use crate::key::{Key, VersionRef};
use crate::monitor::Monitor;

const OPENAPI: &str = include_str!("openapi.json");

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/openapi.json", get(|| async { ([(CONTENT_TYPE, "application/json")], OPENAPI) }))
        .route("/api/v1/health", get(async |app| answer(app, App::health).await))
        .route("/api/v1/peers", get(async |app| answer(app, |app| app.node().peers()).await))
        .route("/api/v1/stat", get(async |app| answer(app, App::stat).await))
        .route("/api/v1/keys", get(keys))
        .route("/api/v1/versions/{*key}", get(versions))
        .route("/api/v1/show/{*name}", get(show))
        .route("/api/v1/manifest/{*name}", get(manifest))
        .route("/api/v1/diff", get(diff))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(default)]
    prefix: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compared {
    from: String,
    to: String,
}

async fn answer<T: Serialize + Send + 'static>(
    State(app): State<App>,
    ask: impl FnOnce(&App) -> Result<T> + Send + 'static,
) -> Result<Response, Refusal> {
    let report = app.ask(ask).await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(report)).into_response())
}

async fn keys(app: State<App>, Query(query): Query<Listed>) -> Result<Response, Refusal> {
    answer(app, move |app| app.node().store().keys(&query.prefix)).await
}

async fn versions(app: State<App>, Path(key): Path<String>) -> Result<Response, Refusal> {
    let key: Key = key.parse()?;
    answer(app, move |app| app.node().log(&key, &Monitor::none())).await
}

async fn show(app: State<App>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let wanted: VersionRef = name.parse()?;
    answer(app, move |app| app.node().store().show(&wanted)).await
}

async fn diff(app: State<App>, Query(query): Query<Compared>) -> Result<Response, Refusal> {
    let (from, to): (VersionRef, VersionRef) = (query.from.parse()?, query.to.parse()?);
    answer(app, move |app| app.node().store().diff(&from, &to)).await
}

async fn manifest(State(app): State<App>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let wanted: VersionRef = name.parse()?;
    let version = app.ask(move |app| app.node().version(&wanted, &Monitor::none())).await?;
    let headers: [(HeaderName, String); 2] =
        [(CONTENT_TYPE, "application/cbor".to_owned()), (ETAG, etag(&version.manifest_hash()))];
    Ok((headers, version.manifest().encode()).into_response())
}
