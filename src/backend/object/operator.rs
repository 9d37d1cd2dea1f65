//! From a URL to the client of an object store. What may be in a URL is what may be in a log: credentials come from the environment
//! or the files that the store's other clients read.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;
use std::{env, io};

use opendal::Operator;
use opendal::services::{Redis, S3};
use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The client that `url` asks for: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME` or `redis://HOST:PORT/DB/PREFIX`.
///
/// Credentials of S3 are those that the AWS tools use, from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`) or the files
/// in `~/.aws` (`AWS_PROFILE` chooses). Redis takes `REDIS_USERNAME`, and
/// `REDIS_PASSWORD` or `REDISCLI_AUTH`. Fails with [`Error::Syntax`] for anything else in the URL, a password above all.
pub fn operator(url: &str) -> Result<Operator> {
    let invalid = |why: &str| Error::Syntax { what: "backend", input: hidden(url), why: why.to_owned() };
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| invalid("s3://BUCKET/PREFIX or redis://HOST:PORT/DB is expected"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err(invalid("credentials do not belong in a URL; they are taken from the environment"));
    }
    if authority.is_empty() {
        return Err(invalid(if scheme == "s3" { "it names no bucket" } else { "it names no host" }));
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(invalid("its path has a segment `.` or `..`"));
    }
    let mut settings = Vec::new();
    for setting in query.split('&').filter(|setting| !setting.is_empty()) {
        let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
        let value = percent_decode_str(value).decode_utf8().map_err(|_| invalid("a setting is not UTF-8"))?;
        match (scheme, name) {
            ("s3", "endpoint") if value.contains('@') => {
                return Err(invalid("credentials do not belong in a URL; they are taken from the environment"));
            }
            ("s3", "endpoint" | "region") => settings.push((name, value.into_owned())),
            ("s3", _) => {
                return Err(invalid("its settings are `endpoint` and `region`; credentials come from the environment"));
            }
            _ => return Err(invalid("it takes no settings; credentials come from the environment")),
        }
    }
    let built = match scheme {
        "s3" => {
            let mut builder = S3::default().bucket(authority).root(path);
            for (name, value) in &settings {
                builder = if *name == "endpoint" { builder.endpoint(value) } else { builder.region(value) };
            }
            let has_region = settings.iter().any(|(name, _)| *name == "region")
                || ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|name| env::var_os(name).is_some());
            if !has_region {
                // What servers that know no regions take. Amazon's want theirs to be named.
                builder = builder.region("us-east-1");
            }
            Operator::new(builder).map(|builder| builder.finish())
        }
        "redis" => {
            let (db, prefix) = path.split_once('/').unwrap_or((path, ""));
            let db = if db.is_empty() { "0" } else { db };
            let db: i64 = db
                .parse()
                .ok()
                .filter(|db| *db >= 0)
                .ok_or_else(|| invalid("its path begins with the number of a database"))?;
            reach(authority).map_err(|error| Error::io("connect to", authority, error))?;
            let mut builder = Redis::default().endpoint(&format!("redis://{authority}")).db(db).root(prefix);
            if let Ok(name) = env::var("REDIS_USERNAME") {
                builder = builder.username(&name);
            }
            if let Ok(password) = env::var("REDIS_PASSWORD").or_else(|_| env::var("REDISCLI_AUTH")) {
                builder = builder.password(&password);
            }
            Operator::new(builder).map(|builder| builder.finish())
        }
        _ => return Err(invalid("the backends are s3:// and redis://, and `memory:`; without one packs are files")),
    };
    built.map_err(|error| invalid(error.message()))
}

/// Says at once that nobody listens there, which the client of Redis would take a minute to find out.
fn reach(authority: &str) -> io::Result<()> {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:6379") };
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// `url` without what might be a secret.
fn hidden(url: &str) -> String {
    let (start, query) = url.split_once('?').map_or((url, ""), |(start, _)| (start, "?…"));
    match start.split_once("://") {
        Some((scheme, rest)) => {
            let rest = rest.rsplit_once('@').map_or(rest.to_owned(), |(_, host)| format!("…@{host}"));
            format!("{scheme}://{rest}{query}")
        }
        None => format!("{start}{query}"),
    }
}
