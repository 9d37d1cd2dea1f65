//! [`Remote`]: requests to an object store from threads that may block, bounded in time, repeated where that is safe, and with
//! errors that say what went wrong and hold no secret.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use futures::StreamExt as _;
use opendal::layers::TimeoutLayer;
use opendal::{ErrorKind, Operator};
use tokio::runtime::Runtime;

use crate::backend::object::catalogue::{CATALOGUE_BYTES, Catalogue, Waste, each_part, part_path, runs};
use crate::hash::Hash;

const CATALOGUE: &str = "catalogue";

/// How often a request is repeated, and the longest pause before.
const RETRIES: usize = 4;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long after the first try there is another. Some clients try again for themselves before they give up: those have had their chance.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many timeouts after the first try there is another where the last one met its timeout. A connection that stalls, which no client
/// notices, takes all of the first: there is a second try, on a new connection, and no third, so that a server that has fallen silent is
/// given up after two timeouts.
const STALLS: u32 = 2;

/// Requests of one clearing up that are under way at a time.
const AT_ONCE: usize = 16;

/// Bytes of a part. The client of Redis takes half a second without an answer for a failure, so parts are short there.
const PART_BYTES: usize = 8 << 20;
const SHORT_PART_BYTES: usize = 1 << 20;

/// Parts of an object that may be on their way at a time. After a crash none lies further behind its end, but for as many that are missing.
pub(super) const UPLOADS: usize = 4;

/// An object store, and the runtime that its client needs.
#[derive(Debug)]
pub(super) struct Remote {
    /// With timeouts.
    operator: Operator,
    /// Without, for the catalogue.
    bare: Operator,
    /// How long a request may take.
    timeout: Duration,
    /// [`PATIENCE`], but in tests.
    patience: Duration,
    /// How often it is repeated, and when.
    retries: ExponentialBuilder,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

/// What is known of the catalogue at the remote end.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Its hash, if there is one, and the tag by which the store knows this state of it.
    state: Option<(Hash, Option<String>)>,
    /// Whether this process is the one that writes.
    pub(super) claimed: bool,
    /// The server has refused to make a change on a condition, whatever the condition.
    unconditional: bool,
    /// Why nothing more is written: what the catalogue is by now is not known.
    failed: Option<String>,
}

impl Published {
    pub(super) fn read(read: Option<(Bytes, Option<String>)>) -> Published {
        Published { state: read.map(|(bytes, tag)| (Hash::of(&bytes), tag)), ..Published::default() }
    }
}

/// What a try to replace the catalogue came to.
enum Outcome {
    Replaced(Option<String>),
    /// The condition did not hold: an earlier try of ours was heard, or there is another writer.
    Refused,
    /// Nothing was changed, or it can be repeated without harm.
    Again(io::Error),
    /// Nothing was changed: the server knows of no conditions.
    Unconditional(io::Error),
    /// A late request might still change it.
    Unknown(io::Error),
}

