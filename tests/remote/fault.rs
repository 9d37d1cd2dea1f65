//! [`Faults`]: an object store in memory whose changes can be made to fail, before they are made or after, or to stall.

use std::sync::{Arc, Mutex};

use opendal::Operator;
use opendal::raw::{
    Access, Layer, LayeredAccess, OpDelete, OpList, OpRead, OpWrite, RpDelete, RpList, RpRead, RpWrite, oio,
};
use opendal::services::Memory;
use opendal::{Buffer, Error, ErrorKind, Metadata, Result};

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is made.
    Made,
    /// It is not, and whoever asked is told so.
    Refused,
    /// It is made, and whoever asked is told that it failed.
    Unanswered,
    /// It is not made, and nobody is told anything.
    Stalled,
}

#[derive(Debug)]
struct State {
    made: u64,
    /// How many more are made, and what becomes of those behind.
    then: Option<(u64, Fate)>,
    /// How many meet that fate; `None`: all of them.
    times: Option<u64>,
    /// Errors say that trying again may help.
    temporary: bool,
}

/// A handle on the store in memory. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    operator: Operator,
    state: Arc<Mutex<State>>,
}

impl Faults {
    /// An empty store where nothing fails.
    pub(crate) fn new() -> Faults {
        let state = State { made: 0, then: None, times: None, temporary: false };
        Faults { operator: Operator::new(Memory::default()).unwrap().finish(), state: Arc::new(Mutex::new(state)) }
    }

    /// The client of a store that misbehaves as it is told.
    pub(crate) fn operator(&self) -> Operator {
        self.operator.clone().layer(FaultLayer(Arc::clone(&self.state)))
    }

    /// Changes made so far.
    pub(crate) fn made(&self) -> u64 {
        self.state.lock().unwrap().made
    }

    /// Lets `count` more changes be made; all later ones meet `fate`, for good.
    pub(crate) fn fail_after(&self, count: u64, fate: Fate) {
        let mut state = self.state.lock().unwrap();
        (state.then, state.times, state.temporary) = (Some((count, fate)), None, false);
    }

    /// As [`fail_after`](Faults::fail_after), for `times` changes, with errors that pass.
    pub(crate) fn stumble(&self, count: u64, fate: Fate, times: u64) {
        let mut state = self.state.lock().unwrap();
        (state.then, state.times, state.temporary) = (Some((count, fate)), Some(times), true);
    }

    /// Nothing fails from now on.
    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().then = None;
    }

    /// Loses what is stored at `path`.
    pub(crate) fn lose(&self, path: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { self.operator.delete(path).await.unwrap() });
    }

    /// The paths of all that is stored.
    pub(crate) fn paths(&self) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let listed = runtime.block_on(async { self.operator.list_with("").recursive(true).await.unwrap() });
        listed.into_iter().map(|entry| entry.path().to_owned()).filter(|path| !path.ends_with('/')).collect()
    }
}

impl State {
    fn fate(&mut self) -> Fate {
        let fate = match &mut self.then {
            Some((0, fate)) => match &mut self.times {
                Some(0) => Fate::Made,
                times => {
                    if let Some(left) = times {
                        *left -= 1;
                    }
                    *fate
                }
            },
            Some((left, _)) => {
                *left -= 1;
                Fate::Made
            }
            None => Fate::Made,
        };
        self.made += u64::from(fate == Fate::Made);
        fate
    }
}

async fn meet<T>(state: &Mutex<State>, change: impl Future<Output = Result<T>>) -> Result<T> {
    let (fate, temporary) = {
        let mut state = state.lock().unwrap();
        (state.fate(), state.temporary)
    };
    let failure = Error::new(ErrorKind::Unexpected, "an injected fault").with_temporary(temporary);
    match fate {
        Fate::Made => change.await,
        Fate::Refused => Err(failure),
        Fate::Unanswered => {
            change.await?;
            Err(failure)
        }
        Fate::Stalled => std::future::pending().await,
    }
}

struct FaultLayer(Arc<Mutex<State>>);

#[derive(Debug)]
struct Faulty<A> {
    inner: A,
    state: Arc<Mutex<State>>,
}

struct Change<C> {
    inner: C,
    state: Arc<Mutex<State>>,
}

impl<A: Access> Layer<A> for FaultLayer {
    type LayeredAccess = Faulty<A>;

    fn layer(&self, inner: A) -> Faulty<A> {
        Faulty { inner, state: Arc::clone(&self.0) }
    }
}

impl<A: Access> LayeredAccess for Faulty<A> {
    type Inner = A;
    type Reader = A::Reader;
    type Writer = Change<A::Writer>;
    type Lister = A::Lister;
    type Deleter = Change<A::Deleter>;
    type Copier = A::Copier;

    fn inner(&self) -> &A {
        &self.inner
    }

    async fn read(&self, path: &str, args: OpRead) -> Result<(RpRead, A::Reader)> {
        self.inner.read(path, args).await
    }

    async fn write(&self, path: &str, args: OpWrite) -> Result<(RpWrite, Self::Writer)> {
        let (answer, inner) = self.inner.write(path, args).await?;
        Ok((answer, Change { inner, state: Arc::clone(&self.state) }))
    }

    async fn delete(&self) -> Result<(RpDelete, Self::Deleter)> {
        let (answer, inner) = self.inner.delete().await?;
        Ok((answer, Change { inner, state: Arc::clone(&self.state) }))
    }

    async fn list(&self, path: &str, args: OpList) -> Result<(RpList, A::Lister)> {
        self.inner.list(path, args).await
    }
}

impl<W: oio::Write> oio::Write for Change<W> {
    async fn write(&mut self, bytes: Buffer) -> Result<()> {
        self.inner.write(bytes).await
    }

    async fn close(&mut self) -> Result<Metadata> {
        let Change { inner, state } = self;
        meet(state, inner.close()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

impl<D: oio::Delete> oio::Delete for Change<D> {
    async fn delete(&mut self, path: &str, args: OpDelete) -> Result<()> {
        self.inner.delete(path, args).await
    }

    async fn close(&mut self) -> Result<()> {
        let Change { inner, state } = self;
        meet(state, inner.close()).await
    }
}
