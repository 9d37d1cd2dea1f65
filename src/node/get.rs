//! Get: key → ref → manifest → per chunk: cache, packs → decode → hash check → write in place → rename into place.
//!
//! What is restored grows under a temporary name next to its target, which tells the version, so that a get that was interrupted
//! finds it and goes on: chunks that already lie there are verified where they are. It takes the target's name only when whole.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::backend::sync_directory;
use crate::chunk::{ChunkRef, Span};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::key::VersionRef;
use crate::manifest::{Content, FileKind, SegmentEntry};
use crate::monitor::Monitor;
use crate::node::fetch::{Fetcher, Sources};
use crate::node::partial;
use crate::node::report::GetReport;
use crate::node::store::Store;
use crate::node::threads::in_parallel;
use crate::node::version::Version;

/// Which part of a version is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// One file of a directory.
    File(String),
    /// One tensor.
    Tensor {
        /// Its name.
        name: String,
        /// The file that has it, where several have one of that name.
        file: Option<String>,
        /// Whether to wrap the tensor into a safetensors file of its own; its raw bytes otherwise.
        as_safetensors: bool,
    },
    /// Some bytes of a file.
    Range {
        /// The file; `None` for the only one.
        file: Option<String>,
        /// Its bytes; an open end is the file's.
        range: (u64, Option<u64>),
    },
}

/// How a version is restored.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GetOptions {
    /// Which part of it.
    pub part: Part,
    /// Whether to sync what was restored before it takes its name. By default not: the store is the durable copy.
    pub sync: bool,
}

/// Most bytes that are written at once, unless one chunk is longer.
const WRITE_BYTES: u64 = 1 << 20;

impl Store {
    /// Restores `wanted` as `target`: a file, or a directory that does not exist yet or is empty.
    ///
    /// Every chunk is verified before it is written, and `target` appears only when all of it is there. After an error nothing is left;
    /// after a cancelled or killed get, the next one to the same target goes on where it stopped.
    pub fn get(
        &self,
        wanted: &VersionRef,
        target: impl AsRef<Path>,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport> {
        self.version(wanted)?.restore(target, options, monitor)
    }

    /// Writes `wanted` to `out`, in order, each chunk verified before it is written.
    pub fn get_to(
        &self,
        wanted: &VersionRef,
        out: &mut dyn Write,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport> {
        self.version(wanted)?.restore_to(out, options, monitor)
    }
}

impl Version {
    /// See [`Store::get`].
    pub(super) fn restore(
        self,
        target: impl AsRef<Path>,
        options: &GetOptions,
        monitor: &Monitor,
    ) -> Result<GetReport> {
        let get = Get::new(self, options, monitor);
        let bytes = match (&options.part, get.version.manifest.single) {
            (Part::Whole, true) => get.restore_file(0, target.as_ref())?,
            (Part::File(path), _) => get.restore_file(get.version.file_index(Some(path))?, target.as_ref())?,
            (Part::Whole, false) => get.restore_directory(target.as_ref())?,
            (Part::Tensor { .. } | Part::Range { .. }, _) => get.restore_part(target.as_ref())?,
        };
        Ok(get.finish(bytes))
    }

    /// See [`Store::get_to`].
    pub(super) fn restore_to(self, out: &mut dyn Write, options: &GetOptions, monitor: &Monitor) -> Result<GetReport> {
        let get = Get::new(self, options, monitor);
        let bytes = get.stream(out, &|error| Error::io("write", "the output", error))?;
        Ok(get.finish(bytes))
    }
}

/// One get under way.
struct Get<'a> {
    version: Version,
    options: &'a GetOptions,
    monitor: &'a Monitor,
    sources: Sources,
    started: Instant,
}

impl<'a> Get<'a> {
    fn new(version: Version, options: &'a GetOptions, monitor: &'a Monitor) -> Get<'a> {
        Get { version, options, monitor, sources: Sources::default(), started: Instant::now() }
    }