impl Remote {
    /// `timeout` bounds a request, and `pause` is the time before it is first repeated.
    pub(super) fn new(operator: Operator, timeout: Duration, pause: Duration) -> io::Result<Remote> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("caskad-backend")
            .enable_all()
            .build()?;
        let retries = ExponentialBuilder::new().with_max_times(RETRIES).with_min_delay(pause).with_jitter();
        let timeouts = TimeoutLayer::new().with_timeout(timeout).with_io_timeout(timeout);
        Ok(Remote {
            operator: operator.clone().layer(timeouts),
            bare: operator,
            timeout,
            patience: PATIENCE,
            retries: retries.with_max_delay(LONGEST_PAUSE),
            runtime: Some(runtime),
        })
    }

    /// Asks the store for something, and again where that may help.
    fn ask<T, F>(
        &self,
        request: impl FnMut() -> F + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send + 'static
    where
        T: Send + 'static,
        F: Future<Output = opendal::Result<T>> + Send + 'static,
    {
        let (begun, patience) = (Instant::now(), self.patience);
        let if_stalled = patience.max(self.timeout.saturating_mul(STALLS));
        let again = move |error: &opendal::Error| {
            error.is_temporary() && begun.elapsed() < if has_stalled(error) { if_stalled } else { patience }
        };
        let repeated = request.retry(self.retries).when(again);
        let told = repeated.notify(|error: &opendal::Error, pause| {
            tracing::info!("a request is repeated in {pause:?}: {}", error.message());
        });
        async move { told.await.map_err(failure) }
    }

    /// Most bytes of a part.
    pub(super) fn part_bytes(&self) -> usize {
        if self.bare.info().scheme() == "redis" { SHORT_PART_BYTES } else { PART_BYTES }
    }

    /// Runs `future` to its end, whatever thread this is.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.spawn(async move {
            let _ = sender.send(future.await);
        });
        receiver.recv().map_err(|_| io::Error::other("the backend's runtime has ended"))
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(future);
        }
    }

    /// The catalogue's bytes, and its tag.
    pub(super) fn read_catalogue(&self) -> io::Result<Option<(Bytes, Option<String>)>> {
        let operator = self.operator.clone();
        let read = self.ask(move || {
            let operator = operator.clone();
            async move {
                let found = match operator.stat(CATALOGUE).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    found => found?,
                };
                if found.content_length() > CATALOGUE_BYTES {
                    let why = format!("the catalogue has {} bytes, too many", found.content_length());
                    return Err(opendal::Error::new(ErrorKind::Unexpected, why));
                }
                let tag = found.etag().map(str::to_owned);
                // With the tag as a condition where there is one: both are then of one state.
                let bytes = match &tag {
                    Some(tag) if operator.info().full_capability().read_with_if_match => {
                        operator.read_with(CATALOGUE).if_match(tag).await
                    }
                    _ => operator.read(CATALOGUE).await,
                };
                Ok(Some((bytes?.to_bytes(), tag)))
            }
        });
        self.wait(read)?
    }

    /// True if there are parts, as far as this store can tell.
    pub(super) fn holds_parts(&self) -> io::Result<bool> {
        let operator = self.operator.clone();
        if !operator.info().full_capability().list {
            return Ok(false);
        }
        let listed = self.ask(move || {
            let operator = operator.clone();
            async move {
                let mut lister = operator.lister_with("objects/").recursive(true).await?;
                while let Some(entry) = lister.next().await {
                    if entry?.metadata().is_file() {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        });
        self.wait(listed)?
    }

    /// Replaces the catalogue that `published` tells of by `bytes`, or fails without harm to what another writer has made of it.
    pub(super) fn replace_catalogue(&self, published: &mut Published, bytes: Vec<u8>) -> io::Result<()> {
        if let Some(why) = &published.failed {
            return Err(io::Error::other(format!("an earlier change failed: {why}; open the store again")));
        }
        let outcome = self.try_replace(published, Bytes::from(bytes));
        if let Err(error) = &outcome {
            published.failed = Some(error.to_string());
        }
        outcome
    }

    fn try_replace(&self, published: &mut Published, bytes: Bytes) -> io::Result<()> {
        let new = Hash::of(&bytes);
        let capability = self.bare.info().full_capability();
        let can_be_conditional = match &published.state {
            None => capability.write_with_if_not_exists,
            Some((_, tag)) => capability.write_with_if_match && tag.is_some(),
        };
        let mut pauses = self.retries.build();
        let mut refused = false;
        loop {
            let conditional = can_be_conditional && !published.unconditional;
            if !conditional || refused {
                let (now, tag) = match self.read_catalogue()? {
                    None => (None, None),
                    Some((found, tag)) => (Some(Hash::of(&found)), tag),
                };
                if now == Some(new) {
                    published.state = Some((new, tag));
                    return Ok(());
                }
                if refused || now != published.state.as_ref().map(|(hash, _)| *hash) {
                    let why = "another process has changed the catalogue: it has taken the store over; nothing was acknowledged";
                    return Err(io::Error::other(why));
                }
            }
            let tag = published.state.as_ref().and_then(|(_, tag)| tag.clone()).filter(|_| conditional);
            match self.send_catalogue(bytes.clone(), tag, conditional)? {
                Outcome::Replaced(tag) => {
                    published.state = Some((new, tag));
                    return Ok(());
                }
                Outcome::Refused => refused = true,
                Outcome::Unconditional(error) => {
                    tracing::info!(
                        "the catalogue is compared before it is replaced, for the server refuses conditions: {error}"
                    );
                    published.unconditional = true;
                }
                Outcome::Again(error) => match pauses.next() {
                    Some(pause) => {
                        tracing::info!("the catalogue is sent again in {pause:?}: {error}");
                        std::thread::sleep(pause);
                    }
                    None => return Err(error),
                },
                Outcome::Unknown(error) => return Err(error),
            }
        }
    }

    fn send_catalogue(&self, bytes: Bytes, tag: Option<String>, conditional: bool) -> io::Result<Outcome> {
        let (operator, timeout) = (self.bare.clone(), self.timeout);
        self.wait(async move {
            let write = operator.write_with(CATALOGUE, bytes);
            let write = match tag {
                Some(tag) => write.if_match(&tag),
                None if conditional => write.if_not_exists(true),
                None => write,
            };
            match tokio::time::timeout(timeout, write).await {
                Ok(Ok(metadata)) => Outcome::Replaced(metadata.etag().map(str::to_owned)),
                // If it is temporary, another change is on its way, and the condition was not looked at.
                Ok(Err(error)) if error.kind() == ErrorKind::ConditionNotMatch && !error.is_temporary() => {
                    Outcome::Refused
                }
                Ok(Err(error)) if conditional && knows_no_conditions(&error) => Outcome::Unconditional(failure(error)),
                Ok(Err(error)) => {
                    let temporary = error.is_temporary();
                    let error = failure(error);
                    match error.kind() {
                        // The client has lost patience: what it has sent may still arrive.
                        io::ErrorKind::TimedOut if !conditional => Outcome::Unknown(error),
                        _ if temporary => Outcome::Again(error),
                        _ => Outcome::Unknown(error),
                    }
                }
                Err(_) => {
                    let why = format!("no answer within {timeout:?}");
                    let error = io::Error::new(io::ErrorKind::TimedOut, why);
                    if conditional { Outcome::Again(error) } else { Outcome::Unknown(error) }
                }
            }
        })
    }

    /// Uploads a part; `done` is told how that went.
    pub(super) fn upload(&self, path: String, bytes: Bytes, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let operator = self.operator.clone();
        let written = self.ask(move || {
            let (operator, path, bytes) = (operator.clone(), path.clone(), bytes.clone());
            async move { operator.write(&path, bytes).await.map(drop) }
        });
        self.spawn(async move { done(written.await) });
    }

    /// Bytes `range` of a part. Fails with `NotFound` if it is gone.
    pub(super) fn read(&self, path: String, range: Range<u64>) -> io::Result<Bytes> {
        self.wait(self.reading(path, range))?
    }

    /// As [`read`](Remote::read), without waiting for it; `done` is told what came of it.
    pub(super) fn read_later(
        &self,
        path: String,
        range: Range<u64>,
        done: impl FnOnce(io::Result<Bytes>) + Send + 'static,
    ) {
        let read = self.reading(path, range);
        self.spawn(async move { done(read.await) });
    }

    fn reading(&self, path: String, range: Range<u64>) -> impl Future<Output = io::Result<Bytes>> + Send + 'static {
        let operator = self.operator.clone();
        self.ask(move || {
            let (operator, path, range) = (operator.clone(), path.clone(), range.clone());
            async move { Ok(operator.read_with(&path).range(range).await?.to_bytes()) }
        })
    }

    /// Deletes parts; none of them need be there.
    pub(super) fn delete_parts(&self, waste: &Waste) -> io::Result<()> {
        self.wait(self.deletion(waste))?
    }

    /// As [`delete_parts`](Remote::delete_parts), without waiting for the end; `done` is told how that went.
    pub(super) fn delete_parts_later(&self, waste: &Waste, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let deletion = self.deletion(waste);
        self.spawn(async move { done(deletion.await) });
    }

    fn deletion(&self, waste: &Waste) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let parts = each_part(waste.offset, &waste.parts).map(|(offset, _, id)| part_path(&waste.object, offset, id));
        let requests = parts.map(|path| {
            let operator = self.operator.clone();
            self.ask(move || {
                let (operator, path) = (operator.clone(), path.clone());
                async move { operator.delete(&path).await }
            })
        });
        let mut deletions = futures::stream::iter(requests.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        async move {
            while let Some(deleted) = deletions.next().await {
                deleted?;
            }
            Ok(())
        }
    }

    /// What the last writer of `catalogue` had written behind the ends of its objects, and not named. It is found by its names: not
    /// every store can list.
    pub(super) fn orphans(&self, catalogue: &Catalogue) -> Vec<Waste> {
        let written = catalogue.objects.iter().filter(|(_, entry)| entry.writer.epoch == catalogue.epoch);
        let mut found = Vec::new();
        for (name, entry) in written {
            let mut offsets = (entry.len()..).step_by(catalogue.part_bytes as usize);
            // Uploads overtake each other: behind a part that did not arrive there may be some that did.
            loop {
                let offsets: Vec<u64> = offsets.by_ref().take(UPLOADS).collect();
                match self.part_lens(offsets.iter().map(|&offset| part_path(name, offset, entry.writer))) {
                    Ok(lens) if lens.iter().all(Option::is_none) => break,
                    Ok(lens) => found.extend(offsets.iter().zip(lens).filter_map(|(&offset, len)| {
                        Some(Waste { object: name.clone(), offset, parts: runs([(len?, entry.writer)]) })
                    })),
                    Err(error) => {
                        tracing::warn!("{name} is not cleared of what a crash left: {error}");
                        break;
                    }
                }
            }
        }
        found
    }

    /// The lengths of those parts that are there, all asked for at once.
    fn part_lens(&self, paths: impl Iterator<Item = String>) -> io::Result<Vec<Option<u32>>> {
        let requests = paths.map(|path| {
            let operator = self.operator.clone();
            self.ask(move || {
                let (operator, path) = (operator.clone(), path.clone());
                async move {
                    match operator.stat(&path).await {
                        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                        found => Ok(Some(u32::try_from(found?.content_length()).unwrap_or(u32::MAX))),
                    }
                }
            })
        });
        self.wait(futures::future::try_join_all(requests.collect::<Vec<_>>()))?
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Also where a thread of a runtime is the last to hold it, which must not wait.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// Whether it was our timeout that ended a request, in whichever part of it.
fn has_stalled(error: &opendal::Error) -> bool {
    error.message().ends_with("timeout reached")
}

/// How servers that speak S3 refuse a header that they know nothing of.
fn knows_no_conditions(error: &opendal::Error) -> bool {
    error.kind() == ErrorKind::Unsupported || error.message().contains("NotImplemented")
}

/// What `error` comes to, in the words of the store and its client, and the remedy where there is one. Addresses and heads of requests
/// are left out: they are no place to look for secrets in.
fn failure(error: opendal::Error) -> io::Error {
    let mut why = error.message().to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        cause = error.source();
    }
    let (kind, why) = match error.kind() {
        ErrorKind::NotFound => (io::ErrorKind::NotFound, why),
        ErrorKind::PermissionDenied => {
            let why =
                format!("access is denied; look at the credentials in the environment, and what they allow {why}");
            (io::ErrorKind::Other, why.trim_end().to_owned())
        }
        _ if why.contains("NoSuchBucket") => {
            (io::ErrorKind::Other, "there is no such bucket; create it first".to_owned())
        }
        _ if why.contains("timeout") || why.contains("timed out") => {
            (io::ErrorKind::TimedOut, format!("the server does not answer ({why})"))
        }
        _ if why.contains("load signing credential") => {
            let why = "no credentials are found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE";
            (io::ErrorKind::Other, why.to_owned())
        }
        _ => (io::ErrorKind::Other, why),
    };
    io::Error::new(kind, why)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use opendal::services::S3;

    use super::*;

    #[test]
    fn a_request_whose_connection_stalls_is_made_once_more() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            // The first request is taken and never answered.
            let (_stalled, (mut answered, _)) = (listener.accept(), listener.accept().unwrap());
            let _ = answered.read(&mut [0; 4096]);
            answered.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            let _ = answered.read(&mut [0; 4096]);
        });
        let builder = S3::default().bucket("bucket").endpoint(&endpoint).region("us-east-1").skip_signature();
        let operator = Operator::new(builder.disable_config_load()).unwrap().finish();
        let mut remote = Remote::new(operator, Duration::from_millis(500), Duration::from_millis(5)).unwrap();
        // As short next to the timeout as it is in a store.
        remote.patience = Duration::from_millis(100);
        let (sender, done) = mpsc::channel();
        remote.upload("part".to_owned(), Bytes::from_static(b"bytes"), move |outcome| drop(sender.send(outcome)));
        done.recv().unwrap().unwrap();
    }
}
