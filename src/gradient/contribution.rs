//! [`Contribution`]: where the bytes of one worker's gradient are read from. What reads them trusts neither their length nor their content.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::FileEntry;
use crate::monitor::Monitor;
use crate::node::Version;

/// One worker's gradient in a round: a safetensors file that can be read at any offset.
pub trait Contribution: Send + Sync {
    /// What messages call it.
    fn name(&self) -> &str;

    /// Bytes in it.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes from `offset` on. It is asked for what lies within its length only.
    ///
    /// # Errors
    /// Where they cannot be read, all of them.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// Bytes in memory, such as those that a peer has just sent.
#[derive(Debug, Clone)]
pub struct BytesContribution {
    name: String,
    bytes: Vec<u8>,
}

impl BytesContribution {
    /// `bytes`, which messages call `name`.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> BytesContribution {
        BytesContribution { name: name.into(), bytes: bytes.into() }
    }
}

impl Contribution for BytesContribution {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..));
        match rest.and_then(|rest| rest.get(..buffer.len())) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(too_short(&self.name)),
        }
    }
}

/// A file on disk.
#[derive(Debug)]
pub struct FileContribution {
    path: PathBuf,
    name: String,
    file: File,
    len: u64,
}

impl FileContribution {
    /// Opens the file at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<FileContribution> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        let metadata = file.metadata().map_err(|error| Error::io("open", path, error))?;
        if !metadata.is_file() {
            // A pipe can be read once and in order only, and has no length.
            let why = "it is not a file; a contribution is read at many offsets, so store it in one first".to_owned();
            return Err(Error::Input { path: path.to_owned(), why });
        }
        Ok(FileContribution { path: path.to_owned(), name: path.display().to_string(), file, len: metadata.len() })
    }
}

impl Contribution for FileContribution {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => too_short(&self.name),
            _ => Error::io("read", &self.path, error),
        })
    }
}

/// A file of a version in a store. Every byte is verified by hash before it is folded.
#[derive(Debug, Clone)]
pub struct VersionContribution {
    version: Version,
    file: Option<String>,
    name: String,
    len: u64,
}

impl VersionContribution {
    /// The file at the path `file` of `version` (`None`: the only one).
    pub fn new(version: Version, file: Option<&str>) -> Result<VersionContribution> {
        // Whatever is wrong with the path, the version says it.
        version.read_range(file, 0..0)?;
        let entry = match file {
            Some(path) => version.manifest().find_file(path).map(|(_, entry)| entry),
            None => version.manifest().files.first(),
        };
        let len = entry.map_or(0, FileEntry::bytes);
        let name = file.map_or_else(|| version.to_string(), |file| format!("{version}: {file}"));
        Ok(VersionContribution { version, file: file.map(str::to_owned), name, len })
    }
}

impl Contribution for VersionContribution {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        let range = offset..offset.saturating_add(buffer.len() as u64);
        self.version.copy_range(self.file.as_deref(), range, &mut buffer, &Monitor::none())?;
        if buffer.is_empty() { Ok(()) } else { Err(too_short(&self.name)) }
    }
}

fn too_short(name: &str) -> Error {
    Error::Input { path: name.into(), why: "it has become shorter since it was opened; try again".to_owned() }
}