    fn finish(self, bytes: u64) -> GetReport {
        self.monitor.finish();
        GetReport {
            bytes,
            manifest: self.version.entry.manifest,
            version: self.version.number,
            key: self.version.key,
            seconds: self.started.elapsed().as_secs_f64(),
            from_cache: self.sources.cache.into_inner(),
            from_store: self.sources.store.into_inner(),
            resumed: self.sources.resumed.into_inner(),
            from_peers: 0,
            peer_deltas: 0,
            lookups: 0,
            fetch_seconds: 0.0,
            received_bytes: 0,
        }
    }

    /// Writes the wanted part to `out` and says how many payload bytes that was.
    fn stream(&self, out: &mut dyn Write, write_error: &dyn Fn(io::Error) -> Error) -> Result<u64> {
        let version = &self.version;
        let (file, span, header) = match &self.options.part {
            Part::Whole if version.manifest.single => (0, None, Vec::new()),
            Part::Whole => {
                let why = "it is a directory, which cannot be written to standard output, nor to any one stream; --file names one of its \
                           files, and -o DIR restores all of them";
                return Err(Error::Input { path: version.to_string().into(), why: why.to_owned() });
            }
            Part::File(path) => (version.file_index(Some(path))?, None, Vec::new()),
            Part::Range { file, range: (start, end) } => {
                let index = version.file_index(file.as_deref())?;
                let end = end.map_or_else(|| version.regular(index).map(|file| file.len), Ok)?;
                (index, Some(version.checked_range(index, &Range { start: *start, end })?), Vec::new())
            }
            Part::Tensor { name, file, as_safetensors } => {
                let (index, segment) = version.find_tensor(file.as_deref(), name)?;
                let header = if *as_safetensors { safetensors_header(segment)? } else { Vec::new() };
                (index, Some(segment.span), header)
            }
        };
        let span = span.map_or_else(|| version.regular(file).map(|file| Span::new(0, file.len)), Ok)?;
        self.monitor.begin("get", span.len);
        let keep = matches!(self.options.part, Part::Tensor { .. } | Part::Range { .. });
        out.write_all(&header).map_err(write_error)?;
        version.copy_span(file, span, out, write_error, &self.sources, keep, self.monitor)?;
        out.flush().map_err(write_error)?;
        Ok(span.len + header.len() as u64)
    }

    /// Restores a tensor or a range through a temporary file without a name of its own.
    fn restore_part(&self, target: &Path) -> Result<u64> {
        refuse_directory(target)?;
        let failed = |error| Error::io("write", target, error);
        let mut temporary = tempfile::NamedTempFile::new_in(parent(target)).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        let bytes = self.stream(&mut out, &failed)?;
        drop(out);
        partial::finish(temporary.as_file(), false).map_err(failed)?;
        if self.options.sync {
            temporary.as_file().sync_all().map_err(failed)?;
        }
        temporary.persist(target).map_err(|error| failed(error.error))?;
        self.sync_parent(target)?;
        Ok(bytes)
    }

    fn restore_file(&self, file: usize, target: &Path) -> Result<u64> {
        refuse_directory(target)?;
        let regular = self.version.regular(file)?;
        self.monitor.begin("get", regular.len);
        let partial = self.partial(target)?;
        let opened = partial::open_file(&partial, false)?;
        let restored = self.fill(file, &partial, &opened).and_then(|()| self.rename(&partial, target));
        restored.inspect_err(|error| self.clean_up(error, &partial))?;
        Ok(regular.len)
    }

    fn restore_directory(&self, target: &Path) -> Result<u64> {
        match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(input(target, "the directory is not empty; choose a new one, so that nothing is mixed up"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(input(target, "it is a file, and the version is a directory; choose a new name"));
            }
            Err(error) => return Err(Error::io("open", target, error)),
        }
        let bytes = self.version.bytes();
        self.monitor.begin("get", bytes);
        let partial = self.partial(target)?;
        fs::create_dir_all(parent(target)).map_err(|error| Error::io("create", parent(target), error))?;
        partial::open_directory(&partial)?;
        let restored = self.fill_directory(&partial).and_then(|()| self.rename(&partial, target));
        restored.inspect_err(|error| self.clean_up(error, &partial))?;
        Ok(bytes)
    }

