//! [`Target`]: where a get or an export goes. A file is replaced only on request; a pipe or a device is written to, never replaced.

use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use caskad::Error;

use crate::console::Console;
use crate::failure::Result;

/// Bytes that are gathered before they are written to a stream: what a payload comes in is as long already.
const BUFFER_BYTES: usize = 64 << 10;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A file or directory, which appears when it is whole.
    Path(PathBuf),
    /// Bytes are written as they come.
    Stream(Stream),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    /// A pipe or a device with a name.
    Special(PathBuf),
}

impl Target {
    /// The file that `output` means: itself, one called `own_name` in it where it is a directory, or, where it is not given, one
    /// called `own_name` in the current directory.
    pub(crate) fn file(
        output: Option<&Path>,
        own_name: impl FnOnce() -> Result<String>,
        force: bool,
        console: &Console,
    ) -> Result<Target> {
        let path = match output.map(|path| console.path(path)) {
            Some(path) if path.is_dir() => path.join(own_name()?),
            Some(path) => path,
            None => console.path(own_name()?.as_ref()),
        };
        let refuse = |why: &str| Err(Error::Input { path: path.clone(), why: why.to_owned() }.into());
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return refuse("there is no such directory; create it first, or name a file");
        }
        let Ok(there) = fs::symlink_metadata(&path) else { return Ok(Target::Path(path)) };
        let Ok(kind) = fs::metadata(&path).map(|found| found.file_type()) else {
            return refuse("it is a link that leads nowhere; remove it, or name another file");
        };
        if kind.is_fifo() || kind.is_char_device() {
            Ok(Target::Stream(Stream::Special(path)))
        } else if kind.is_dir() {
            refuse("it is a directory; name another place with -o")
        } else if !kind.is_file() {
            refuse("it is a socket or a disk; name a file")
        } else if !force {
            refuse("it exists already; --force replaces it once the new one is whole")
        } else if there.is_symlink() {
            // The link stays, and the file that it points at is replaced.
            let path = fs::canonicalize(&path).map_err(|error| io_error("open", &path, error))?;
            Ok(Target::Path(path))
        } else {
            Ok(Target::Path(path))
        }
    }
}

impl Stream {
    pub(crate) fn open(&self, console: &Console) -> Result<Box<dyn Write>> {
        Ok(match self {
            Stream::Stdout => Box::new(BufWriter::with_capacity(BUFFER_BYTES, console.stdout()?)),
            Stream::Special(path) => {
                let file = OpenOptions::new().write(true).open(path);
                Box::new(BufWriter::with_capacity(BUFFER_BYTES, file.map_err(|error| io_error("open", path, error))?))
            }
        })
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn target(output: &Path, force: bool) -> Result<Target, String> {
        let console = Console::own().unwrap();
        Target::file(Some(output), || Ok("own".to_owned()), force, &console).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn only_force_replaces_a_file_and_nothing_replaces_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, lost) = (dir.path().join("f"), dir.path().join("l"), dir.path().join("d"));
        assert_eq!(target(&file, false), Ok(Target::Path(file.clone())));
        assert_eq!(target(dir.path(), false), Ok(Target::Path(dir.path().join("own"))));
        fs::write(&file, b"x").unwrap();
        symlink("f", &link).unwrap();
        symlink("nowhere", &lost).unwrap();
        assert!(target(&file, false).unwrap_err().contains("--force"));
        assert_eq!(target(&file, true), Ok(Target::Path(file.clone())));
        assert_eq!(target(&link, true), Ok(Target::Path(fs::canonicalize(&file).unwrap())));
        assert!(target(&lost, true).unwrap_err().contains("leads nowhere"));
        assert!(target(&dir.path().join("none/"), true).unwrap_err().contains("no such directory"));
        let null = PathBuf::from("/dev/null");
        assert_eq!(target(&null, true), Ok(Target::Stream(Stream::Special(null.clone()))));
    }
}
