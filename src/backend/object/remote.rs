//! [`Remote`]: requests to an object store from threads that may block, bounded in time, repeated where that is safe, and with
//! errors that say what went wrong and hold no secret.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use opendal::layers::{RetryEvent, RetryInterceptor, RetryLayer, TimeoutLayer};
use opendal::{ErrorKind, Operator};
use tokio::runtime::Runtime;

use crate::backend::object::catalogue::{CATALOGUE_BYTES, Catalogue, PART_BYTES, Waste, each_part, part_path, runs};
use crate::hash::Hash;

const CATALOGUE: &str = "catalogue";

/// How long a request may take that moves no payload, and one that moves a part.
const SMALL_TIMEOUT: Duration = Duration::from_secs(20);
const PART_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a request is repeated, and the pauses before.
const RETRIES: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Requests of one clearing up that are under way at a time.
const AT_ONCE: usize = 16;

/// Parts that may be on their way at a time: so far behind the end of an object can one lie that a crash left.
pub(super) const UPLOADS: usize = 4;

/// An object store, and the runtime that its client needs.
#[derive(Debug)]
pub(super) struct Remote {
    /// With timeouts and repetitions.
    operator: Operator,
    /// With neither, for the catalogue.
    bare: Operator,
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
    /// A late request might still change it.
    Unknown(io::Error),
}

