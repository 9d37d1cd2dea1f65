//! How errors are answered: a status that says whose fault it is, and the same words as on the command line.

use std::io;

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::Error;
use crate::hash::Hash;
use crate::http::body::ClientFault;

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) message: String,
    /// The code by which clients of the Hugging Face Hub tell what is missing.
    pub(super) hub_code: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, kind, message: message.into(), hub_code: None }
    }

    /// The same, if something is missing, with the code that says what.
    pub(super) fn missing(self, hub_code: &'static str) -> Refusal {
        let hub_code = (self.status == StatusCode::NOT_FOUND).then_some(hub_code);
        Refusal { hub_code, ..self }
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
            Error::Pinned { .. } => StatusCode::CONFLICT,
            Error::Limit { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::NoSpace { .. } => StatusCode::INSUFFICIENT_STORAGE,
            // The version is stored here, and the node goes on placing it.
            Error::TooFewPeers { .. } => StatusCode::ACCEPTED,
            Error::Network { .. } => StatusCode::BAD_GATEWAY,
            Error::NoPeers { .. } | Error::Unavailable { .. } | Error::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Error::Io { source, .. } => of_io(source),
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!("a request failed: {error}");
        }
        Refusal::new(status, error.kind(), error.to_string())
    }
}

/// The status of an error of input or output: a client that stops sending is not this node's fault, a disk that does is.
fn of_io(error: &io::Error) -> StatusCode {
    match error.get_ref().is_some_and(|cause| cause.is::<ClientFault>()) {
        true if error.kind() == io::ErrorKind::TimedOut => StatusCode::REQUEST_TIMEOUT,
        true if error.kind() == io::ErrorKind::FileTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        true => StatusCode::BAD_REQUEST,
        false => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "kind": self.kind, "message": self.message } });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(code) = self.hub_code {
            headers.insert(HeaderName::from_static("x-error-code"), HeaderValue::from_static(code));
            headers.insert(HeaderName::from_static("x-error-message"), header_value(&self.message));
        }
        response
    }
}

/// `text` as the value of a header; what no header can hold is left out.
pub(super) fn header_value(text: &str) -> HeaderValue {
    let printable: String = text.chars().filter(|c| (' '..='~').contains(c)).collect();
    HeaderValue::try_from(printable).unwrap_or(HeaderValue::from_static(""))
}

/// The tag of what has this hash: the hash itself.
pub(super) fn etag(hash: &Hash) -> String {
    format!("\"{hash}\"")
}
