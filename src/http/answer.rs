//! How errors are answered: a status that says whose fault it is, and the same words as on the command line.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::Error;

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, kind, message: message.into() }
    }

    /// The request itself is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "usage", message)
    }

    /// Too much is going on.
    pub(super) fn busy() -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests are under way; try again in a moment")
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = match &error {
            Error::Syntax { .. } | Error::Input { .. } => StatusCode::BAD_REQUEST,
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::ReadOnly { .. } => StatusCode::FORBIDDEN,
            Error::Limit { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::NoSpace { .. } => StatusCode::INSUFFICIENT_STORAGE,
            // The version is stored here, and the node goes on placing it.
            Error::TooFewPeers { .. } => StatusCode::ACCEPTED,
            Error::Network { .. } => StatusCode::BAD_GATEWAY,
            Error::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!("a request failed: {error}");
        }
        Refusal::new(status, error.kind(), error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "kind": self.kind, "message": self.message } });
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