impl Remote {
    pub(super) fn new(operator: Operator) -> io::Result<Remote> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("caskad-backend")
            .enable_all()
            .build()?;
        let timeouts = TimeoutLayer::new().with_timeout(SMALL_TIMEOUT).with_io_timeout(PART_TIMEOUT);
        let retries =
            RetryLayer::new().with_max_times(RETRIES).with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE);
        let patient = operator.clone().layer(timeouts).layer(retries.with_jitter().with_notify(Repetitions));
        Ok(Remote { operator: patient, bare: operator, runtime: Some(runtime) })
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
        self.wait(async move {
            let found = match operator.stat(CATALOGUE).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                found => found.map_err(failure)?,
            };
            if found.content_length() > CATALOGUE_BYTES {
                let why = format!("the catalogue has {} bytes, the most is {CATALOGUE_BYTES}", found.content_length());
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let tag = found.etag().map(str::to_owned);
            // With the tag as a condition where there is one: both are then of one state.
            let read = match &tag {
                Some(tag) if operator.info().full_capability().read_with_if_match => {
                    operator.read_with(CATALOGUE).if_match(tag).await
                }
                _ => operator.read(CATALOGUE).await,
            };
            Ok(Some((read.map_err(failure)?.to_bytes(), tag)))
        })?
    }

    /// True if there are parts, as far as this store can tell.
    pub(super) fn holds_parts(&self) -> io::Result<bool> {
        let operator = self.operator.clone();
        if !operator.info().full_capability().list {
            return Ok(false);
        }
        self.wait(async move {
            let mut lister = operator.lister_with("objects/").recursive(true).await.map_err(failure)?;
            while let Some(entry) = lister.next().await {
                if entry.map_err(failure)?.metadata().is_file() {
                    return Ok(true);
                }
            }
            Ok(false)
        })?
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
        let conditional = match &published.state {
            None => capability.write_with_if_not_exists,
            Some((_, tag)) => capability.write_with_if_match && tag.is_some(),
        };
        let mut pause = FIRST_PAUSE;
        let mut refused = false;
        for tries_left in (0..=RETRIES).rev() {
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
                Outcome::Again(error) if tries_left > 0 => {
                    tracing::info!("the catalogue is sent again: {error}");
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
                Outcome::Again(error) | Outcome::Unknown(error) => return Err(error),
            }
        }
        Err(io::Error::other("the catalogue was neither replaced nor refused"))
    }

    fn send_catalogue(&self, bytes: Bytes, tag: Option<String>, conditional: bool) -> io::Result<Outcome> {
        let operator = self.bare.clone();
        self.wait(async move {
            let write = operator.write_with(CATALOGUE, bytes);
            let write = match tag {
                Some(tag) => write.if_match(&tag),
                None if conditional => write.if_not_exists(true),
                None => write,
            };
            match tokio::time::timeout(PART_TIMEOUT, write).await {
                Ok(Ok(metadata)) => Outcome::Replaced(metadata.etag().map(str::to_owned)),
                Ok(Err(error)) if error.kind() == ErrorKind::ConditionNotMatch => Outcome::Refused,
                Ok(Err(error)) if error.is_temporary() => Outcome::Again(failure(error)),
                Ok(Err(error)) => Outcome::Unknown(failure(error)),
                Err(_) => {
                    let why = format!("no answer within {} s", PART_TIMEOUT.as_secs());
                    let error = io::Error::new(io::ErrorKind::TimedOut, why);
                    if conditional { Outcome::Again(error) } else { Outcome::Unknown(error) }
                }
            }
        })
    }

    /// Uploads a part; `done` is told how that went.
    pub(super) fn upload(&self, path: String, bytes: Bytes, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let operator = self.operator.clone();
        self.spawn(async move { done(operator.write(&path, bytes).await.map(drop).map_err(failure)) });
    }

    /// Bytes `range` of a part. Fails with `NotFound` if it is gone.
    pub(super) fn read(&self, path: String, range: Range<u64>) -> io::Result<Bytes> {
        let operator = self.operator.clone();
        self.wait(async move {
            let read = operator.read_with(&path).range(range).await.map_err(failure)?;
            Ok(read.to_bytes())
        })?
    }

    /// Deletes parts; none of them need be there.
    pub(super) fn delete_parts(&self, waste: &Waste) -> io::Result<()> {
        self.wait(delete(self.operator.clone(), paths(waste)))?
    }

    /// As [`delete_parts`](Remote::delete_parts), without waiting for the end; `done` is told how that went.
    pub(super) fn delete_parts_later(&self, waste: &Waste, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let deletion = delete(self.operator.clone(), paths(waste));
        self.spawn(async move { done(deletion.await) });
    }

    /// What the last writer of `catalogue` had written behind the ends of its objects, and not named. It is found by its names: not
    /// every store can list.
    pub(super) fn orphans(&self, catalogue: &Catalogue) -> Vec<Waste> {
        let written = catalogue.objects.iter().filter(|(_, entry)| entry.writer.epoch == catalogue.epoch);
        let mut found = Vec::new();
        for (name, entry) in written {
            let mut offset = entry.len();
            // Uploads overtake each other: behind a part that did not arrive there may be some that did.
            let mut misses = 0;
            while misses < UPLOADS {
                match self.part_len(part_path(name, offset, entry.writer)) {
                    Ok(Some(len)) => {
                        misses = 0;
                        found.push(Waste { object: name.clone(), offset, parts: runs([(len, entry.writer)]) });
                    }
                    Ok(None) => misses += 1,
                    Err(error) => {
                        tracing::warn!("{name} is not cleared of what a crash left: {error}");
                        break;
                    }
                }
                offset += PART_BYTES as u64;
            }
        }
        found
    }

    fn part_len(&self, path: String) -> io::Result<Option<u32>> {
        let operator = self.operator.clone();
        self.wait(async move {
            match operator.stat(&path).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                found => Ok(Some(u32::try_from(found.map_err(failure)?.content_length()).unwrap_or(u32::MAX))),
            }
        })?
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Also where a thread of a runtime is the last to hold it, which must not wait.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn paths(waste: &Waste) -> Vec<String> {
    each_part(waste.offset, &waste.parts).map(|(offset, _, id)| part_path(&waste.object, offset, id)).collect()
}

async fn delete(operator: Operator, paths: Vec<String>) -> io::Result<()> {
    let deletions = futures::stream::iter(paths).map(|path| {
        let operator = operator.clone();
        async move { operator.delete(&path).await }
    });
    let mut deletions = deletions.buffer_unordered(AT_ONCE);
    while let Some(deleted) = deletions.next().await {
        deleted.map_err(failure)?;
    }
    Ok(())
}

/// What `error` comes to, in the words of the store and its client. Addresses and heads of requests are left out: they are no place
/// to look for secrets in.
fn failure(error: opendal::Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        _ if error.message().contains("timeout") => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    let mut why = match error.kind() {
        ErrorKind::PermissionDenied => format!("permission denied: {}", error.message()),
        ErrorKind::ConfigInvalid => format!("invalid settings: {}", error.message()),
        _ => error.message().to_owned(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !why.contains(&text) {
            why.push_str(": ");
            why.push_str(&text);
        }
        cause = error.source();
    }
    io::Error::new(kind, why)
}

/// Tells of requests that are repeated.
struct Repetitions;

impl RetryInterceptor for Repetitions {
    fn intercept(&self, event: RetryEvent<'_>) {
        tracing::info!("{} is repeated in {:?}: {}", event.op, event.retry_after, event.err.message());
    }
}
