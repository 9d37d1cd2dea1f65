//! [`HttpServer`]: listens, bounds what a client can take up, and hands requests to their handlers.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use crate::error::{Error, Result};
use crate::http::answer::Refusal;
use crate::http::guard::{Token, guard};
use crate::http::metrics::{Requests, count};
use crate::http::{api, blobs, hub, metrics, page};
use crate::node::{Health, Node, StatReport};

/// How long a client may take over the head of a request.
const HEAD: Duration = Duration::from_secs(15);

/// Most bytes of a head, and of what is buffered of a connection.
const HEAD_BYTES: usize = 64 << 10;

/// Headers of a request.
const HEADERS: usize = 100;

/// Connections at the same time; more of them wait.
const CONNECTIONS: usize = 256;

/// Requests that are worked on at the same time; more of them are told so.
const REQUESTS: usize = 64;

/// How long totals of the store are good for: they take a walk over its index.
const FRESH: Duration = Duration::from_secs(2);

/// How long the threads of the server get to end.
const GRACE: Duration = Duration::from_secs(2);

/// How an [`HttpServer`] is started.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    address: SocketAddr,
    token: Option<Token>,
    stall: Duration,
    upload_bytes: u64,
}

impl HttpOptions {
    /// Listens on `address`; port 0 takes a free one.
    pub fn new(address: SocketAddr) -> HttpOptions {
        HttpOptions { address, token: None, stall: Duration::from_secs(30), upload_bytes: u64::MAX }
    }

    /// Takes requests with this bearer token only. Without one, only an address of this machine is listened on.
    #[must_use]
    pub fn token(mut self, token: Option<Token>) -> HttpOptions {
        self.token = token;
        self
    }

    /// How long a client may neither send nor take a byte (default 30 s). Never more than 15 s for the head of a request, and so for
    /// a connection that waits for its next one.
    #[must_use]
    pub fn stall(mut self, stall: Duration) -> HttpOptions {
        self.stall = stall;
        self
    }

    /// Most bytes of an upload (default: no bound but the disk's).
    #[must_use]
    pub fn upload_bytes(mut self, bytes: u64) -> HttpOptions {
        self.upload_bytes = bytes;
        self
    }
}

/// A running server. It stops when dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
}

impl HttpServer {
    /// Serves `node`. Returns when it listens.
    ///
    /// Fails with [`Error::Input`] for an address that other machines can reach and no token.
    pub fn start(node: Node, options: HttpOptions) -> Result<HttpServer> {
        if options.token.is_none() && !options.address.ip().is_loopback() {
            return Err(Error::Input {
                path: options.address.to_string().into(),
                why: "other machines reach this address, so a token is needed: set CASKAD_HTTP_TOKEN, or listen on 127.0.0.1".to_owned(),
            });
        }
        let failed = |error| Error::io("listen on", options.address.to_string(), error);
        let listener = TcpListener::bind(options.address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(2 * REQUESTS)
            .thread_name("caskad-http")
            .enable_all()
            .build()
            .map_err(|error| Error::io("start the threads of", "the HTTP server", error))?;
        let entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        drop(entered);
        let (stop, stopped) = watch::channel(false);
        let stall = options.stall;
        runtime.spawn(accept(listener, routes(App::new(node, options)), stall, stopped));
        Ok(HttpServer { address, stop, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(GRACE);
        }
    }
}

fn routes(app: App) -> Router {
    Router::new()
        .merge(api::routes())
        .merge(blobs::routes())
        .merge(hub::routes())
        .merge(metrics::routes())
        .merge(page::routes())
        .fallback(hub::resolve)
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .with_state(app)
}

async fn accept(
    listener: tokio::net::TcpListener,
    router: Router,
    stall: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stopped) = (router.clone(), stopped.clone());
                tokio::spawn(async move {
                    serve(stream, router, stall, stopped).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Too many open files, say: that passes, and a loop without a pause would not help.
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router, stall: Duration, mut stopped: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    // Whoever does not read what was asked for keeps nothing here for long.
    stream.set_write_timeout(Some(stall));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD.min(stall))
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("an HTTP connection ends: {error}");
    }
}

/// What all handlers share.
#[derive(Clone)]
pub(super) struct App(Arc<Shared>);

struct Shared {
    node: Node,
    options: HttpOptions,
    slots: Arc<Semaphore>,
    stat: Mutex<Option<(Instant, StatReport)>>,
    requests: Requests,
}

impl App {
    fn new(node: Node, options: HttpOptions) -> App {
        let slots = Arc::new(Semaphore::new(REQUESTS));
        App(Arc::new(Shared { node, options, slots, stat: Mutex::default(), requests: Requests::default() }))
    }

    pub(super) fn token(&self) -> Option<&Token> {
        self.0.options.token.as_ref()
    }

    pub(super) fn stall(&self) -> Duration {
        self.0.options.stall
    }

    pub(super) fn upload_bytes(&self) -> u64 {
        self.0.options.upload_bytes
    }

    pub(super) fn node(&self) -> &Node {
        &self.0.node
    }

    pub(super) fn requests(&self) -> &Requests {
        &self.0.requests
    }

    /// Has `work` done by a thread that may block.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&App) -> Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let asked = self.start(work)?;
        let gone =
            |_| Refusal::new(hyper::StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request's thread ended early");
        asked.await.map_err(gone)?.map_err(Refusal::from)
    }

    /// As [`ask`](App::ask), without waiting for it.
    pub(super) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce(&App) -> T + Send + 'static,
    ) -> Result<tokio::task::JoinHandle<T>, Refusal> {
        let slot = Arc::clone(&self.0.slots).try_acquire_owned().map_err(|_| Refusal::busy())?;
        let app = self.clone();
        Ok(tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work(&app)
        }))
    }

    /// How the node is.
    pub(super) fn health(&self) -> Result<Health> {
        self.node().health_with(&self.stat()?)
    }

    /// Totals of the store, of this moment or a little earlier.
    pub(super) fn stat(&self) -> Result<StatReport> {
        // Held while they are taken: who comes meanwhile waits for the same answer.
        let mut known = self.0.stat.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((taken, stat)) = known.as_ref()
            && taken.elapsed() < FRESH
        {
            return Ok(StatReport { cache: self.node().store().cache_stats(), ..stat.clone() });
        }
        let stat = self.node().store().stat()?;
        *known = Some((Instant::now(), stat.clone()));
        Ok(stat)
    }
}
