//! The dashboard: files that are part of the program, so it works without any other host. Its script is in modules, one for each view
//! and each drawing; `dashboard.js` is where they start.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::http::server::App;

const POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, media type and text of each file.
const FILES: [(&str, &str, &str); 11] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page/dashboard.css", CSS, include_str!("page/dashboard.css")),
    ("/page/dashboard.js", SCRIPT, include_str!("page/dashboard.js")),
    ("/page/elements.js", SCRIPT, include_str!("page/elements.js")),
    ("/page/overview.js", SCRIPT, include_str!("page/overview.js")),
    ("/page/plots.js", SCRIPT, include_str!("page/plots.js")),
    ("/page/requests.js", SCRIPT, include_str!("page/requests.js")),
    ("/page/ring.js", SCRIPT, include_str!("page/ring.js")),
    ("/page/tensors.js", SCRIPT, include_str!("page/tensors.js")),
    ("/page/treemap.js", SCRIPT, include_str!("page/treemap.js")),
    ("/page/versions.js", SCRIPT, include_str!("page/versions.js")),
];

/// True for what everybody may see, token or not.
pub(super) fn is_part(path: &str) -> bool {
    FILES.iter().any(|(own, ..)| *own == path)
}

pub(super) fn routes() -> Router<App> {
    FILES.into_iter().fold(Router::new(), |router, (path, media_type, text)| {
        router.route(path, get(move || async move { file(media_type, text) }))
    })
}

fn file(media_type: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("content-security-policy"), POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ];
    (headers, text)
}
