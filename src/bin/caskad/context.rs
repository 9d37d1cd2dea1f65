//! [`Context`]: what every command shares: which store, how its answers look, and the monitor that follows it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caskad::{Error, GetOptions, GetReport, Monitor, Node, Store, StoreOptions, Version, VersionRef};
use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;
use serde::Serialize;

use crate::args::Global;
use crate::console::Console;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::{Bar, Silent};

/// The running node that a command is carried out in.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) node: Node,
}

impl Host {
    /// A command has run: what it changed is to be published.
    pub(crate) fn changed(&self) {
        self.node.wake();
    }
}

pub(crate) struct Context {
    global: Global,
    console: Arc<Console>,
    host: Option<Host>,
    monitor: Monitor,
}

/// What gets are asked of: a node, which fetches what is missing, or a store alone.
pub(crate) enum Face {
    Node(Node),
    Store(Store),
}

impl Context {
    pub(crate) fn new(global: Global, console: Arc<Console>, host: Option<Host>) -> Context {
        let monitor = match (global.quiet, global.json) {
            (false, false) => Monitor::new(Bar::new(Arc::clone(&console))),
            (true, false) => Monitor::new(Silent),
            // Warnings go to the log, which `-v` shows.
            (_, true) => Monitor::none(),
        };
        Context { global, console, host, monitor }
    }

    /// True if the command says where the packs are, which a running node has decided.
    pub(crate) fn chooses_place(&self) -> bool {
        self.global.backend.is_some() || self.global.take_over
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Standard input, until the command is cancelled.
    pub(crate) fn stdin(&self) -> std::io::Result<impl std::io::Read + Send + 'static> {
        self.console.stdin(&self.monitor)
    }

    pub(crate) fn console(&self) -> &Console {
        &self.console
    }

    /// Says on standard error what goes on, where somebody may want to know.
    pub(crate) fn tell(&self, text: &str) {
        if !self.global.quiet && !self.global.json {
            self.monitor.finish();
            self.console.tell(text);
        }
    }

    /// `path` as this process must name it.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        self.console.path(path)
    }

    fn output(&self) -> Output<'_> {
        // A bar that is still there would run into the text.
        self.monitor.finish();
        Output { console: &self.console, json: self.global.json, quiet: self.global.quiet }
    }

    /// See [`Output::list`].
    pub(crate) fn list<T: Serialize + ?Sized>(&self, report: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        self.output().list(report, text)
    }

    /// See [`Output::confirm`].
    pub(crate) fn confirm<T: Serialize + ?Sized>(&self, report: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        self.output().confirm(report, text)
    }

    /// See [`Output::confirm_beside`].
    pub(crate) fn confirm_beside<T: Serialize + ?Sized>(&self, report: &T) -> Result<()> {
        self.output().confirm_beside(report)
    }

    /// The node that the command runs in, if it does.
    pub(crate) fn node(&self) -> Option<&Node> {
        self.host.as_ref().map(|host| &host.node)
    }

    /// The node, for a command that makes no sense without one.
    pub(crate) fn needed_node(&self) -> Result<&Node> {
        self.node().ok_or_else(|| {
            Failure::Usage("no node runs on this store; start one with `caskad node`, in another terminal".to_owned())
        })
    }

    /// What to get versions from.
    pub(crate) fn face(&self) -> Result<Face> {
        match self.node() {
            Some(node) => Ok(Face::Node(node.clone())),
            None => Ok(Face::Store(self.read()?)),
        }
    }

    /// Opens the store, creating it where there is none: for what adds versions.
    pub(crate) fn create(&self) -> Result<Store> {
        match self.node() {
            Some(node) => Ok(node.store().clone()),
            None => Ok(self.options().open(self.store_path()?)?),
        }
    }

    /// As [`create`](Context::create), for what must not run on the default settings in place of those that cannot be read.
    pub(crate) fn create_as_set(&self) -> Result<Store> {
        match self.node() {
            Some(node) => Ok(node.store().clone()),
            None => Ok(self.options().sound_config(true).open(self.store_path()?)?),
        }
    }

    /// As [`create`](Context::create); where the store cannot be written to, it is opened to be read.
    pub(crate) fn create_or_read(&self) -> Result<Store> {
        match self.create() {
            Err(Failure::Library(error)) if refuses_writes(&error) => self.read(),
            opened => opened,
        }
    }

    /// Opens a store that exists, to change it.
    pub(crate) fn change(&self) -> Result<Store> {
        match self.node() {
            Some(node) => Ok(node.store().clone()),
            None => Ok(self.options().existing(true).open(self.store_path()?)?),
        }
    }

    /// Opens a store that exists, to read it: also where it cannot be written to.
    pub(crate) fn read(&self) -> Result<Store> {
        if let Some(node) = self.node() {
            return Ok(node.store().clone());
        }
        let path = self.store_path()?;
        match self.options().existing(true).open(&path) {
            Err(error) if refuses_writes(&error) => {
                tracing::info!("{error}; the store is opened for reading only");
                Ok(self.options().read_only(true).open(&path)?)
            }
            opened => Ok(opened?),
        }
    }

    fn options(&self) -> StoreOptions {
        let mut options = StoreOptions::new().take_over(self.global.take_over);
        if let Some(url) = &self.global.backend {
            options = options.backend_url(url);
        }
        match self.global.threads {
            Some(threads) => options.threads(threads),
            None => options,
        }
    }

    /// The directory of the store.
    pub(crate) fn store_path(&self) -> Result<PathBuf> {
        if let Some(store) = &self.global.store {
            return Ok(store.clone());
        }
        // An empty variable is as good as none.
        if let Some(store) = std::env::var_os("CASKAD_STORE").filter(|store| !store.is_empty()) {
            return Ok(store.into());
        }
        let xdg = Xdg::new().map_err(|_| {
            Failure::Usage("there is no home directory to keep a store in; name one with --store DIR".to_owned())
        })?;
        Ok(xdg.data_dir().join("caskad"))
    }
}

impl Face {
    pub(crate) fn version(&self, wanted: &VersionRef, monitor: &Monitor) -> Result<Version, Error> {
        match self {
            Face::Node(node) => node.version(wanted, monitor),
            Face::Store(store) => store.version(wanted),
        }
    }

    pub(crate) fn get(
        &self,
        wanted: &VersionRef,
        target: &Path,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport, Error> {
        match self {
            Face::Node(node) => node.get(wanted, target, options, monitor),
            Face::Store(store) => store.get(wanted, target, options, monitor),
        }
    }

    pub(crate) fn get_to(
        &self,
        wanted: &VersionRef,
        out: &mut dyn io::Write,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport, Error> {
        match self {
            Face::Node(node) => node.get_to(wanted, out, options, monitor),
            Face::Store(store) => store.get_to(wanted, out, options, monitor),
        }
    }
}

/// Opening writes a little, which must not keep anyone from reading: not on a full disk either.
fn refuses_writes(error: &Error) -> bool {
    match error {
        Error::ReadOnly { .. } | Error::NoSpace { .. } => true,
        Error::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    }
}
