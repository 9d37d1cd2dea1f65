//! [`Output`]: results on standard output, as text or as JSON, and the words for sizes, shares and rates.
//!
//! Names that come out of files and archives are printed with their control characters escaped: a tensor's name must not drive the
//! reader's terminal.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::io;

use caskad::refs::{Meta, MetaValue};
use caskad::{Cost, Hash};
use serde::Serialize;

use crate::console::Console;
use crate::failure::Result;

/// How answers are printed, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output<'c> {
    pub(crate) console: &'c Console,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Output<'_> {
    /// Prints what was asked for: also with `--quiet`.
    pub(crate) fn list<T: Serialize + ?Sized>(self, report: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        match self.json {
            true => self.console.print(&to_json(report)?)?,
            false => self.console.print(&text(report))?,
        }
        Ok(())
    }

    /// Prints what was done, which `--quiet` leaves out.
    pub(crate) fn confirm<T: Serialize + ?Sized>(self, report: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        match self.quiet && !self.json {
            true => Ok(()),
            false => self.list(report, text),
        }
    }

    /// As [`confirm`](Output::confirm) where standard output carries a payload: JSON goes to standard error, text nowhere.
    pub(crate) fn confirm_beside<T: Serialize + ?Sized>(self, report: &T) -> Result<()> {
        if self.json {
            self.console.tell(to_json(report)?.trim_end());
        }
        Ok(())
    }
}

fn to_json<T: Serialize + ?Sized>(report: &T) -> Result<String> {
    let mut text = serde_json::to_string(report).map_err(io::Error::from)?;
    text.push('\n');
    Ok(text)
}

/// `name` without characters that a terminal would obey.
pub(crate) fn plain(name: &str) -> Cow<'_, str> {
    if !name.chars().any(char::is_control) {
        return Cow::Borrowed(name);
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(name.chars().map(escape).collect())
}

/// Bytes, in the largest binary unit that leaves a number of one or more.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `part` of `whole` in percent; nothing of nothing is 0 %.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 };
    format!("{share:.1} %")
}

/// How long it took, and how fast that was.
pub(crate) fn rate(bytes: u64, seconds: f64) -> String {
    let per_second = if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 };
    format!("{seconds:.2} s, {}/s", size(per_second as u64))
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// A manifest hash as it can be written after `@`, short.
pub(crate) fn manifest(hash: &Hash) -> String {
    format!("b3-{}", hash.short())
}

/// Names joined by commas; a dash for none.
pub(crate) fn joined<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for name in names {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{name}");
    }
    if text.is_empty() { "-".to_owned() } else { plain(&text).into_owned() }
}

/// How many chunks each encoding keeps.
pub(crate) fn codecs(cost: &Cost) -> String {
    joined(cost.codecs.iter().map(|(codec, chunks)| format!("{codec} {chunks}")))
}

/// `k=v` for each entry.
pub(crate) fn meta(meta: &Meta) -> String {
    joined(meta.iter().map(|(key, value)| format!("{key}={}", MetaText(value))))
}

struct MetaText<'a>(&'a MetaValue);

impl Display for MetaText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            MetaValue::Text(text) => f.write_str(text),
            MetaValue::Integer(number) => number.fmt(f),
            MetaValue::Float(number) => write!(f, "{number:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_and_never_four_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((percent(1, 8), percent(0, 0)), ("12.5 %".to_owned(), "0.0 %".to_owned()));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("wte\u{1b}[2J\n"), "wte\\u{1b}[2J\\n");
        assert_eq!(joined(["a", "b\u{7}"]), "a, b\\u{7}");
        assert!(matches!(plain("modèle"), Cow::Borrowed(_)));
    }
}
