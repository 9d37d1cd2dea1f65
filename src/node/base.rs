//! Bases: which stored chunk each chunk of a new version faces, and so may be kept as a difference to.
//!
//! Tensors are cut at fixed lengths ([`CutSizes::TENSOR`](crate::split::CutSizes::TENSOR)), so chunk *i* of a tensor faces chunk *i* of the
//! same tensor in an earlier version. The same tensor is one of the same name, dtype and row shape: rows may have been added or removed at
//! its end. It is looked for in the version that the caller names, then in the key's last [`BASE_VERSIONS`] versions, the newest first; so
//! a `.pt` finds the `.pt` before, whatever was put between them. Small tensors are cut in groups; a group faces the one in which its first
//! tensor lies at the same place.
//!
//! What is found is a suggestion: the encoder keeps a difference only where it is clearly smaller, so a wrong base costs time and no bytes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::chunk::{ChunkRef, Span};
use crate::error::{Error, Result};
use crate::hash::Hash;
use crate::manifest::{Content, Manifest, SegmentEntry};
use crate::node::kin::{KIN_BYTES, Kin};
use crate::node::store::Store;
use crate::split::{Layout, Segment};
use crate::store::ChunkReader;

/// How many of a key's last versions may serve as bases.
pub(super) const BASE_VERSIONS: usize = 8;

/// Differences that did not pay, one after another, before only some chunks are tried.
const PATIENCE: u32 = 8;

/// The versions whose chunks a put may use as bases.
pub(super) struct Bases<'s> {
    store: &'s Store,
    /// Manifests that nothing needed yet, the preferred one last.
    waiting: Vec<Hash>,
    versions: Vec<BaseVersion>,
}

struct BaseVersion {
    manifest: Arc<Manifest>,
    /// Where each tensor lies: file and segment. Several files may have one of the same name.
    tensors: HashMap<String, Vec<(usize, SegmentEntry)>>,
}

impl<'s> Bases<'s> {
    /// The versions of `manifests`, the preferred one first. They are read when they are needed.
    pub(super) fn new(store: &'s Store, mut manifests: Vec<Hash>) -> Bases<'s> {
        manifests.dedup();
        manifests.reverse();
        Bases { store, waiting: manifests, versions: Vec::new() }
    }

    /// What the chunks of a file face: the file at `path`, of `len` bytes, with the tensors of `layout`.
    pub(super) fn facing(&mut self, path: &str, layout: &Layout, len: u64) -> Result<Facing> {
        let root = common_root(layout.segments.iter().map(|segment| segment.name.as_str()));
        let mut runs = Vec::new();
        let mut tensors = layout.segments.iter().filter(|segment| segment.tensor && segment.span.len > 0).peekable();
        for run in layout.runs(len) {
            while tensors.next_if(|tensor| tensor.span.offset < run.span.offset).is_some() {}
            let Some(first) = tensors.peek().filter(|tensor| tensor.span.end() <= run.span.end()) else { continue };
            if let Some(chunks) = self.counterparts(path, first, root, run.span)? {
                runs.push(FacingRun { span: run.span, chunks });
            }
        }
        Ok(Facing { runs, ..Facing::default() })
    }

    /// What the chunks of a payload without tensors face: those of the newest earlier file at `path`, where that is not too long.
    pub(super) fn kin(&mut self, path: &str) -> Result<Facing> {
        let chunks = self.plain_file(path, |len| len <= KIN_BYTES)?;
        Ok(Facing { kin: chunks.map(|chunks| Kin::new(self.store.inner.chunks.clone(), chunks)), ..Facing::default() })
    }

    /// The chunks of the newest earlier file at `path` that has no tensors, and of whose length `fits` approves.
    pub(super) fn plain_file(&mut self, path: &str, fits: impl Fn(u64) -> bool) -> Result<Option<Vec<ChunkRef>>> {
        let mut at = 0;
        while at < self.versions.len() || self.load_next()? {
            if let Some(chunks) = self.versions.get(at).and_then(|version| version.plain_file(path, &fits)) {
                return Ok(Some(chunks));
            }
            at += 1;
        }
        Ok(None)
    }

    /// The manifests that were needed so far, the preferred one first.
    pub(super) fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.versions.iter().map(|version| &*version.manifest)
    }

