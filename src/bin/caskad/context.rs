//! [`Context`]: what every command shares: which store, how its answers look, and the monitor that follows it.

use std::io;
use std::path::PathBuf;

use caskad::{Error, Monitor, Store, StoreOptions};
use etcetera::BaseStrategy;
use etcetera::base_strategy::Xdg;
use serde::Serialize;

use crate::args::Global;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::{Bar, Silent};

pub(crate) struct Context {
    global: Global,
    monitor: Monitor,
}

impl Context {
    pub(crate) fn new(global: Global) -> Context {
        let monitor = match (global.quiet, global.json) {
            (false, false) => Monitor::new(Bar::default()),
            (true, false) => Monitor::new(Silent),
            // Warnings go to the log, which `-v` shows.
            (_, true) => Monitor::none(),
        };
        Context { global, monitor }
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn output(&self) -> Output {
        // A bar that is still there would run into the text.
        self.monitor.finish();
        Output { json: self.global.json, quiet: self.global.quiet }
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

    /// Opens the store, creating it where there is none: for what adds versions.
    pub(crate) fn create(&self) -> Result<Store> {
        Ok(self.options().open(self.store_path()?)?)
    }

    /// Opens a store that exists, to change it.
    pub(crate) fn change(&self) -> Result<Store> {
        Ok(self.options().existing(true).open(self.store_path()?)?)
    }

    /// Opens a store that exists, to read it: also where it cannot be written to.
    pub(crate) fn read(&self) -> Result<Store> {
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
        let options = StoreOptions::new();
        match self.global.threads {
            Some(threads) => options.threads(threads),
            None => options,
        }
    }

    fn store_path(&self) -> Result<PathBuf> {
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

/// Opening writes a little, which must not keep anyone from reading: not on a full disk either.
fn refuses_writes(error: &Error) -> bool {
    match error {
        Error::ReadOnly { .. } | Error::NoSpace { .. } => true,
        Error::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    }
}