    fn fill_directory(&self, partial: &Path) -> Result<()> {
        let create = |path: &Path| fs::create_dir_all(path).map_err(|error| Error::io("create", path, error));
        let mut directories = BTreeSet::from([partial.to_owned()]);
        for (index, entry) in self.version.manifest.files.iter().enumerate() {
            let path = partial.join(&entry.path);
            let directory = if entry.kind == FileKind::Directory { &path } else { parent(&path) };
            create(directory)?;
            directories.extend(directory.ancestors().take_while(|path| path.starts_with(partial)).map(Path::to_owned));
            match &entry.kind {
                FileKind::Directory => {}
                FileKind::Regular(_) => self.fill(index, &path, &partial::open_file(&path, true)?)?,
                FileKind::Symlink { target } => match std::os::unix::fs::symlink(target, &path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    made => made.map_err(|error| Error::io("create", &path, error))?,
                },
            }
        }
        for directory in directories.iter().filter(|_| self.options.sync) {
            sync_directory(directory).map_err(|error| Error::io("sync", directory, error))?;
        }
        let finished = File::open(partial).and_then(|directory| {
            partial::finish(&directory, true)?;
            if self.options.sync { directory.sync_all() } else { Ok(()) }
        });
        finished.map_err(|error| Error::io("write", partial, error))
    }

    /// Fills `file`, which is at `path`, with a file of the version; what an interrupted get left there is verified and kept.
    fn fill(&self, index: usize, path: &Path, file: &File) -> Result<()> {
        let failed = |error| Error::io("write", path, error);
        let regular = self.version.regular(index)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(input(
                    path,
                    "another get is restoring to the same place; wait for it, or choose another target",
                ));
            }
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let left = file.metadata().map_err(failed)?.len();
        if left != regular.len {
            file.set_len(regular.len).map_err(failed)?;
        }
        match &regular.content {
            Content::Inline(bytes) => {
                file.write_all_at(bytes, 0).map_err(failed)?;
                self.monitor.advance(regular.len);
            }
            Content::Chunks => self.fill_chunks(index, file, left, &failed)?,
        }
        if self.options.sync {
            file.sync_all().map_err(failed)?;
        }
        // Last, and in no time: with a mode that lets others write to it no get would go on with it.
        partial::finish(file, regular.executable).map_err(failed)?;
        if self.options.sync {
            file.sync_all().map_err(failed)?;
        }
        Ok(())
    }

    /// Several threads each take the next few chunks, verify them, and write them in their place, at once: the threads wait for each
    /// other at every write to the same file. `left` bytes may already be there.
    fn fill_chunks(
        &self,
        index: usize,
        file: &File,
        left: u64,
        failed: &(dyn Fn(io::Error) -> Error + Sync),
    ) -> Result<()> {
        let range = self.version.manifest.file_chunks(index);
        let chunks = self.version.manifest.chunks.get(range).unwrap_or_default();
        let threads = chunks.len().div_ceil(4).min(self.version.store.threads().get());
        let batches = batches(chunks, threads);
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let mut fetcher = Fetcher::new(&self.version.store, &self.sources, false);
            let mut buffer = Vec::new();
            while let Some((offset, chunks)) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                buffer.resize(chunks.iter().map(|chunk| chunk.len as usize).sum(), 0);
                let (mut rest, mut at, mut whole) = (buffer.as_mut_slice(), *offset, true);
                for chunk in *chunks {
                    self.monitor.check()?;
                    let (plain, behind) = std::mem::take(&mut rest).split_at_mut(chunk.len as usize);
                    let there = at + u64::from(chunk.len) <= left
                        && file.read_exact_at(plain, at).is_ok()
                        && Hash::of(plain) == chunk.hash;
                    if there {
                        self.sources.resumed.fetch_add(1, Ordering::Relaxed);
                    } else {
                        fetcher.fetch(chunk, plain)?;
                        whole = false;
                    }
                    at += u64::from(chunk.len);
                    rest = behind;
                }
                if !whole {
                    file.write_all_at(&buffer, *offset).map_err(failed)?;
                }
                self.monitor.advance(buffer.len() as u64);
            }
            Ok(())
        };
        // A thread that fails takes the work away from the others.
        let work = || work().inspect_err(|_| next.store(batches.len(), Ordering::Relaxed));
        in_parallel(threads, work)
    }

    /// The name that `target` grows under: it tells the version, so that only its own get resumes it.
    fn partial(&self, target: &Path) -> Result<PathBuf> {
        let name =
            target.file_name().ok_or_else(|| input(target, "it has no file name; name the file to restore to"))?;
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(format!(".caskad-{}", self.version.entry.manifest.short()));
        Ok(parent(target).join(partial))
    }

    fn rename(&self, partial: &Path, target: &Path) -> Result<()> {
        fs::rename(partial, target).map_err(|error| Error::io("rename to", target, error))?;
        self.sync_parent(target)
    }

    fn sync_parent(&self, target: &Path) -> Result<()> {
        match self.options.sync {
            true => sync_directory(parent(target)).map_err(|error| Error::io("sync", parent(target), error)),
            false => Ok(()),
        }
    }

    /// After a cancelled get the partial restore stays, for the next one to go on. After an error it would only be in the way.
    fn clean_up(&self, error: &Error, partial: &Path) {
        if matches!(error, Error::Cancelled | Error::Input { .. }) {
            return;
        }
        if let Err(error) = partial::remove(partial) {
            self.monitor.warn(&format!("{} could not be removed: {error}", partial.display()));
        }
    }
}

