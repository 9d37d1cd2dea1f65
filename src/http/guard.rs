//! Who may ask: whoever knows the token, or, where there is none, whoever is on this machine.

use std::fmt;
use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use subtle::ConstantTimeEq as _;

use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::http::answer::Refusal;
use crate::http::page;
use crate::http::server::App;

/// Fewest characters of a token.
const TOKEN_CHARACTERS: usize = 16;

/// What a client must know. Kept as a hash, compared in constant time, and never printed.
#[derive(Clone)]
pub struct Token(Hash);

impl Token {
    /// The token `text`: 16 or more visible ASCII characters.
    pub fn new(text: &str) -> Result<Token> {
        match text.len() >= TOKEN_CHARACTERS && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Token(Hash::of(text.as_bytes()))),
            // The text itself is a secret, whatever is wrong with it.
            false => Err(Error::Syntax {
                what: "token",
                input: String::new(),
                why: format!("it needs {TOKEN_CHARACTERS} or more visible ASCII characters"),
            }),
        }
    }

    fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(Hash::of(given.as_bytes()).as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Lets a request through, or refuses it. The page itself holds no secret: it asks for the token.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let allowed = match app.token() {
        Some(token) => {
            page::is_part(request.uri().path()) || bearer(request.headers()).is_some_and(|given| token.is(given))
        }
        None => names_this_machine(request.headers()),
    };
    if allowed {
        return next.run(request).await;
    }
    match app.token() {
        Some(_) => {
            let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", "a bearer token is needed");
            let mut response = refusal.into_response();
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"caskad\""));
            response
        }
        None => {
            let why =
                "without a token, requests are taken by the names of this machine only: localhost, 127.0.0.1, [::1]";
            Refusal::new(StatusCode::FORBIDDEN, "forbidden", why).into_response()
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// A page of some other host, whose name was made to lead here, sends that name along: its requests are not the user's.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_is_compared_whole_and_is_not_printed() {
        for short in ["", "fifteen-letters", "with a space in it, but long", "nicht-ascii-aber-lang-ü"] {
            let refused = Token::new(short).unwrap_err().to_string();
            assert!(short.is_empty() || !refused.contains(short), "{refused}");
        }
        let token = Token::new("0123456789abcdef").unwrap();
        assert!(token.is("0123456789abcdef"));
        assert!(!token.is("0123456789abcde") && !token.is("0123456789abcdeF") && !token.is(""));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn only_the_names_of_this_machine_are_its_own() {
        let named = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            names_this_machine(&headers)
        };
        for own in ["localhost", "LOCALHOST:80", "127.0.0.1:4701", "127.9.9.9", "[::1]:4701"] {
            assert!(named(own), "{own}");
        }
        for foreign in ["evil.example", "localhost.evil.example:80", "10.0.0.1", "[::2]", "127.0.0.1.nip.io", ""] {
            assert!(!named(foreign), "{foreign}");
        }
    }
}
