//! The side of the node: runs what clients ask for, each on a thread of its own.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use caskad::Monitor;
use clap::Parser as _;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{MAGIC, REQUEST_BYTES, Request, short_name, socket};
use crate::args::Cli;
use crate::console::Console;
use crate::context::{Context, Host};
use crate::failure::{EXIT_ERROR, Failure};

/// Commands that run at the same time; the others wait for their turn.
const COMMANDS: usize = 64;

/// Clients that are heard at the same time; the others wait to be.
const CLIENTS: usize = 512;

/// How soon a wait ends for a client that is gone.
const LOOK_UP: Duration = Duration::from_millis(100);

/// How long a client may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(10);

/// How long running commands get to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Runs commands for clients until it is stopped.
pub(crate) struct Server {
    directory: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    host: Host,
    stopping: AtomicBool,
    /// Clients that are heard.
    clients: AtomicUsize,
    /// Commands that run.
    running: Mutex<usize>,
    /// One has ended.
    freed: Condvar,
    /// The monitors of running commands, to cancel them.
    monitors: Mutex<Vec<Monitor>>,
    ended: Condvar,
}

impl Server {
    /// Listens on the socket of the store in `directory`, which `host` has open: so whoever left a socket there is gone.
    pub(crate) fn start(directory: &Path, host: Host) -> io::Result<Server> {
        let path = socket(directory);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_directory, name) = short_name(directory)?;
        // From the first moment on, nobody else may connect.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(name);
        rustix::process::umask(before);
        let listener = listener?;
        let shared = Arc::new(Shared {
            host,
            stopping: AtomicBool::new(false),
            clients: AtomicUsize::new(0),
            running: Mutex::default(),
            freed: Condvar::new(),
            monitors: Mutex::default(),
            ended: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::Builder::new().name("caskad-control".to_owned()).spawn(move || accept(&listener, &accepting))?;
        Ok(Server { directory: directory.to_owned(), shared })
    }

    /// Takes no more commands, stops those that run, and removes the socket.
    pub(crate) fn stop(self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = std::fs::remove_file(socket(&self.directory));
        let mut monitors = self.shared.monitors.lock().unwrap_or_else(PoisonError::into_inner);
        monitors.iter().for_each(Monitor::cancel);
        let until = Instant::now() + GRACE;
        while self.shared.clients.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now()).min(LOOK_UP);
            monitors = self.shared.ended.wait_timeout(monitors, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut stream) = stream else {
            // No descriptors left, say: others will be closed.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        while shared.clients.load(Ordering::SeqCst) >= CLIENTS && !shared.stopping.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK_UP);
        }
        shared.clients.fetch_add(1, Ordering::SeqCst);
        let own = Arc::clone(shared);
        let started = std::thread::Builder::new().name("caskad-command".to_owned()).spawn(move || {
            let code = serve(&mut stream, &own).unwrap_or_else(|error| {
                tracing::debug!("a client is let go: {error}");
                EXIT_ERROR
            });
            let _ = stream.write_all(&[code]);
            own.clients.fetch_sub(1, Ordering::SeqCst);
            own.ended.notify_all();
        });
        if started.is_err() {
            shared.clients.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A command's turn to run.
struct Turn<'s>(&'s Shared);

impl<'s> Turn<'s> {
    /// Waits for it, as long as whoever `monitor` belongs to does.
    fn wait(shared: &'s Shared, monitor: &Monitor) -> caskad::Result<Turn<'s>> {
        let mut running = shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= COMMANDS {
            monitor.check()?;
            running = shared.freed.wait_timeout(running, LOOK_UP).unwrap_or_else(PoisonError::into_inner).0;
        }
        *running += 1;
        Ok(Turn(shared))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

/// Runs the command of one client; its exit code.
fn serve(stream: &mut UnixStream, shared: &Arc<Shared>) -> io::Result<u8> {
    let refuse = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    let peer = rustix::net::sockopt::socket_peercred(&*stream)?;
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        return Err(refuse("it is of another user"));
    }
    stream.set_read_timeout(Some(REQUEST))?;
    let (files, len) = receive_header(stream)?;
    let mut request = vec![0; len];
    stream.read_exact(&mut request)?;
    let request: Request = serde_json::from_slice(&request)?;
    let arguments = request.arguments.into_iter().map(OsString::from_vec);
    let directory = PathBuf::from(OsString::from_vec(request.directory));
    if !directory.is_absolute() {
        return Err(refuse("its directory is not absolute"));
    }
    let console = Arc::new(Console::of_another(files, directory));
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            console.tell(&error.render().to_string());
            return Ok(EXIT_ERROR);
        }
    };
    let json = cli.global.json;
    let context = Context::new(cli.global, Arc::clone(&console), Some(shared.host.clone()));
    let monitor = context.monitor().clone();
    shared.monitors.lock().unwrap_or_else(PoisonError::into_inner).push(monitor.clone());
    if shared.stopping.load(Ordering::SeqCst) {
        monitor.cancel();
    }
    stream.set_read_timeout(None)?;
    let left = Arc::<AtomicBool>::default();
    watch(stream.try_clone()?, monitor.clone(), Arc::clone(&left))?;
    // The client waits for an answer, whatever becomes of this thread. What the command shares with others is consistent at all times.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _turn = if cli.command.takes_turns() { Some(Turn::wait(shared, &monitor)?) } else { None };
        cli.command.run(&context)
    }));
    let outcome = outcome.unwrap_or(Err(Failure::Panicked));
    context.monitor().finish();
    shared.host.changed();
    shared.monitors.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !other.is(&monitor));
    Ok(match outcome {
        Ok(exit) => exit.code(),
        // Its user has asked for nothing.
        Err(failure) if failure.is_interruption() && !left.load(Ordering::SeqCst) => {
            Failure::NodeEnded.report(json, &console)
        }
        Err(failure) => failure.report(json, &console),
    })
}

/// Stops the command when the client says so, or is gone, and notes that in `left`.
fn watch(mut stream: UnixStream, monitor: Monitor, left: Arc<AtomicBool>) -> io::Result<()> {
    let watching = std::thread::Builder::new().name("caskad-client".to_owned());
    watching.spawn(move || {
        let mut byte = [0];
        let _ = stream.read(&mut byte);
        left.store(true, Ordering::SeqCst);
        monitor.cancel();
    })?;
    Ok(())
}

/// Reads the header of a request and the files that come with it.
fn receive_header(stream: &mut UnixStream) -> io::Result<([File; 3], usize)> {
    let refuse = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut header = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&*stream, &mut [IoSliceMut::new(&mut header)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors.map(File::from));
        }
    }
    stream.read_exact(header.get_mut(received.bytes..).unwrap_or_default())?;
    let [a, b, c, d, len @ ..] = header;
    let len = u32::from_le_bytes(len) as usize;
    if [a, b, c, d] != MAGIC || len > REQUEST_BYTES {
        return Err(refuse("it does not start as a request does"));
    }
    let files = files.try_into().map_err(|_| refuse("it did not hand over three files"))?;
    Ok((files, len))
}