    /// A reader of the bases' bytes.
    pub(super) fn reader(&self) -> ChunkReader {
        self.store.inner.chunks.reader()
    }

    /// The chunks that the run at `span`, whose first tensor is `first`, faces; by their offset in the run.
    fn counterparts(
        &mut self,
        path: &str,
        first: &Segment,
        root: usize,
        span: Span,
    ) -> Result<Option<Vec<(u64, ChunkRef)>>> {
        let mut at = 0;
        loop {
            if at == self.versions.len() && !self.load_next()? {
                return Ok(None);
            }
            if let Some(version) = self.versions.get(at)
                && let Some((file, tensor)) = version.find(path, first, root)
            {
                return Ok(version.chunks(file, tensor, first, span));
            }
            at += 1;
        }
    }

    /// Reads the next manifest that waits; false when there is none. A damaged one is as good as none.
    fn load_next(&mut self) -> Result<bool> {
        while let Some(hash) = self.waiting.pop() {
            match self.store.manifest(&hash) {
                Ok(manifest) => {
                    self.versions.push(BaseVersion::new(manifest));
                    return Ok(true);
                }
                Err(error @ Error::Damaged { .. }) => tracing::warn!("a version cannot serve as a base: {error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl BaseVersion {
    fn new(manifest: Manifest) -> BaseVersion {
        let mut tensors: HashMap<String, Vec<(usize, SegmentEntry)>> = HashMap::new();
        for (index, file) in manifest.files.iter().enumerate() {
            let Some(file) = file.regular() else { continue };
            let root = common_root(file.segments.iter().map(|segment| segment.name.as_str()));
            for segment in file.segments.iter().filter(|segment| segment.tensor) {
                let name = segment.name.get(root..).unwrap_or_default();
                match tensors.entry(name.to_owned()) {
                    Entry::Occupied(mut there) => there.get_mut().push((index, segment.clone())),
                    Entry::Vacant(room) => {
                        room.insert(vec![(index, segment.clone())]);
                    }
                }
            }
        }
        BaseVersion { manifest: Arc::new(manifest), tensors }
    }

    /// The chunks of the file at `path`, or the only one, if it has no segments and a length that fits.
    fn plain_file(&self, path: &str, fits: impl Fn(u64) -> bool) -> Option<Vec<ChunkRef>> {
        let index = match self.manifest.single {
            true => 0,
            false => self.manifest.find_file(path)?.0,
        };
        let file = self.manifest.files.get(index)?.regular()?;
        let plain = fits(file.len) && file.segments.is_empty() && file.content == Content::Chunks;
        plain.then(|| self.manifest.chunks.get(self.manifest.file_chunks(index)).map(<[ChunkRef]>::to_vec))?
    }

    /// The same tensor as `wanted`: in the file of the same path, else in the only one that has it.
    fn find(&self, path: &str, wanted: &Segment, root: usize) -> Option<(usize, &SegmentEntry)> {
        let named = self.tensors.get(wanted.name.get(root..)?)?;
        let alike = |tensor: &SegmentEntry| {
            tensor.dtype == wanted.dtype
                && tensor.shape.len() == wanted.shape.len()
                && tensor.shape.get(1..) == wanted.shape.get(1..)
        };
        let mut candidates = named.iter().filter(|(_, tensor)| alike(tensor));
        let at_path = |file: usize| self.manifest.files.get(file).is_some_and(|entry| entry.path == path);
        let found = match named.as_slice() {
            [_] => candidates.next(),
            _ => candidates.find(|(file, _)| at_path(*file)),
        };
        found.map(|(file, tensor)| (*file, tensor))
    }

    /// The chunks of the run at `span`, by offset in it, when its first tensor `first` is `tensor` of this version.
    fn chunks(&self, file: usize, tensor: &SegmentEntry, first: &Segment, span: Span) -> Option<Vec<(u64, ChunkRef)>> {
        // A group may begin with a small gap before its first tensor.
        let start = tensor.span.offset.checked_sub(first.span.offset - span.offset)?;
        let len = if first.span.len == span.len { tensor.span.len } else { span.len };
        let overlapping = self.manifest.chunks_overlapping(file, Span::new(start, len));
        let inside = overlapping.filter_map(|(index, covered)| {
            let offset = covered.offset.checked_sub(start)?;
            Some((offset, *self.manifest.chunks.get(index)?))
        });
        Some(inside.collect())
    }
}

/// Bytes of the first component that all `names` share, `/` included: a torch archive names its members after the file that it
/// was first saved as.
fn common_root<'n>(mut names: impl Iterator<Item = &'n str>) -> usize {
    let Some(first) = names.next() else { return 0 };
    let Some((root, _)) = first.split_once('/') else { return 0 };
    let shared = names.all(|name| name.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')));
    if shared { root.len() + 1 } else { 0 }
}

/// `chunks`, one after another from the start of a file, each with where it lies.
pub(super) fn placed(chunks: Vec<ChunkRef>) -> Vec<(Span, ChunkRef)> {
    let mut end = 0;
    let place = |chunk: ChunkRef| {
        let span = Span::new(end, chunk.len.into());
        end = span.end();
        (span, chunk)
    };
    chunks.into_iter().map(place).collect()
}

/// What the chunks of one file face.
#[derive(Default)]
pub(super) struct Facing {
    /// By offset.
    runs: Vec<FacingRun>,
    /// What the bytes outside of them come from.
    kin: Option<Kin>,
    /// How many chunks in a row found no difference that pays.
    misses: AtomicU32,
}

struct FacingRun {
    span: Span,
    /// By offset in the run.
    chunks: Vec<(u64, ChunkRef)>,
}

impl Facing {
    /// Each chunk of a payload faces the one of `placed` that lies in its place; they cover it from its start.
    pub(super) fn in_place(placed: Vec<(Span, ChunkRef)>) -> Facing {
        let span = Span::new(0, placed.last().map_or(0, |(span, _)| span.end()));
        let chunks = placed.into_iter().map(|(span, chunk)| (span.offset, chunk)).collect();
        Facing { runs: vec![FacingRun { span, chunks }], ..Facing::default() }
    }

    /// The chunk that `plain`, the one at `span`, faces; where it is worth trying.
    pub(super) fn of(&self, span: Span, plain: &[u8]) -> Option<ChunkRef> {
        let misses = self.misses.load(Ordering::Relaxed);
        if misses >= PATIENCE && !misses.is_multiple_of(PATIENCE) {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.in_place_of(span).or_else(|| self.kin.as_ref()?.of(plain))
    }

    /// The chunk that the one at `span` faces by its place.
    pub(super) fn in_place_of(&self, span: Span) -> Option<ChunkRef> {
        let passed = self.runs.partition_point(|run| run.span.end() <= span.offset);
        let run = self.runs.get(passed)?;
        let offset = span.offset.checked_sub(run.span.offset)?;
        let found = run.chunks.binary_search_by_key(&offset, |(offset, _)| *offset).ok()?;
        run.chunks.get(found).map(|(_, chunk)| *chunk)
    }

    /// Notes whether the difference to a facing chunk was kept. Where differences do not pay, as between the gradients of two rounds,
    /// reading bases is soon left to one chunk in [`PATIENCE`].
    pub(super) fn note(&self, paid: bool) {
        match paid {
            true => self.misses.store(0, Ordering::Relaxed),
            false => {
                self.misses.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_root_is_a_whole_component() {
        assert_eq!(common_root(["run/data/0", "run/data.pkl"].into_iter()), 4);
        assert_eq!(common_root(["run/data/0", "runs/data/1"].into_iter()), 0);
        assert_eq!(common_root(["weight", "run/x"].into_iter()), 0);
        assert_eq!(common_root(std::iter::empty()), 0);
    }

    #[test]
    fn differences_that_never_pay_are_seldom_tried() {
        let chunk = ChunkRef { hash: Hash::of(b"base"), len: 1 };
        let facing = Facing::in_place((0..1000).map(|at| (Span::new(at, 1), chunk)).collect());
        let tried = (0..1000).filter(|&at| facing.of(Span::new(at, 1), b"x").inspect(|_| facing.note(false)).is_some());
        assert_eq!(tried.count(), 8 + 992 / 8);
        facing.note(true);
        assert!((0..100).all(|at| facing.of(Span::new(at, 1), b"x").inspect(|_| facing.note(true)).is_some()));
        assert!(facing.of(Span::new(1000, 1), b"x").is_none());
    }
}