/// Runs of `chunks`, each with its offset in their file: as long as one write may be, and enough of them for every thread.
fn batches(chunks: &[ChunkRef], threads: usize) -> Vec<(u64, &[ChunkRef])> {
    let total: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    let most = (total / (4 * threads.max(1) as u64)).min(WRITE_BYTES);
    let (mut batches, mut offset, mut rest) = (Vec::new(), 0, chunks);
    while let Some(first) = rest.first() {
        let mut len = u64::from(first.len);
        let more = rest.iter().skip(1).take_while(|chunk| {
            let fits = len + u64::from(chunk.len) <= most;
            len += if fits { chunk.len.into() } else { 0 };
            fits
        });
        let (batch, behind) = rest.split_at(1 + more.count());
        batches.push((offset, batch));
        (offset, rest) = (offset + len, behind);
    }
    batches
}

/// The directory that `path` lies in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn refuse_directory(target: &Path) -> Result<()> {
    match target.is_dir() {
        true => Err(input(target, "it is a directory; name the file to restore to")),
        false => Ok(()),
    }
}

fn input(path: &Path, why: &str) -> Error {
    Error::Input { path: path.to_owned(), why: why.to_owned() }
}

/// The header of a safetensors file that holds `segment` alone: eight bytes of length, then JSON padded to a multiple of eight.
fn safetensors_header(segment: &SegmentEntry) -> Result<Vec<u8>> {
    const WORDS: [&str; 15] = [
        "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64",
        "I64",
    ];
    if !WORDS.contains(&segment.dtype.as_str()) && segment.dtype != "U64" {
        return Err(Error::Syntax {
            what: "tensor",
            input: segment.name.clone(),
            why: format!("its element type {:?} has no word in safetensors; take its raw bytes", segment.dtype),
        });
    }
    let description = serde_json::json!({
        "dtype": segment.dtype,
        "shape": segment.shape,
        "data_offsets": [0, segment.span.len],
    });
    let mut header = serde_json::Map::new();
    header.insert(segment.name.clone(), description);
    let mut json = serde_json::Value::Object(header).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_the_chunks_in_order_and_are_no_longer_than_a_write() {
        let chunk = |len: u32| ChunkRef { hash: Hash::of(&len.to_le_bytes()), len };
        let chunks: Vec<ChunkRef> = (1..400).map(|n| chunk(1 + n * 7919 % 300_000)).collect();
        for (chunks, threads) in [(&chunks[..], 1), (&chunks, 2), (&chunks[..5], 2), (&chunks[..1], 8), (&[], 2)] {
            let batches = batches(chunks, threads);
            let joined: Vec<ChunkRef> = batches.iter().flat_map(|(_, batch)| batch.to_vec()).collect();
            assert_eq!(joined, chunks);
            let mut end = 0;
            for (offset, batch) in batches {
                let len: u64 = batch.iter().map(|chunk| u64::from(chunk.len)).sum();
                assert!(offset == end && (len <= WRITE_BYTES || batch.len() == 1));
                end += len;
            }
        }
    }
}
