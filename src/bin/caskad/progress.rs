//! [`Bar`]: a progress bar on standard error, when that is a terminal; and [`Silent`], for those who want none.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caskad::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::Console;
use crate::failure::Failure;

const KNOWN: &str =
    "{msg:>8} {bar:32} {percent:>3} %  {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
const UNKNOWN: &str = "{msg:>8} {spinner} {binary_bytes}, {binary_bytes_per_sec}";

/// Shows how far an operation is.
#[derive(Debug)]
pub(crate) struct Bar {
    console: Arc<Console>,
    bar: Mutex<Option<ProgressBar>>,
}

impl Bar {
    pub(crate) fn new(console: Arc<Console>) -> Bar {
        Bar { console, bar: Mutex::default() }
    }

    fn current(&self) -> Option<ProgressBar> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, bytes: u64) {
        let Some(terminal) = self.console.terminal() else { return };
        let (bar, template) =
            if bytes == 0 { (ProgressBar::new_spinner(), UNKNOWN) } else { (ProgressBar::new(bytes), KNOWN) };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_draw_target(terminal);
        bar.set_style(style);
        bar.set_message(what.to_owned());
        if bytes == 0 {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        let earlier = self.bar.lock().unwrap_or_else(PoisonError::into_inner).replace(bar);
        if let Some(earlier) = earlier {
            earlier.finish_and_clear();
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = self.current() {
            bar.inc(bytes);
        }
    }

    fn warn(&self, message: &str) {
        match self.current() {
            Some(bar) => bar.suspend(|| Failure::warn(message, &self.console)),
            None => Failure::warn(message, &self.console),
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

/// Shows nothing, warnings included.
#[derive(Debug)]
pub(crate) struct Silent;

impl Progress for Silent {}
